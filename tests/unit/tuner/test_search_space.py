import optuna
import pytest

from optikit_assets.engines import Hardware, ModelFacts
from optikit_assets.errors import SpecError, TuningError
from optikit_assets.settings import REPOSITORY
from optikit_assets.specs import Choices, EngineSpec, SearchSpaceSpec, load_spec
from optikit_assets.tuner import build, check

SEQS = {"max_num_seqs": {"low": 1, "high": 4096, "log": True}}
TP = {"tensor_parallel_size": {"choices": [1, 2, 4, 8]}}
FACTS = ModelFacts(10 * 1024**3, layers=32, attention_heads=12, kv_heads=4, head_dim=64)


@pytest.mark.parametrize("name", ["default", "demo"])
def test_shipped_search_spaces_name_real_flags(name):
    file = REPOSITORY / "recipes" / "search_spaces" / f"{name}.yaml"
    space = load_spec(file, SearchSpaceSpec)
    check(space, EngineSpec())
    assert space.parameters
    unreal = {f"{flag}_of_another_engine": domain for flag, domain in space.parameters.items()}
    with pytest.raises(SpecError) as caught:
        check(space.model_copy(update={"parameters": unreal}), EngineSpec())
    assert len(caught.value.problems) == len(unreal)


def test_every_problem_of_a_space_is_reported(space_of):
    space = space_of(
        {
            "max_num_sequences": {"low": 1, "high": 2},
            "kv_cache_dtype": {"choices": ["fp8"]},
            "max_num_seqs": {"choices": [1, "two"]},
            "performance_mode": {"choices": ["fast", "balanced"]},
        }
    )
    with pytest.raises(SpecError) as caught:
        check(space, EngineSpec())
    text = str(caught.value)
    assert "recipes/search_spaces/s.yaml: parameters.max_num_sequences" in text
    assert "parameters.kv_cache_dtype: may not be searched" in text
    assert "parameters.max_num_seqs: 'two' is not an integer" in text
    assert "parameters.performance_mode: 'fast' is not one of balanced" in text


def test_a_space_of_another_engine_is_refused(space_of):
    other = space_of(SEQS).model_copy(update={"engine": "another"})
    with pytest.raises(SpecError, match=r"engine: its flags are those of another, but .* vllm"):
        check(other, EngineSpec())


def test_flags_of_gpus_are_left_out_on_a_cpu_with_a_note(space_of, cpu):
    bounded = build(space_of(SEQS | TP), cpu)
    assert set(bounded.domains) == {"max_num_seqs"}
    assert bounded.notes == ("tensor_parallel_size: not searched, it has no meaning on a CPU",)


def test_tensor_parallelism_is_bounded_by_gpus_and_heads(space_of, four_gpus):
    bounded = build(space_of(TP), four_gpus, facts=FACTS, max_model_len=100)
    assert bounded.domains == {"tensor_parallel_size": Choices(choices=(1, 2, 4))}
    assert bounded.notes == ("tensor_parallel_size: left out 8 (only 4 accelerators)",)


def test_heads_that_do_not_divide_are_named(space_of, four_gpus):
    odd = ModelFacts(1, layers=1, attention_heads=14, kv_heads=2, head_dim=64)
    bounded = build(space_of(TP), four_gpus, facts=odd, max_model_len=100)
    assert bounded.domains == {"tensor_parallel_size": Choices(choices=(1, 2))}
    assert "4 (does not divide 14 heads, 2 kv heads)" in bounded.notes[0]


def test_sizes_on_which_the_model_cannot_fit_are_left_out(space_of, four_gpus):
    big = ModelFacts(40 * 1024**3, layers=32, attention_heads=12, kv_heads=4, head_dim=64)
    bounded = build(space_of(TP), four_gpus, facts=big, max_model_len=100)
    assert bounded.domains == {"tensor_parallel_size": Choices(choices=(2, 4))}
    huge = ModelFacts(400 * 1024**3, layers=32, attention_heads=12, kv_heads=4, head_dim=64)
    with pytest.raises(TuningError, match=r"no value is left: 1 \(needs at least"):
        build(space_of(TP), four_gpus, facts=huge, max_model_len=100)


def test_one_gpu_leaves_a_constant(space_of):
    one = Hardware("cuda", "x", 1, 80 * 1024**3)
    bounded = build(space_of(SEQS | TP), one)
    assert bounded.constants == {"tensor_parallel_size": 1}


def test_what_the_models_spec_fixes_is_not_searched(space_of, cpu):
    bounded = build(space_of(SEQS), cpu, engine=EngineSpec(flags={"max_num_seqs": 4}))
    assert bounded.domains == {}
    assert bounded.notes == ("max_num_seqs: not searched, the model's spec fixes it to 4",)


