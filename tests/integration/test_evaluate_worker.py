"""The evaluate worker with the real lm-eval and vLLM, as the stage runner starts it."""

import hashlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from dagster_pipes import encode_param

from optikit_assets.artifacts.store import ArtifactStore
from optikit_assets.specs import SuiteSpec, load_spec
from optikit_assets.stateval.comparison import compare
from optikit_assets.stateval.scores import load_candidate

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "demo" / "models" / "demo-llama" / "1"
SUITE_FILE = ROOT / "recipes" / "evaluations" / "demo.yaml"
LIMIT = 8


def artifact_key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


class Outcome:
    """Exit code and messages of one worker."""

    def __init__(self, returncode: int, messages: Path, log: str) -> None:
        self.returncode, self.log = returncode, log
        lines = messages.read_text(encoding="utf-8").splitlines()
        custom = [m for m in map(json.loads, lines) if m["method"] == "report_custom_message"]
        self.payloads = [message["params"]["payload"] for message in custom]

    def records(self, kind: str) -> list[dict[str, Any]]:
        bodies = [p["body"] for p in self.payloads if p["type"] == "record"]
        return [body["payload"] for body in bodies if body["kind"] == kind]

    def only(self, kind: str) -> dict[str, Any]:
        (body,) = [p["body"] for p in self.payloads if p["type"] == kind]
        return body


