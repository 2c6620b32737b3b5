"""The evaluate worker's bookkeeping, with numbers in place of a model's answers."""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from optikit_assets.artifacts.store import ArtifactStore
from optikit_assets.errors import AcceleratorError, CompressionError, EvaluationError
from optikit_assets.headless.driver import describe_record
from optikit_assets.optimizer.contamination import CLEAN
from optikit_assets.specs import EngineSpec
from optikit_assets.workers import answering, evaluate
from optikit_assets.workers.messages import (
    BASELINE_TRIAL,
    Candidate,
    EvaluateRequest,
    Record,
)
from tests.unit.stateval.builders import outcome, suite

SET_BY_THE_ENGINE = (
    "TQDM_DISABLE",
    "VLLM_CPU_KVCACHE_SPACE",
    "VLLM_ENABLE_V1_MULTIPROCESSING",
    "VLLM_LOGGING_LEVEL",
    "VLLM_NO_USAGE_STATS",
    "VLLM_RPC_BASE_PATH",
)
QUESTION = "How many people are on the train to the mountains?"
BEYOND_LIMIT = "How many people are on the boat to the islands?"


def key_of(trial: int) -> str:
    return hashlib.sha256(str(trial).encode()).hexdigest()


def request_for(store: Path, *models: str) -> EvaluateRequest:
    return EvaluateRequest(
        store_root=str(store),
        suite=suite("sums"),
        candidates=tuple(
            Candidate(trial=trial, model_path=path, artifact_key=key_of(trial))
            for trial, path in enumerate(models)
        ),
        engine=EngineSpec(),
    )


@pytest.fixture(autouse=True)
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the paths of the models that were opened; ``damaged`` cannot be opened."""
    found: list[str] = []

    def open_model(
        request: EvaluateRequest, item: Candidate, *prepared: Any
    ) -> tuple[contextlib.AbstractContextManager[None], dict[str, Any]]:
        found.append(item.model_path)
        (Path(os.environ["VLLM_RPC_BASE_PATH"]) / "socket").touch()
        if item.model_path == "damaged":
            raise EvaluationError("vLLM cannot load the checkpoint")
        return contextlib.nullcontext(), {}

    def run_task(*arguments: Any, **options: Any):
        return outcome("sums", [1.0, 0.0])

    # The worker's process ends with what it sets; this one goes on.
    for name in SET_BY_THE_ENGINE:
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(evaluate.endpoint, "set_environment", lambda **options: None)
    task = SimpleNamespace(eval_docs=[{"question": QUESTION}, {"question": BEYOND_LIMIT}])
    monkeypatch.setattr(evaluate, "load_tasks", lambda *arguments: [task])
    monkeypatch.setattr(answering, "_in_this_process", open_model)
    monkeypatch.setattr(evaluate, "run_task", run_task)
    return found


def test_no_candidate_is_begun_after_one_that_failed(tmp_path: Path, opened: list[str]) -> None:
    records: list[Record] = []
    models = ("first", "damaged", "third")
    result = evaluate.handle(request_for(tmp_path, *models), records.append)
    assert result.finished == {0: key_of(0)}
    assert result.failed == {1: "vLLM cannot load the checkpoint"}
    assert opened == ["first", "damaged"]
    assert [record.kind for record in records] == [
        *("progress", "candidate_finished"),
        *("progress", "candidate_failed"),
    ]
    store = ArtifactStore(tmp_path)
    assert [store.find(key_of(trial)) is not None for trial in range(3)] == [True, False, False]


def test_the_next_worker_goes_on_where_the_failure_was(tmp_path: Path, opened: list[str]) -> None:
    evaluate.handle(request_for(tmp_path, "first", "damaged", "third"), lambda record: None)
    opened.clear()
    records: list[Record] = []
    result = evaluate.handle(request_for(tmp_path, "first", "healed", "third"), records.append)
    assert result.finished == {trial: key_of(trial) for trial in range(3)}
    assert opened == ["healed", "third"]
    finished = [record.payload for record in records if record.kind == "candidate_finished"]
    assert [payload["reused"] for payload in finished] == [True, False, False]


@pytest.mark.parametrize("model", ["first", "damaged"])
def test_the_sockets_between_the_engines_processes_are_removed(tmp_path: Path, model: str) -> None:
    evaluate.handle(request_for(tmp_path, model), lambda record: None)
    assert not Path(os.environ["VLLM_RPC_BASE_PATH"]).exists()


def test_a_fault_of_the_machine_is_no_failed_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_device(*arguments: Any, **options: Any) -> None:
        try:
            raise RuntimeError("CUDA error: no CUDA-capable device is detected")
        except RuntimeError as error:
            raise EvaluationError("vLLM cannot load the checkpoint") from error

    monkeypatch.setattr(evaluate, "run_task", no_device)
    records: list[Record] = []
    with pytest.raises(AcceleratorError, match="no CUDA-capable device"):
        evaluate.handle(request_for(tmp_path, "first", "second"), records.append)
    assert [record.kind for record in records] == ["progress"]


def test_the_baseline_of_a_comparison_is_called_so(tmp_path: Path) -> None:
    request = request_for(tmp_path, "first")
    baseline = request.candidates[0].model_copy(update={"trial": BASELINE_TRIAL})
    records: list[Record] = []
    evaluate.handle(request.model_copy(update={"candidates": (baseline,)}), records.append)
    assert [describe_record(record) for record in records] == [
        f"evaluating baseline with suite {request.suite.name}",
        "baseline finished",
    ]


def with_calibration(tmp_path: Path, text: str) -> EvaluateRequest:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
    request = request_for(tmp_path / "store", "first")
    (task,) = request.suite.tasks
    limited = request.suite.model_copy(update={"tasks": (task.model_copy(update={"limit": 1}),)})
    return request.model_copy(update={"calibration_data": str(rows), "suite": limited})


def test_a_row_that_holds_an_item_is_refused_before_a_model_is_opened(
    tmp_path: Path, opened: list[str]
) -> None:
    request = with_calibration(tmp_path, f"Q: {QUESTION} A: 35")
    with pytest.raises(CompressionError, match=r"rows\.jsonl, line 1 holds item 0 of sums"):
        evaluate.handle(request, lambda record: None)
    assert opened == []


def test_what_came_of_the_comparison_is_kept_with_the_scores(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    evaluate.handle(with_calibration(tmp_path, BEYOND_LIMIT), lambda record: None)
    assert store.get(key_of(0)).manifest["contamination"] == {"sums": CLEAN}
