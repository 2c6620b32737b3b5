import dataclasses
import sys
from types import ModuleType
from typing import Any

import pytest
import yaml

from optikit_assets.engines import Hardware, ModelFacts, get_engine
from optikit_assets.errors import ModelError, SpecError
from optikit_assets.specs import EngineSpec, SloSpec, SuiteSpec

VLLM = get_engine("vllm")
engine_flags, max_model_len, repair = VLLM.flags, VLLM.context_length, VLLM.repair
check_flag, check_searchable = VLLM.catalog.check, VLLM.catalog.check_searchable
GIB = 1024**3
CPU = Hardware("cpu", "some processor", 1, 16 * GIB, cores=2, features=("avx512f",))
H100 = Hardware("cuda", "NVIDIA H100 80GB HBM3", 4, 80 * GIB, driver="580", devices=("0", "1"))
SMALL = ModelFacts(
    weights_bytes=4_000_000,
    layers=4,
    attention_heads=6,
    kv_heads=6,
    head_dim=32,
    max_positions=512,
)


def slo(input_tokens: object = 100, output_tokens: object = 40, **keys: object) -> SloSpec:
    return SloSpec.model_validate(
        {
            "name": "chat",
            "workload": {"input_tokens": input_tokens, "output_tokens": output_tokens, **keys},
        }
    )


@pytest.mark.parametrize(
    ("input_tokens", "output_tokens", "expected"),
    # ceil(1.15 n) by hand; in floating point 1.15 * 100 is 114.99… and 1.15 * 140 is 161.00…
    [(60, 40, 115), (100, 40, 161), (1200, 80, 1472), (1, 1, 3)],
)
def test_context_is_the_workload_times_1_15_rounded_up(input_tokens, output_tokens, expected):
    assert max_model_len(EngineSpec(), slo(input_tokens, output_tokens)) == expected


def test_context_is_made_for_the_longest_request():
    inputs = {"distribution": "uniform", "min": 10, "max": 60}
    outputs = {"distribution": "lognormal", "mean": 20, "std": 5, "max": 40}
    assert max_model_len(EngineSpec(), slo(inputs, outputs)) == 115


