"""Every mistake is one line on stderr and a non-zero exit code."""

import json
import socket
from pathlib import Path

import pytest

from optikit_assets.cli import app as app_module
from tests.tiny_model import write_model
from tests.unit.cli.conftest import Optikit

DEMO = ("--model", "demo-llama", "--slo", "demo")


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# --- names --------------------------------------------------------------------------------------


def test_unknown_model(optikit: Optikit):
    error = optikit("optimize", "--model", "nope", "--slo", "demo").error
    assert error.startswith("unknown model 'nope'; known: demo-llama@1. Add one with")
    assert "optikit models add" in error


def test_unknown_model_version(optikit: Optikit):
    error = optikit("optimize", "--model", "demo-llama@7", "--slo", "demo").error
    assert error.startswith("unknown model version 'demo-llama@7'; known: demo-llama@1")


def test_unknown_recipe(optikit: Optikit):
    error = optikit("optimize", *DEMO, "--recipe", "int_w2a2").error
    assert error.startswith("unknown recipe 'int_w2a2'; known: autoround_w4a16, awq_w4a16, ")


@pytest.mark.parametrize("command", ["optimize", "bench"])
def test_unknown_slo(optikit: Optikit, command: str):
    where = ("--base-url", "http://127.0.0.1:1/v1") if command == "bench" else ()
    error = optikit(command, *where, "--model", "demo-llama", "--slo", "fast").error
    assert error.startswith("unknown SLO 'fast'; known: demo, ")


def test_unknown_engine_behind_an_endpoint(optikit: Optikit):
    where = ("--base-url", "http://127.0.0.1:1/v1", "--model", "m", "--slo", "demo")
    error = optikit("bench", *where, "--engine", "enginex").error
    assert error.startswith("unknown engine 'enginex'; known: sglang, transformers, vllm")


def test_unknown_model_of_status(optikit: Optikit):
    assert optikit("status", "--model", "nope").error.startswith("unknown model 'nope'")


# --- jobs and usage -----------------------------------------------------------------------------


def test_missing_job_file(optikit: Optikit, tmp_path: Path):
    error = optikit("optimize", "--job", tmp_path / "night.yaml").error
    assert error == f"{tmp_path}/night.yaml: cannot be read: No such file or directory"


def test_job_together_with_other_options(optikit: Optikit):
    error = optikit("optimize", "--job", "demo", "--model", "demo-llama").error
    assert (
        error == "--job already names model, flow, SLOs, recipes and pools: give one or the other"
    )


@pytest.mark.parametrize("options", [(), ("--slo", "demo"), ("--flow", "quantize")])
def test_neither_a_job_nor_a_model(optikit: Optikit, options: tuple[str, ...]):
    error = optikit("optimize", *options).error
    assert error == "needs --model, or --job; see optikit optimize --help"


def test_unknown_flow_and_slos_that_do_not_go_with_one(optikit: Optikit):
    model = ("--model", "demo-llama")
    assert optikit("optimize", *model, "--flow", "fast").error == (
        "unknown flow 'fast'; known: benchmark_only, evaluate_only, quantize, "
        "quantize_and_benchmark, quantize_and_tune, tune_only"
    )
    for flow in ("quantize_and_tune", "benchmark_only"):
        assert optikit("optimize", *model, "--flow", flow).error.startswith(
            f"flow {flow} measures under an SLO: name one of demo, "
        )
    assert optikit("optimize", *model, "--flow", "quantize", "--slo", "demo").error == (
        "flow quantize looks at no SLO: leave out demo"
    )


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("flow: fast", "flow: no flow of this name is installed; known: benchmark_only, evaluate"),
        (
            "dataset: rows.jsonl",
            "dataset: unknown key (got 'rows.jsonl'); it is calibration_data of the model",
        ),
        (
            "num_trials: 5",
            "num_trials: unknown key (got 5); it belongs to a recipe (recipes/",
        ),
    ],
)
def test_a_job_cannot_say_what_would_be_filed_under_another_recipe(
    optikit: Optikit, tmp_path: Path, line: str, problem: str
):
    file = tmp_path / "night.yaml"
    file.write_text(f"name: night\nmodel: demo-llama\nslos: [demo]\n{line}\n")
    assert problem in optikit("optimize", "--job", file).error


def test_bad_job_file(optikit: Optikit, tmp_path: Path):
    file = tmp_path / "night.yaml"
    file.write_text("name: night\nmodel: 7\nslo: [demo]\n")
    error = optikit("optimize", "--job", file).error
    assert f"{file}: model: " in error
    assert f"{file}: slo: unknown key" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bench", "--bogus"), "No such option: --bogus (see optikit bench --help)"),
        (("sql",), "Missing argument"),
        (("sql", "SELECT 1", "--format", "xml"), "'xml' is not one of 'table', 'csv', 'json'"),
        (("bench", "--model", "m"), "Missing option"),
        (
            ("bench", "--seed", "-1"),
            "Invalid value for '--seed': Input should be greater than or equal to 0",
        ),
        (
            ("evaluate", "--seed", "-1"),
            "Invalid value for '--seed': Input should be greater than or equal to 0",
        ),
        (
            ("repeatability", "--seed", "-1"),
            "Invalid value for '--seed': Input should be greater than or equal to 0",
        ),
        (("optimise",), "No such command"),
        (("models", "add"), "Missing argument"),
    ],
)
def test_misuse_is_an_error_and_no_traceback(optikit: Optikit, arguments, message):
    ended = optikit(*arguments)
    assert message in ended.error
    assert "--help)" in ended.error
    assert ended.code == 2


