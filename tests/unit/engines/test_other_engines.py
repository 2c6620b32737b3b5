"""What the engines beside the default one say of recipes, machines and failed starts."""

import sys
from pathlib import Path

import pytest

from optikit_assets.engines import Batching, Engine, EngineServer, Flags, Hardware, get_engine
from optikit_assets.engines.script import read_script, write_script
from optikit_assets.engines.start_failures import classify, root_cause
from optikit_assets.errors import ModelError, ServerStartError, SpecError
from optikit_assets.settings import REPOSITORY
from optikit_assets.specs import EngineSpec, RecipeSpec, SloSpec, load_spec

GIB = 1024**3
CPU = Hardware("cpu", "some processor", 1, 16 * GIB, cores=2)
RECIPES = {
    file.stem: load_spec(file, RecipeSpec)
    for file in sorted((REPOSITORY / "recipes" / "quantization").glob("*.yaml"))
}
TRANSFORMERS, SGLANG = get_engine("transformers"), get_engine("sglang")


def gpu(capability: float | None) -> Hardware:
    return Hardware("cuda", "some GPU", 8, 80 * GIB, capability=capability)


# --- a script as configuration --------------------------------------------------------------------


def test_a_script_gives_back_the_words_that_a_shell_would_read() -> None:
    arguments = ["/models/it's here #1", "--name=a b", "--template={\"x\": '$HOME'}"]
    text = write_script(("some", "server"), arguments, header="don't\n\nworry")
    assert text.startswith("#!/bin/sh\n# don't\n#\n# worry\nexec some server ")
    assert read_script(text, ("some", "server")) == arguments


@pytest.mark.parametrize(
    "flags",
    [
        {"context_length": 4096, "tp_size": 2, "schedule_policy": "lpm"},
        {"context_length": "4k", "mem_fraction_static": 0.85},
        {"disable_radix_cache": True},
        {},
    ],
)
def test_flags_come_back_from_the_command_line_with_their_types(flags: Flags) -> None:
    assert SGLANG.catalog.from_argv(SGLANG.catalog.to_argv(flags)) == flags


def test_a_switch_that_is_off_is_said_where_it_can_be() -> None:
    flags: Flags = {"continuous_batching": False, "compile": True}
    argv = TRANSFORMERS.catalog.to_argv(flags)
    assert argv == ["--no-continuous-batching", "--compile"]
    assert TRANSFORMERS.catalog.from_argv(argv) == flags


def test_a_path_that_the_server_would_read_as_a_revision_is_refused() -> None:
    with pytest.raises(ModelError, match="@ for a revision; move the model"):
        TRANSFORMERS.config_text({}, model="/home/me@work/m", served_model_name="m")


# --- recipes and machines -------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_transformers_serves_what_does_not_ask_for_a_gpu_itself(name: str) -> None:
    recipe, spec = RECIPES[name], EngineSpec(name="transformers")
    refused = TRANSFORMERS.unsupported(recipe, spec, CPU)
    assert (refused is None) is (recipe.requires.accelerator != "cuda")
    note = TRANSFORMERS.fallback(recipe, CPU)
    assert (note is None) is (not recipe.schemes)
    assert all(scheme in (note or "") for scheme in recipe.schemes)


@pytest.mark.parametrize(
    ("recipe", "capability", "refused", "fallback"),
    [
        ("int_w8a8", 9.0, None, None),
        ("int_w8a8", 7.5, "W8A8 needs compute capability 8.0", None),
        ("int_w8a8", 10.0, "no kernel for W8A8 from compute capability 10.0 on", None),
        ("fp8_dynamic", 8.0, None, "computes in FP8_DYNAMIC from 8.9 on"),
        ("fp8_dynamic", 9.0, None, None),
        ("awq_w4a16", 8.0, None, None),
        ("nvfp4", 9.0, "it requires compute capability 10.0", "NVFP4 from 10.0"),
        ("int_w8a8", None, None, None),
    ],
)
def test_sglang_serves_by_compute_capability(
    recipe: str, capability: float | None, refused: str | None, fallback: str | None
) -> None:
    said = SGLANG.unsupported(RECIPES[recipe], EngineSpec(name="sglang"), gpu(capability))
    assert (said is None) is (refused is None)
    assert (refused or "") in (said or "")
    assert (fallback or "") in (SGLANG.fallback(RECIPES[recipe], gpu(capability)) or "")


