"""The evaluate worker's bookkeeping, with numbers in place of a model's answers."""

import contextlib
import hashlib
from pathlib import Path
from typing import Any

import pytest

from optikit_assets.artifacts.store import ArtifactStore
from optikit_assets.errors import EvaluationError
from optikit_assets.specs import EngineSpec
from optikit_assets.workers import evaluate
from optikit_assets.workers.messages import Candidate, EvaluateRequest, Record
from tests.unit.stateval.builders import outcome, suite


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
        request: EvaluateRequest, item: Candidate
    ) -> tuple[contextlib.AbstractContextManager[None], dict[str, Any]]:
        found.append(item.model_path)
        if item.model_path == "damaged":
            raise EvaluationError("vLLM cannot load the checkpoint")
        return contextlib.nullcontext(), {}

    def run_task(*arguments: Any, **options: Any):
        return outcome("sums", [1.0, 0.0])

    monkeypatch.setattr(evaluate.engines, "set_environment", lambda **options: None)
    monkeypatch.setattr(evaluate, "load_tasks", lambda *arguments: [None])
    monkeypatch.setattr(evaluate, "_open_model", open_model)
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