@pytest.mark.parametrize(
    ("arguments", "runs", "said"),
    [
        (("optimize", "--model", "m"), "optimize.run_optimize", app_module.KEPT_TEXT),
        (("recertify", "--model", "m", "--slo", "s"), "recertify.run_recertify", "interrupted"),
    ],
)
def test_an_interrupt_says_what_the_same_command_goes_on_from(
    optikit: Optikit, monkeypatch, arguments, runs, said
):
    def interrupted(*given: object, **named: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"optikit_assets.cli.{runs}", interrupted)
    ended = optikit(*arguments)
    assert ended.error == said
    assert ended.code == 130


# --- models -------------------------------------------------------------------------------------


def without_weights(folder: Path) -> str:
    (folder / "model.safetensors").unlink()
    return "safetensors"


def truncated(folder: Path) -> str:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return "model.safetensors"


def pickle_only(folder: Path) -> str:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return "pytorch_model.bin"


BREAKAGES = [without_weights, truncated, pickle_only]


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_model_cannot_be_added(optikit: Optikit, tmp_path: Path, home: Path, breakage):
    folder = write_model(tmp_path / "qwen")
    word = breakage(folder)
    error = optikit("models", "add", folder).error
    assert str(folder) in error
    assert word in error
    assert not (home / "models").exists()


def test_a_missing_folder_cannot_be_added(optikit: Optikit, tmp_path: Path):
    error = optikit("models", "add", tmp_path / "nowhere").error
    assert error == f"model folder {tmp_path}/nowhere does not exist or is not a folder"


def test_a_name_that_cannot_be_a_partition_key_cannot_be_added(optikit: Optikit, tmp_path: Path):
    folder = write_model(tmp_path / "qwen")
    error = optikit("models", "add", folder, "--name", "a|b").error
    assert error.startswith("<argument>: name: 'a|b' may not contain @ | ,")
    assert error.endswith("pass --name")


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_model_that_broke_later_is_refused_by_optimize(optikit: Optikit, home: Path, breakage):
    folder = write_model(home / "models" / "qwen" / "1")
    word = breakage(folder)
    error = optikit("optimize", "--model", "qwen", "--slo", "demo").error
    assert str(folder) in error
    assert word in error


@pytest.mark.slow
def test_a_result_file_that_cannot_be_written_is_refused_before_anything_runs(
    optikit: Optikit, with_instance: Path, tmp_path: Path
):
    error = optikit("optimize", *DEMO, "--json", tmp_path).error
    assert error == f"--json {tmp_path} cannot be written: it is a folder; name another file"


# --- the machine --------------------------------------------------------------------------------


@pytest.mark.slow
def test_missing_environments(optikit: Optikit, with_instance: Path):
    error = optikit("optimize", *DEMO).error
    assert error == (
        f"the compress environment is missing: it has never been installed ("
        f"{with_instance}/envs/compress); "
        "run: make setup"
    )


def test_endpoint_that_is_down(optikit: Optikit):
    url = f"http://127.0.0.1:{closed_port()}/v1"
    error = optikit("bench", "--base-url", url, "--model", "m", "--slo", "demo").error
    assert error.startswith(f"{url}/models cannot be reached (")
    assert "is the server up" in error


def test_a_bad_slo_file_names_every_key_value_and_range(optikit: Optikit, tmp_path: Path):
    file = tmp_path / "fast.yaml"
    file.write_text(
        "name: fast\nworkload: {input_tokens: 0, output_tokens: 5, typo: 1}\n"
        "objectives: [{metric: speed, percentile: 95, max_ms: 5}]\n"
    )
    error = optikit("bench", "--base-url", "http://x/v1", "--model", "m", "--slo", file).error
    assert f"{file}: workload.input_tokens: input should be greater than or equal to 1" in error
    assert f"{file}: workload.typo: unknown key (got 1)" in error
    assert f"{file}: objectives.0.metric: input should be 'e2e_latency', 'ttft'" in error
    assert "(got 'speed')" in error


def test_missing_slo_file(optikit: Optikit, tmp_path: Path):
    file = tmp_path / "fast.yaml"
    error = optikit("bench", "--base-url", "http://x/v1", "--model", "m", "--slo", file).error
    assert error == f"{file}: cannot be read: No such file or directory"


# --- history ------------------------------------------------------------------------------------


def test_sql_without_a_history(optikit: Optikit, home: Path):
    error = optikit("sql", "SELECT 1").error
    assert error.startswith(f"there is no history at {home}/history/")
    assert "optikit optimize" in error


@pytest.mark.slow
def test_sql_that_is_wrong(optikit: Optikit, home: Path):
    from optikit_assets.history import History

    History(home / "history").drain()
    syntax = optikit("sql", "SELEC * FROM table3").error
    assert syntax.startswith("query failed: ")
    assert "SELEC" in syntax
    unknown = optikit("sql", "SELECT * FROM table33").error
    assert "table33" in unknown
    order = optikit("sql", "COPY sweeps TO 'sweeps.csv'").error
    assert order.startswith("query failed: the history is read-only and this is COPY; ask with")
    answer = optikit("sql", "SELECT 1 AS one", "--format", "json")
    assert (answer.code, json.loads(answer.out)) == (0, [{"one": 1}])