def test_sglang_takes_the_context_that_the_workload_needs() -> None:
    slo = SloSpec.model_validate(
        {"name": "s", "workload": {"input_tokens": 100, "output_tokens": 100}}
    )
    assert SGLANG.flags(EngineSpec(name="sglang"), slo)["context_length"] == 230
    fixed = EngineSpec(name="sglang", flags={"context_length": 500})
    assert SGLANG.flags(fixed, slo)["context_length"] == 500
    with pytest.raises(ModelError, match="context_length of the model's spec allows 150"):
        SGLANG.flags(EngineSpec(name="sglang", flags={"context_length": 150}), slo)


def test_sglang_occupies_the_product_of_its_parallel_sizes() -> None:
    assert SGLANG.devices({"tp_size": 2, "pp_size": 2, "dp_size": 2}) == 8
    assert SGLANG.devices({}) == 1


def test_how_batches_are_formed_is_read_from_an_engines_own_flags() -> None:
    vllm = get_engine("vllm")
    for engine, whole, alone in (
        (vllm, {"enable_chunked_prefill": False}, {"enable_prefix_caching": False}),
        (SGLANG, {"chunked_prefill_size": -1}, {"disable_radix_cache": True}),
    ):
        assert not engine.batching(whole).cuts_prompts
        assert engine.batching(whole).keeps_prefixes
        assert not engine.batching(alone).keeps_prefixes
        assert engine.batching(alone).cuts_prompts
    assert vllm.batching(vllm.defaults(CPU)) == Batching(128, 2048, block_tokens=128)
    assert SGLANG.batching({"page_size": 64}).block_tokens == 64
    fewer: Flags = {"max_num_seqs": 64, "max_num_active_seqs": 16}
    assert vllm.batching(fewer).most_sequences == 16


def test_a_flag_of_another_engine_is_no_flag_of_this_one() -> None:
    with pytest.raises(SpecError, match="max_num_seqs: transformers serve has no such flag"):
        TRANSFORMERS.flags(EngineSpec(name="transformers", flags={"max_num_seqs": 4}), None)


# --- failed starts --------------------------------------------------------------------------------

# What servers wrote, or for SGLang what its source writes, shortened to the lines that count.
BNB = """\
[transformers] Loading /models/m@main
Traceback (most recent call last):
ImportError: Using `bitsandbytes` 4-bit quantization requires bitsandbytes: `pip install`
"""
FOLDER = """\
Traceback (most recent call last):
huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or …
Traceback (most recent call last):
OSError: Repo id must be in the form 'repo_name' or 'namespace/repo_name': '/no/such/folder'.
"""
OPTION = """\
Usage: python -m transformers.cli.transformers serve [OPTIONS] [FORCE_MODEL]

Error: No such option '--no-such-flag'.
"""
BUDGET = """\
[2026-11-28 08:00:00] Scheduler hit an exception: Traceback (most recent call last):
RuntimeError: Not enough memory. Please try to increase --mem-fraction-static. Current value: 0.1
[2026-11-28 08:00:01] Received sigquit from a child process. It usually means the child failed.
"""
CAPTURE = """\
Exception: Capture cuda graph failed: CUDA out of memory. Tried to allocate 2.00 GiB.
"""
PORT = "ValueError: port at 30000 is not available in 60 seconds. The port 30000 is in use"


@pytest.mark.parametrize(
    ("engine", "log", "reason", "cause"),
    [
        (TRANSFORMERS, BNB, "exited", "ImportError: Using `bitsandbytes` 4-bit"),
        (TRANSFORMERS, FOLDER, "exited", "HFValidationError: Repo id must be in"),
        (TRANSFORMERS, OPTION, "exited", "Error: No such option '--no-such-flag'."),
        (SGLANG, BUDGET, "out_of_memory", "RuntimeError: Not enough memory."),
        (SGLANG, CAPTURE, "out_of_memory", "Exception: Capture cuda graph failed"),
        (SGLANG, PORT, "port_in_use", "ValueError: port at 30000"),
    ],
)
def test_a_failed_start_is_told_by_what_the_log_says(
    engine: Engine, log: str, reason: str, cause: str
) -> None:
    words = engine.log_words
    assert classify(log, 1, words) == reason
    assert root_cause(log, words).startswith(cause)


def test_a_server_that_no_environment_has_says_so(tmp_path: Path) -> None:
    """With the interpreter of the tests, which has no SGLang: a start that fails for real."""
    config = tmp_path / SGLANG.config_file
    config.write_text(SGLANG.config_text({}, model="/models/m", served_model_name="m"))
    server = EngineServer(
        SGLANG, config, log_file=tmp_path / "log", python=sys.executable, timeout_s=60
    )
    with pytest.raises(ServerStartError, match="No module named") as caught, server:
        pass
    assert caught.value.reason == "exited"