def evaluate(folder: Path, request: dict[str, Any]) -> Outcome:
    home = Path(os.environ.get("OPTIKIT_HOME", ROOT / ".optikit"))
    python = home / "envs" / "serve" / "bin" / "python"
    if not python.exists():
        pytest.skip("the serve environment is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    messages = folder / "messages.jsonl"
    messages.touch()
    context = {
        "asset_keys": None,
        "code_version_by_asset_key": None,
        "provenance_by_asset_key": None,
        "partition_key": None,
        "partition_key_range": None,
        "partition_time_window": None,
        "run_id": "test",
        "job_name": None,
        "retry_number": 0,
        "extras": {"request": request},
    }
    # Byte code is kept: compiling vLLM anew costs more than all that is tested here.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment |= {
        "DAGSTER_PIPES_CONTEXT": encode_param({"data": context}),
        "DAGSTER_PIPES_MESSAGES": encode_param({"path": str(messages)}),
        "HF_HOME": str(folder / "huggingface"),
        "PYTHONPATH": str(ROOT),
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    done = subprocess.run(
        [str(python), "-m", "optikit_assets.workers.evaluate"],
        # Not the repository: nothing may depend on the working directory.
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    return Outcome(done.returncode, messages, done.stdout[-3000:] + done.stderr[-6000:])


def demo_suite(limit: int = LIMIT) -> SuiteSpec:
    suite = load_spec(SUITE_FILE, SuiteSpec)
    tasks = tuple(task.model_copy(update={"limit": limit}) for task in suite.tasks)
    return suite.model_copy(update={"tasks": tasks})


def request(store: Path, suite: SuiteSpec, models: dict[int, Path], **more: Any) -> dict[str, Any]:
    return {
        "store_root": str(store),
        "suite": suite.model_dump(mode="json"),
        "task_folder": str(SUITE_FILE.with_suffix("")),
        "candidates": [
            {"trial": t, "model_path": str(path), "artifact_key": artifact_key(store, t)}
            for t, path in models.items()
        ],
        "engine": {"dtype": "bfloat16", "flags": {"enforce_eager": True}},
        **more,
    }


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """Evaluate the demo model twice in one process, with a broken copy in between."""
    folder = tmp_path_factory.mktemp("evaluate")
    broken = folder / "broken"
    shutil.copytree(MODEL, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    store = folder / "store"
    outcome = evaluate(folder, request(store, demo_suite(), {0: MODEL, 1: broken, 2: MODEL}))
    assert outcome.returncode == 0, outcome.log
    return store, outcome


def test_every_candidate_is_scored_on_every_task(evaluated: tuple[Path, Outcome]) -> None:
    store, outcome = evaluated
    assert sorted(outcome.only("result")["finished"]) == ["0", "2"]
    for record in outcome.records("candidate_finished"):
        assert list(record["scores"]) == ["Reasoning", "Instructions", "Safety"]
        assert all(score["n"] == LIMIT for score in record["scores"].values())
        assert record["started_at"] < record["ended_at"]
        assert record["seconds"] > 0
    manifest = ArtifactStore(store).get(artifact_key(store, 0)).manifest
    assert manifest["versions"]["lm-eval"]
    assert manifest["settings"]["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"


def test_broken_candidate_is_reported_and_the_next_one_evaluated(
    evaluated: tuple[Path, Outcome],
) -> None:
    store, outcome = evaluated
    (failure,) = outcome.records("candidate_failed")
    assert failure["trial"] == 1
    assert "vLLM cannot load the checkpoint" in failure["reason"]
    assert outcome.only("result")["failed"]["1"] == failure["reason"]
    assert ArtifactStore(store).find(artifact_key(store, 1)) is None


def test_same_model_gives_the_same_items_and_recovery_one(
    evaluated: tuple[Path, Outcome],
) -> None:
    store, _ = evaluated
    first, second = (
        load_candidate(ArtifactStore(store).get(artifact_key(store, trial)).path, trial)
        for trial in (0, 2)
    )
    answers = [[item.response for task in c.tasks for item in task.items] for c in (first, second)]
    assert answers[0] == answers[1]
    comparison = compare(demo_suite(), first, [second], seed=1, resamples=200)
    assert [task.recovery for task in comparison.representative.tasks] == [1.0, 1.0, 1.0]


def test_finished_candidate_is_not_evaluated_again(
    evaluated: tuple[Path, Outcome], tmp_path: Path
) -> None:
    store, before = evaluated
    again = evaluate(tmp_path, request(store, demo_suite(), {0: MODEL}))
    (record,) = again.records("candidate_finished")
    assert record["reused"]
    earlier = before.records("candidate_finished")[0]
    assert record["scores"] == earlier["scores"]
    assert record["started_at"] == earlier["started_at"]


def test_unknown_task_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    suite = SuiteSpec.model_validate(
        {"name": "s", "tasks": [{"task": "demo_resoning", "metrics": ["exact_match,none"]}]}
    )
    # A model that does not exist: it must not even be looked for.
    outcome = evaluate(tmp_path, request(tmp_path / "store", suite, {0: tmp_path / "nothing"}))
    assert outcome.returncode == 1
    assert "did you mean demo_reasoning" in outcome.only("error")["message"]


def test_item_without_a_needed_field_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "items.jsonl").write_text('{"question": "1+1?"}\n', encoding="utf-8")
    config = {
        "task": "mine",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "items.jsonl"}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"]},
        "metric_list": [{"metric": "exact_match"}],
    }
    (tasks / "mine.yaml").write_text(json.dumps(config), encoding="utf-8")
    suite = SuiteSpec.model_validate(
        {"name": "s", "tasks": [{"task": "mine", "metrics": ["exact_match,none"]}]}
    )
    wanted = request(tmp_path / "store", suite, {0: tmp_path / "nothing"})
    outcome = evaluate(tmp_path, wanted | {"task_folder": str(tasks)})
    assert outcome.returncode == 1
    message = outcome.only("error")["message"]
    assert "task 'mine'" in message
    assert "'answer' is undefined" in message


class _Completions(BaseHTTPRequestHandler):
    """Answers every completion with a refusal, as an OpenAI-compatible server would."""

    def do_GET(self) -> None:
        self._send({"data": [{"id": "served"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert body["model"] == "served"
        assert body["temperature"] == 0
        prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
        choices = [{"index": i, "text": " Sorry, I can't."} for i, _ in enumerate(prompts)]
        self._send({"choices": choices})

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def _send(self, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Completions)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    thread.join(10)
    server.server_close()


def test_endpoint_is_evaluated_without_loading_a_model(tmp_path: Path, endpoint: str) -> None:
    suite = demo_suite()
    safety = suite.model_copy(update={"tasks": suite.tasks[2:]})
    wanted = request(tmp_path / "store", safety, {0: MODEL}, backend="endpoint", base_url=endpoint)
    outcome = evaluate(tmp_path, wanted)
    assert outcome.returncode == 0, outcome.log
    (record,) = outcome.records("candidate_finished")
    rows = (SUITE_FILE.with_suffix("") / "demo_safety.jsonl").read_text(encoding="utf-8")
    targets = [json.loads(line)["target"] for line in rows.splitlines()[:LIMIT]]
    assert record["scores"]["Safety"]["score"] == targets.count("Sorry") / LIMIT


def test_endpoint_that_is_down_is_an_error(tmp_path: Path) -> None:
    wanted = request(
        tmp_path / "store", demo_suite(), {0: MODEL}, backend="endpoint",
        base_url="http://127.0.0.1:9/v1",
    )  # fmt: skip
    outcome = evaluate(tmp_path, wanted)
    assert outcome.returncode == 1
    assert outcome.only("error")["error_class"] == "EndpointError"