def test_prompts_of_unknown_length_get_the_whole_context(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a", "output_tokens": 90}\n{"prompt": "b"}\n', encoding="utf-8")
    unknown = slo(None, 40, prompts=str(file))
    assert max_model_len(EngineSpec(), unknown, SMALL) == 512
    assert max_model_len(EngineSpec(flags={"max_model_len": 120}), unknown, SMALL) == 120
    assert max_model_len(EngineSpec(), slo(10, 40, prompts=str(file))) == 115
    with pytest.raises(ModelError, match="set input_tokens to the longest prompt's"):
        max_model_len(EngineSpec(), unknown)


def test_context_never_exceeds_what_the_model_knows():
    assert max_model_len(EngineSpec(), slo(400, 100), SMALL) == 512


def test_a_workload_longer_than_the_model_is_refused_before_any_server_starts():
    with pytest.raises(ModelError, match=r"chat: .*= 600, but the model allows 512"):
        max_model_len(EngineSpec(), slo(500, 100), SMALL)


def test_a_workload_longer_than_the_specs_own_limit_names_the_spec():
    engine = EngineSpec(flags={"max_model_len": 120})
    with pytest.raises(ModelError, match=r"engine\.flags\.max_model_len"):
        max_model_len(engine, slo())


def test_tuned_values_win_over_the_models_flags_and_those_over_computed_ones():
    engine = EngineSpec(
        dtype="bfloat16", flags={"max_num_seqs": 64, "enforce_eager": True, "max_model_len": 256}
    )
    flags = engine_flags(engine, slo(), {"max_num_seqs": 16}, hardware=H100, facts=SMALL)
    assert flags == {
        "disable_uvicorn_access_log": True,
        "dtype": "bfloat16",
        "enforce_eager": True,
        "max_model_len": 256,
        "max_num_seqs": 16,
    }


def test_defaults_leave_everything_but_the_context_to_the_engine_on_a_gpu():
    flags = engine_flags(EngineSpec(), slo(), hardware=H100, facts=SMALL)
    assert flags == {"disable_uvicorn_access_log": True, "max_model_len": 161}


def test_gpu_flags_are_left_out_on_a_cpu_and_the_cache_is_sized():
    flags = engine_flags(
        EngineSpec(flags={"gpu_memory_utilization": 0.8, "async_scheduling": True}),
        slo(),
        {"tensor_parallel_size": 4, "max_num_seqs": 8},
        hardware=CPU,
        facts=SMALL,
    )
    assert flags == {
        "disable_uvicorn_access_log": True,
        "kv_cache_memory_bytes": 256 * 1024**2,
        "max_model_len": 161,
        "max_num_seqs": 8,
    }


def test_remote_code_is_trusted_only_when_asked():
    assert "trust_remote_code" not in engine_flags(EngineSpec(), slo())
    assert engine_flags(EngineSpec(), slo(), trust_remote_code=True)["trust_remote_code"] is True


def test_unknown_and_ill_typed_flags_are_reported_together():
    engine = EngineSpec(
        flags={"max_num_sequences": 4, "max_num_seqs": "many", "port": 1, "enforce_eager": 1}
    )
    with pytest.raises(SpecError) as caught:
        engine_flags(engine, slo())
    text = str(caught.value)
    assert "max_num_sequences: vLLM has no such flag; did you mean max_num_seqs?" in text
    assert "max_num_seqs: 'many' is not an integer" in text
    assert "port: is set by OptiKIT" in text
    assert "enforce_eager: 1 is not true or false" in text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"max_num_seqs": 1024, "max_num_batched_tokens": 512},
            {"max_num_seqs": 512, "max_num_batched_tokens": 512},
        ),
        # The default of a CPU is 2048 tokens per step.
        ({"max_num_seqs": 4096}, {"max_num_seqs": 2048}),
        ({"max_num_batched_tokens": 64}, {"max_num_batched_tokens": 64, "max_num_seqs": 64}),
        (
            {"enable_chunked_prefill": False, "max_model_len": 3000},
            {
                "enable_chunked_prefill": False,
                "max_model_len": 3000,
                "max_num_batched_tokens": 3000,
            },
        ),
        (
            {"long_prefill_token_threshold": 4096, "max_model_len": 512},
            {"long_prefill_token_threshold": 512, "max_model_len": 512},
        ),
        (
            {"max_num_seqs": 8, "max_num_active_seqs": 16},
            {"max_num_seqs": 8, "max_num_active_seqs": 8},
        ),
        ({"max_num_seqs": 16}, {"max_num_seqs": 16}),
    ],
)
def test_constraints_between_flags_are_repaired(given, expected):
    assert repair(given, CPU) == expected


@pytest.mark.parametrize(
    ("guesses", "both"),
    [
        ('{"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4}', False),
        ('{"model": "ngram", "num_speculative_tokens": 4}', False),
        ('{"method": "suffix"}', False),
        ('{"method": "mtp", "disable_padded_drafter_batch": true}', False),
        ('{"method": "mtp", "num_speculative_tokens": 1}', True),
        ('{"method": "ngram_gpu", "num_speculative_tokens": 4}', True),
        ('{"model": "org/draft", "num_speculative_tokens": 4}', True),
        ("no JSON", True),
    ],
)
def test_scheduling_is_asynchronous_where_guesses_allow_it(guesses, both):
    flags = {"async_scheduling": True, "speculative_config": guesses}
    assert repair(flags, H100) == (flags if both else {"speculative_config": guesses})
    in_step = {**flags, "async_scheduling": False}
    assert repair(in_step, H100) == in_step


def test_command_line_spells_switches_and_values():
    flags = {
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "max_num_seqs": 8,
        "disable_log_stats": False,
        "long_prefill_token_threshold": -1,
    }
    assert VLLM.catalog.to_argv(flags) == [
        "--enforce-eager",
        "--no-enable-prefix-caching",
        "--max-num-seqs=8",
        "--long-prefill-token-threshold=-1",
    ]


