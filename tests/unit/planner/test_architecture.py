"""What a configuration says of a model's size, against what the publishers say."""

import pytest

from benchmarks.planner_rows import architectures
from optikit_assets.errors import ModelError
from tests.unit.planner.models import LLAMA_70B, MOE, architecture


# Parameters in billions, in all and active per token, as the models' publishers give them.
@pytest.mark.parametrize(
    ("name", "total", "active"),
    [
        ("meta-llama/Llama-3.1-70B", 70.6, 70.6),
        ("meta-llama/Llama-3.1-8B-Instruct", 8.03, 8.03),
        ("Qwen/Qwen3-32B", 32.8, 32.8),
        ("Qwen/Qwen3-235B-A22B-FP8", 235, 22),
        ("deepseek-ai/DeepSeek-V3", 671, 37),
        ("moonshotai/Kimi-K2.5", 1026, 32),
        ("openai/gpt-oss-120b", 116.8, 5.1),
        ("MiniMaxAI/MiniMax-M2.5", 229, 10),
        ("Mistral-Small-24B-Instruct-2501", 23.6, 23.6),
        ("Qwen2.5-7B-Instruct", 7.6, 7.6),
    ],
)
def test_parameters_are_those_that_the_publisher_gives(
    name: str, total: float, active: float
) -> None:
    model = architectures()[name]
    shared = model.attention_parameters + model.dense_parameters
    every = shared + model.expert_parameters * model.experts + 2 * model.head_parameters
    assert every / 1e9 == pytest.approx(total, rel=0.01)
    used = shared + model.active_expert_parameters + model.head_parameters
    # Publishers count the embedding or not; a token looks up one row of it.
    embedding = model.head_parameters
    assert used / 1e9 <= active * 1.06
    assert (used + embedding) / 1e9 >= active * 0.98


def test_a_window_bounds_what_its_layers_look_at() -> None:
    model = architectures()["openai/gpt-oss-120b"]
    assert model.windowed_share == 0.5
    assert model.seen(100) == 100
    assert model.seen(1128) == (1128 + 128) / 2


@pytest.mark.parametrize(
    ("change", "share"),
    [
        ({"model_type": "gemma2", "num_hidden_layers": 42}, 1 / 2),
        ({"model_type": "gemma3_text", "num_hidden_layers": 48}, 5 / 6),
        # The last layers do not make up a whole pattern.
        ({"model_type": "gemma3_text", "num_hidden_layers": 34}, 29 / 34),
        ({"model_type": "gemma3_text", "sliding_window_pattern": 4}, 3 / 4),
        ({"model_type": "mistral"}, 1),
        ({"model_type": "qwen2"}, 0),
        ({"model_type": "qwen2", "use_sliding_window": False, "layer_types": ["sliding"]}, 0),
    ],
)
def test_layers_that_are_not_listed_follow_the_pattern_of_their_architecture(
    change: dict[str, object], share: float
) -> None:
    config = {**LLAMA_70B, "sliding_window": 4096, **change}
    assert architecture(config).windowed_share == pytest.approx(share)


@pytest.mark.parametrize(
    ("change", "tied"),
    [
        ({"model_type": "gemma2"}, True),
        ({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}}, True),
        ({"model_type": "gemma3_text", "tie_word_embeddings": False}, False),
        ({"model_type": "smollm3"}, True),
        ({"model_type": "qwen2"}, False),
        ({"model_type": "qwen2", "tie_word_embeddings": True}, True),
        # Engines ask the language model's configuration, not the one around it.
        ({"model_type": "mistral3", "text_config": {"model_type": "mistral"}}, False),
    ],
)
def test_one_matrix_may_be_embedding_and_output_layer(
    change: dict[str, object], tied: bool
) -> None:
    assert architecture({**LLAMA_70B, **change}).tied is tied


def test_a_precision_of_its_own_is_read_where_a_multimodal_model_nests_it() -> None:
    nested = {**LLAMA_70B, "quantization_config": {"quant_method": "fp8"}}
    assert architecture({"model_type": "llava", "text_config": nested}).own_precision == "fp8"


def test_a_step_over_many_tokens_touches_every_expert_and_one_over_one_its_own() -> None:
    model = architecture(MOE)
    assert model.experts_touched(1) == pytest.approx(8)
    assert model.experts_touched(10_000) == pytest.approx(128)
    assert architecture(LLAMA_70B).experts_touched(5) == 0


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"model_type": "mamba9"}, "the planner does not know the architecture 'mamba9'"),
        ({"model_type": None}, "does not know the architecture 'without a name'"),
        ({"vocab_size": None}, "vocab_size must be a number to plan with, not None"),
        ({"intermediate_size": "wide"}, "intermediate_size must be a number to plan with, not"),
        ({"num_attention_heads": None}, "num_attention_heads"),
    ],
)
def test_what_is_not_known_or_missing_is_one_line(change: dict[str, object], problem: str) -> None:
    with pytest.raises(ModelError) as caught:
        architecture({**LLAMA_70B, **change})
    assert problem in str(caught.value)
    assert str(caught.value).startswith("config.json: ")
    assert "\n" not in str(caught.value)