def test_devices_that_the_models_spec_takes_already_count(space_of, four_gpus):
    spec = EngineSpec(flags={"pipeline_parallel_size": 2})
    bounded = build(space_of(TP), four_gpus, engine=spec)
    assert bounded.domains == {"tensor_parallel_size": Choices(choices=(1, 2))}
    (note,) = bounded.notes
    assert "4 (needs 8, only 4 accelerators); 8 (needs 16, only 4 accelerators)" in note
    assert bounded.accelerators({"tensor_parallel_size": 2}) == 4


def test_drawn_points_satisfy_the_engines_constraints(space_of, cpu):
    space = build(
        space_of(SEQS | {"max_num_batched_tokens": {"low": 32, "high": 8192, "log": True}}), cpu
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    drawn = [space.suggest(study.ask()) for _ in range(200)]
    assert all(flags["max_num_seqs"] <= flags["max_num_batched_tokens"] for flags in drawn)
    assert len({tuple(flags.values()) for flags in drawn}) > 100


def test_the_engines_default_is_a_point_of_the_space_when_it_lies_inside(space_of, cpu):
    assert build(space_of(SEQS), cpu).default_point() == {"max_num_seqs": 128}
    narrow = {"max_num_seqs": {"low": 1, "high": 64}}
    assert build(space_of(narrow), cpu).default_point() is None
    unknown = {"block_size": {"choices": [16, 32]}, **SEQS}
    assert build(space_of(unknown), cpu).default_point() is None


def test_setting_a_flag_to_its_default_changes_nothing(space_of, cpu):
    space = build(space_of(SEQS), cpu)
    assert space.effective({"max_num_seqs": 128}) == space.effective({})
    assert space.effective({"max_num_seqs": 64}) != space.effective({})


def test_a_conditional_parameter_is_drawn_only_where_it_applies(space_of, cpu):
    space = space_of(
        SEQS
        | {
            "block_size": {"choices": [16, 32], "when": {"enforce_eager": [True]}},
            "enforce_eager": {"choices": [False, True]},
        }
    )
    bounded = build(space, cpu)
    assert list(bounded.domains) == ["enforce_eager", "max_num_seqs", "block_size"]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    drawn = [bounded.suggest(study.ask()) for _ in range(20)]
    assert {flags["enforce_eager"] for flags in drawn} == {False, True}
    assert all(("block_size" in flags) == flags["enforce_eager"] for flags in drawn)


def test_null_leaves_a_flag_at_the_engines_default(space_of, cpu):
    bounded = build(space_of({"block_size": {"choices": [None, 32]}}), cpu)
    assert bounded.flags_of({"block_size": None}) == {}
    assert bounded.point_of({}) == {"block_size": None}
    assert bounded.point_of({"block_size": 32}) == {"block_size": 32}
    assert bounded.point_of({"block_size": 64}) is None


def test_points_are_refused_with_the_constraint_that_they_break(space_of, four_gpus):
    space = space_of(
        {"tensor_parallel_size": {"choices": [1, 2, 4]}, "data_parallel_size": {"choices": [1, 4]}},
        constraints=["data_parallel_size * 2 <= 4"],
    )
    bounded = build(space, four_gpus, facts=FACTS, max_model_len=100)
    assert bounded.refusal({"data_parallel_size": 4}) == "breaks data_parallel_size * 2 <= 4"
    # Not searched, but at its default it counts.
    assert bounded.refusal({"tensor_parallel_size": 4}) == ""
    free = build(space.model_copy(update={"constraints": ()}), four_gpus, facts=FACTS)
    too_many = {"tensor_parallel_size": 2, "data_parallel_size": 4}
    assert free.refusal(too_many) == "needs 8 accelerators, there are 4"


def test_a_constraint_on_an_unknown_flag_is_a_problem_of_the_space(space_of):
    space = space_of(SEQS, constraints=["max_num_seqs <= max_num_sequences"])
    with pytest.raises(SpecError, match="vLLM has no flag max_num_sequences"):
        check(space, EngineSpec())


def test_guessing_the_next_words_is_not_searched_with_made_up_prompts(space_of, cpu):
    guess = {"speculative_config": {"choices": [None, '{"method": "ngram"}']}}
    assert "speculative_config" in build(space_of(SEQS | guess), cpu).domains
    made_up = build(space_of(SEQS | guess), cpu, made_up_prompts=True)
    assert "speculative_config" not in made_up.domains
    assert "prompts are made up" in made_up.notes[0]
