"""The whole pipeline on real libraries, and what re-runs after which edit, counted in workers.

One small job runs once; the tests then go on from its state in the order of the file.
"""

import json
import signal
import subprocess
import time
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from optikit_assets.engines import EngineServer, get_engine
from optikit_assets.settings import REPOSITORY, settings
from tests.integration.workspace import MODEL, Workspace, quick_workspace

pytestmark = [
    pytest.mark.integration,
    pytest.mark.e2e,
    pytest.mark.alone,
    pytest.mark.timeout(1200),
]

FULL_CHAIN = {
    ("compress", f"{MODEL}|int_w8a8"),
    ("evaluate", f"{MODEL}|int_w8a8"),
    ("evaluate", f"{MODEL}|baseline"),
    ("benchmark", f"{MODEL}|int_w8a8@quick"),
    ("benchmark", f"{MODEL}|baseline@quick"),
    ("benchmark", f"{MODEL}|quick"),
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return quick_workspace(tmp_path_factory.mktemp("pipeline"))


def test_ctrl_c_in_a_sweep_leaves_no_process_and_keeps_what_is_finished(
    workspace: Workspace,
) -> None:
    with subprocess.Popen(
        workspace.command("optimize", "--job", "quick"),
        env=workspace.env,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        seen: list[str] = []
        assert process.stdout is not None
        for line in process.stdout:
            seen.append(line)
            if "vLLM up" in line:
                break
        family = psutil.Process(process.pid).children(recursive=True)
        assert any("api_server" in " ".join(p.cmdline()) for p in family), seen
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=90)
    assert process.returncode == 130
    deadline = time.monotonic() + 10
    while any(p.is_running() for p in family) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert [p for p in family if p.is_running()] == []
    assert any(worker == "benchmark" for worker, _ in workspace.started())


def test_the_next_run_goes_on_and_ends_with_a_certified_bundle(workspace: Workspace) -> None:
    before = workspace.started()
    done = workspace.optimize()
    assert done.returncode == 0, done.stdout + done.stderr
    again = workspace.started() - before
    finished = {key for key in before if key[0] != "benchmark"}
    assert not finished & set(again), "a finished compression or evaluation was repeated"
    assert set(workspace.started()) == FULL_CHAIN
    record = json.loads((workspace.bundle / "deployment.json").read_text())
    assert record["status"] == "feasible"
    assert record["certified_rate_rps"] > 0
    assert {arm["name"] for arm in record["arms"].values() if isinstance(arm, dict)} == {
        "baseline",
        "quantization_only",
        "tuning_only",
        "quantization_and_tuning",
    }
    assert (workspace.bundle / "report.html").stat().st_size > 10_000


def test_vllm_starts_from_the_bundle_and_answers(workspace: Workspace, tmp_path: Path) -> None:
    python = settings().envs_home / "envs" / "serve" / "bin" / "python"
    with EngineServer(
        get_engine("vllm"),
        workspace.bundle / "vllm.yaml",
        log_file=tmp_path / "server.log",
        python=python,
        timeout_s=240,
    ) as server:
        answer = httpx.post(
            f"{server.base_url}/completions",
            json={"model": MODEL, "prompt": "Q: Write lemon three times with commas.\nA:"},
            timeout=60,
        )
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] > 0


def test_history_answers_tables_3_and_5(workspace: Workspace) -> None:
    def ask(query: str) -> list[dict[str, object]]:
        done = subprocess.run(
            workspace.command("sql", query, "--format", "json"),
            env=workspace.env,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return json.loads(done.stdout)

    scores = ask("SELECT * FROM table3 WHERE recipe = 'int_w8a8'")
    assert len(scores) == 3
    (arms,) = ask("SELECT * FROM table5_wide")
    assert arms["baseline"] is not None
    assert ask("SELECT count(*) AS n FROM requests")[0]["n"]
    assert ask("SELECT count(*) AS n FROM ladder_rungs WHERE stage = 'sweep'")[0]["n"]
    assert ask("SELECT count(*) AS n FROM sample_outcomes")[0]["n"] == 3 * 20 * 3


def test_running_again_starts_no_worker(workspace: Workspace) -> None:
    before = workspace.started()
    done = workspace.optimize()
    assert done.returncode == 0, done.stdout + done.stderr
    assert workspace.started() == before
    assert "0 partitions run" in done.stdout


def test_an_edit_of_comments_and_order_starts_no_worker(workspace: Workspace) -> None:
    before = workspace.started()
    for file in workspace.recipes.rglob("*.yaml"):
        if file.parent.name == "demo":
            continue
        spec = yaml.safe_load(file.read_text())
        text = yaml.safe_dump(dict(reversed(list(spec.items()))), sort_keys=False)
        file.write_text(f"# a comment\n\n{text}\n# another\n")
    assert workspace.optimize().returncode == 0
    assert workspace.started() == before


def test_a_second_model_version_leaves_the_first_fresh(workspace: Workspace) -> None:
    before = workspace.started()
    subprocess.run(
        workspace.command(
            "models",
            "add",
            str(REPOSITORY / "demo" / "models" / "demo-llama" / "1"),
            "--name",
            "demo-llama",
            "--version",
            "0.9",
        ),
        env=workspace.env,
        cwd=REPOSITORY,
        check=True,
        timeout=60,
    )
    assert workspace.optimize().returncode == 0
    assert workspace.started() == before


def test_an_edit_of_a_recipe_reruns_its_chain_only(workspace: Workspace) -> None:
    before = workspace.started()
    spec = yaml.safe_load((workspace.recipes / "quantization" / "int_w8a8.yaml").read_text())
    smooth, gptq = spec["modifiers"]
    modifiers = [smooth, {**gptq, "dampening_frac": 0.05}]
    workspace.edit("quantization/int_w8a8.yaml", modifiers=modifiers)
    done = workspace.optimize()
    assert done.returncode == 0, done.stdout + done.stderr
    started = workspace.started() - before
    assert set(started) == {key for key in FULL_CHAIN if "baseline" not in key[1]}
    assert started["compress", f"{MODEL}|int_w8a8"] == 1


def test_an_edit_of_the_slo_reruns_its_load_tests_only_and_says_if_none_meets_it(
    workspace: Workspace,
) -> None:
    before = workspace.started()
    impossible = [{"metric": "e2e_latency", "percentile": 95, "max_ms": 0.5}]
    workspace.edit("slos/quick.yaml", objectives=impossible)
    done = workspace.optimize()
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert "no configuration meets SLO quick" in error
    assert "0.5 ms" in error
    started = workspace.started() - before
    assert {worker for worker, _ in started} == {"benchmark"}
    assert set(started) == {
        ("benchmark", f"{MODEL}|int_w8a8@quick"),
        ("benchmark", f"{MODEL}|baseline@quick"),
    }
    record = json.loads((workspace.bundle / "deployment.json").read_text())
    assert record["status"] == "infeasible"
    assert record["closest"]
