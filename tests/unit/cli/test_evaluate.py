"""`optikit evaluate` and `optikit repeatability`, with a worker that answers by rule."""

import json
import os
import re
import signal
from pathlib import Path

import pandas as pd
import pytest

from optikit_assets.defs.evaluation.jobs import evaluate_endpoint
from optikit_assets.errors import AcceleratorError, StageError
from optikit_assets.execution import Executor
from optikit_assets.headless.materialize import run_job
from optikit_assets.settings import Settings
from optikit_assets.specs import PoolSpec
from optikit_assets.workers.messages import Message
from tests.definitions.world import in_process
from tests.executors import execute_with
from tests.servers.imitation import Behaviour, running
from tests.unit.cli.conftest import Optikit
from tests.unit.cli.test_bench import ENCODED, SECRET, holding
from tests.unit.execution.devices import executor_on, install_environment


@pytest.fixture
def worker(with_instance: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A serve environment that starts the stand-in, whatever module is asked for."""
    install_environment(with_instance, "serve", "tests.unit.cli.evaluation_worker")
    execute_with(monkeypatch, lambda settings, pool: executor_on(settings.home))
    return with_instance


# --- repeatability ------------------------------------------------------------------------------


@pytest.mark.slow
def test_repeatability_shows_table_4_and_keeps_every_run(
    optikit: Optikit, worker: Path, tmp_path: Path
):
    out = tmp_path / "table4.json"
    ended = optikit(
        "repeatability", "--model", "demo-llama", "--times", "3", "--suite", "demo", "--json", out
    )
    assert (ended.code, ended.err) == (0, "")
    scores = pd.Series([1.0, 0.95, 0.9])
    (row, *others) = json.loads(out.read_text())
    assert [other["task"] for other in (row, *others)] == ["Instructions", "Reasoning", "Safety"]
    assert (row["min"], row["max"], row["runs"], row["items"]) == (0.9, 1.0, 3, 20)
    assert row["mean"] == pytest.approx(0.95)
    assert row["std"] == pytest.approx(scores.std(ddof=1))
    assert row["rsd_percent"] == pytest.approx(100 * scores.std(ddof=1) / 0.95)
    assert (row["deterministic"], row["most_changed_responses"]) == (True, 2)
    assert re.search(r"evaluating; about \d+ s left \(3 of 3\)", ended.out)
    asked = optikit(
        "sql",
        "SELECT count(*) AS n, any_value(settings ->> 'deterministic') AS mode, "
        "any_value(versions ->> 'vllm') AS vllm FROM repeatability_runs",
        "--format",
        "json",
    )
    assert json.loads(asked.out) == [{"n": 9, "mode": "true", "vllm": "0"}]


@pytest.mark.slow
def test_repeatability_without_determinism_is_a_series_of_its_own(optikit: Optikit, worker: Path):
    for more in ((), ("--no-deterministic",)):
        assert optikit("repeatability", "--model", "demo-llama", "--times", "2", *more).code == 0
    asked = optikit("sql", "SELECT DISTINCT deterministic FROM table4", "--format", "json")
    assert sorted(row["deterministic"] for row in json.loads(asked.out)) == [False, True]


@pytest.mark.slow
def test_ctrl_c_in_a_run_is_told_as_such(
    optikit: Optikit, worker: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(*asked: object) -> Message:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("Ctrl-C did not reach the run")

    execute_with(monkeypatch, in_process(interrupted))
    ended = optikit("repeatability", "--model", "demo-llama", "--suite", "demo")
    assert (ended.code, ended.error) == (130, "interrupted")


def test_repeatability_of_a_recipe_that_was_never_evaluated(optikit: Optikit, worker: Path):
    error = optikit("repeatability", "--model", "demo-llama", "--recipe", "int_w8a8").error
    assert "eval_scores[demo-llama@1|int_w8a8] has no representative checkpoint" in error
    assert "optikit optimize" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "nope"), "unknown model 'nope'"),
        (("--model", "demo-llama", "--recipe", "int_w2a2"), "unknown recipe 'int_w2a2'"),
        (("--model", "demo-llama", "--suite", "fast"), "unknown evaluation suite 'fast'"),
        (
            ("--model", "demo-llama", "--times", "1"),
            "'--times': Input should be greater than or equal to 2",
        ),
    ],
)
def test_repeatability_refuses_bad_options(optikit: Optikit, options, message):
    assert message in optikit("repeatability", *options).error


def test_repeatability_without_an_environment(optikit: Optikit):
    error = optikit("repeatability", "--model", "demo-llama").error
    assert error.startswith("the serve environment is missing")


# --- evaluate -----------------------------------------------------------------------------------


def elsewhere(settings: Settings, pool: PoolSpec) -> Executor:
    raise AcceleratorError("the nodes are other machines")


@pytest.mark.slow
def test_evaluate_scores_a_running_server_from_this_machine(
    optikit: Optikit, worker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    execute_with(monkeypatch, elsewhere)
    out = tmp_path / "scores.json"
    with running(Behaviour(model="llama")) as server:
        options = ("--base-url", server.base_url, "--model", "llama", "--suite", "demo", "--chat")
        ended = optikit("evaluate", *options, "--json", out)
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(out.read_text())
    assert [task["title"] for task in found["tasks"]] == ["Reasoning", "Instructions", "Safety"]
    assert found["settings"]["chat"] is True
    assert Path(found["artifact"]).is_dir()
    asked = optikit(
        "sql",
        "SELECT model, recipe, task, score, seed FROM evaluation_scores ORDER BY task LIMIT 1",
        "--format",
        "json",
    )
    assert json.loads(asked.out) == [
        {"model": "llama", "recipe": None, "task": "Instructions", "score": 1.0, "seed": 1}
    ]
    # A server is no recipe of a model.
    assert json.loads(optikit("sql", "FROM table3", "--format", "json").out) == []


@pytest.mark.slow
def test_evaluate_takes_a_suite_file_with_its_task_folder(
    optikit: Optikit, worker: Path, tmp_path: Path
):
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\ntasks: [{task: sums, metrics: [acc]}]\n")
    with running(Behaviour(lists_models=False)) as server:
        options = ("--base-url", server.base_url, "--model", "any", "--suite", file)
        assert "sums" in optikit("evaluate", *options).out


def test_evaluate_names_the_models_that_are_served(optikit: Optikit):
    with running(Behaviour(model="llama")) as server:
        options = ("--base-url", server.base_url, "--model", "lama", "--suite", "demo")
        error = optikit("evaluate", *options).error
    assert error == f"{server.base_url}/models does not list 'lama'; it serves: llama"


def test_evaluate_of_a_server_that_is_down(optikit: Optikit):
    url = "http://127.0.0.1:9/v1"
    error = optikit("evaluate", "--base-url", url, "--model", "m", "--suite", "demo").error
    assert error.startswith(f"{url}/models does not list a model (ConnectError")


def test_evaluate_refuses_an_unknown_suite_before_asking_the_server(optikit: Optikit):
    error = optikit("evaluate", "--base-url", "x", "--model", "m", "--suite", "fast").error
    assert error.startswith("unknown evaluation suite 'fast'; known: demo, paper")


@pytest.mark.slow
def test_credentials_of_the_server_reach_the_worker_and_are_kept_nowhere(
    optikit: Optikit, worker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with running(Behaviour(model="llama", credentials=f"ada:{SECRET}")) as server:
        url = server.base_url.replace("://", f"://ada:{SECRET}@")
        options = ("--model", "llama", "--suite", "demo", "--json", tmp_path / "scores.json")
        ended = optikit("evaluate", "--base-url", url, *options)
        assert (ended.code, ended.err) == (0, "")
        monkeypatch.setenv("OPTIKIT_ENDPOINT_CREDENTIALS", "ada:wrong")
        assert "401" in optikit("evaluate", "--base-url", server.base_url, *options).error
    assert os.environ["OPTIKIT_ENDPOINT_CREDENTIALS"] == "ada:wrong"
    assert SECRET not in ended.out
    # Both in the Dagster instance, with its events and run config, and in the artifact.
    files = holding(tmp_path, server.base_url)
    assert any("dagster" in file.parts for file in files)
    assert any("artifacts" in file.parts for file in files)
    assert holding(tmp_path, SECRET) == holding(tmp_path, ENCODED) == []


def test_credentials_in_a_run_config_are_refused(worker: Path):
    url = f"http://ada:{SECRET}@127.0.0.1:9/v1"
    config: dict[str, object] = {"base_url": url, "model": "m", "suite": "demo"}
    with pytest.raises(StageError, match="base_url may not hold a user or password") as caught:
        run_job(evaluate_endpoint, "evaluate_server", config)
    assert "set OPTIKIT_ENDPOINT_CREDENTIALS to USER:PASSWORD" in str(caught.value)
    assert SECRET not in str(caught.value)


# --- --json -------------------------------------------------------------------------------------

EVALUATE = ("evaluate", "--model", "llama", "--suite", "demo")
REPEAT = ("repeatability", "--model", "demo-llama", "--times", "2", "--suite", "demo")


@pytest.mark.parametrize("command", [EVALUATE, REPEAT])
def test_a_result_file_that_cannot_be_written_starts_no_worker(
    optikit: Optikit, worker: Path, tmp_path: Path, command: tuple[str, ...]
):
    with running(Behaviour(model="llama")) as server:
        where = ("--base-url", server.base_url) if command is EVALUATE else ()
        error = optikit(*command, *where, "--json", tmp_path).error
    assert error == f"--json {tmp_path} cannot be written: it is a folder; name another file"
    assert not (worker / "logs" / "workers.jsonl").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", [EVALUATE, REPEAT])
def test_scores_that_cannot_be_written_at_the_end_are_kept_and_found(
    optikit: Optikit, worker: Path, command: tuple[str, ...]
):
    with running(Behaviour(model="llama")) as server:
        where = ("--base-url", server.base_url) if command is EVALUATE else ()
        ended = optikit(*command, *where, "--json", "/dev/full")
    assert ended.error.startswith("/dev/full cannot be written: No space left on device; the resu")
    assert "Instructions" in ended.out
    kept = ended.error.partition(" is kept in ")[2]
    assert kept == "the history: optikit sql 'FROM table4'" or Path(kept).is_dir()


def test_a_tokenizer_that_is_not_there_is_not_overlooked(optikit: Optikit, tmp_path: Path):
    options = ("--base-url", "http://127.0.0.1:9/v1", *EVALUATE[1:], "--tokenizer", tmp_path)
    error = optikit("evaluate", *options).error
    assert error == f"--tokenizer {tmp_path} is not a folder that holds tokenizer.json"