def test_config_file_round_trips_and_leaves_host_and_port_open():
    flags = {"enforce_eager": True, "enable_prefix_caching": False, "max_num_seqs": 8}
    text = VLLM.config_text(
        flags, model="models/m/1", served_model_name="m@1", header="made\nby hand"
    )
    assert VLLM.config_flags(text) == flags
    content = yaml.safe_load(text)
    assert content["model"] == "models/m/1"
    assert content["served-model-name"] == "m@1"
    assert not {"host", "port"} & set(content)
    # `vllm serve` drops a false switch silently, by whichever spelling.
    assert content["no-enable-prefix-caching"] is True
    assert False not in content.values()
    assert not [key for key in content if "_" in key]
    assert text.startswith("# made\n# by hand\n")


def test_a_config_file_of_an_earlier_release_is_read():
    assert VLLM.config_flags("enable-prefix-caching: false\n") == {"enable_prefix_caching": False}


def test_a_call_from_python_takes_objects_where_a_command_line_takes_their_text():
    flags = {
        "limit_mm_per_prompt": '{"image": 2}',
        "speculative_config": ' {"method": "ngram"}',
        # No objects: of another type, a word, what is no JSON, and what an engine says so of.
        "chat_template": "{",
        "moe_backend": "auto",
        "max_num_seqs": 8,
        "hf_overrides": "{'rope_theta': 1}",
    }
    assert VLLM.catalog.to_arguments(flags) == {
        **flags,
        "limit_mm_per_prompt": {"image": 2},
        "speculative_config": {"method": "ngram"},
    }


def test_an_evaluation_has_one_copy_of_a_model_and_its_objects(monkeypatch):
    fields = [("dtype", str), ("hf_overrides", str), ("data_parallel_size", int)]
    there: Any = ModuleType("vllm.engine.arg_utils")
    there.EngineArgs = dataclasses.make_dataclass("EngineArgs", fields)
    monkeypatch.setitem(sys.modules, there.__name__, there)
    flags = {"data_parallel_size": 2, "port_of_a_server": 1, "hf_overrides": '{"rope_theta": 1}'}
    spec = EngineSpec(flags=flags)
    suite = SuiteSpec.model_validate(
        {"name": "s", "tasks": ({"task": "t", "metrics": ("acc,none",)},)}
    )
    found = VLLM.offline.arguments(suite, spec, "m", seed=1, trust_remote_code=False)
    assert found["hf_overrides"] == {"rope_theta": 1}
    assert not {"data_parallel_size", "port_of_a_server"} & found.keys()
    assert VLLM.accelerators(spec, VLLM.evaluated_with, H100) == 1
    assert VLLM.accelerators(spec, {}, H100) == 2


def test_gpus_multiply_over_kinds_of_parallelism():
    assert VLLM.devices({}) == 1
    assert VLLM.devices({"tensor_parallel_size": 4, "data_parallel_size": 2}) == 8


def test_flags_of_the_model_count_for_the_lease_and_a_cpu_is_one():
    engine = EngineSpec(flags={"tensor_parallel_size": 2})
    assert VLLM.accelerators(engine, {"data_parallel_size": 2}, H100) == 4
    assert VLLM.accelerators(engine, {}, CPU) == 1


def test_catalog_knows_the_flags_of_the_shipped_search_spaces():
    assert {"max_num_seqs", "max_num_batched_tokens", "stream_interval"} <= set(VLLM.catalog.flags)


@pytest.mark.parametrize("name", ["kv_cache_dtype", "dtype", "max_num_queued_reqs"])
def test_flags_that_change_answers_or_reject_requests_may_not_be_searched(name):
    assert "may not be searched" in check_searchable(name, (1,))[0]


def test_choices_of_the_engine_are_enforced():
    assert check_flag("performance_mode", "throughput") == ""
    assert "balanced" in check_flag("performance_mode", "fast")


def test_defaults_are_those_of_the_engine_and_follow_the_device():
    on_gpu, on_cpu = VLLM.defaults(H100), VLLM.defaults(CPU)
    assert on_gpu["enable_prefix_caching"] is True
    assert (on_gpu["max_num_seqs"], on_cpu["max_num_seqs"]) == (1024, 128)
    assert "block_size" not in on_gpu
    assert on_cpu["block_size"] == 128
