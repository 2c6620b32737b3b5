"""The evaluate worker's bookkeeping, with numbers in place of what lm-eval makes of a model."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from optikit_assets.artifacts import LocalStore, Reference
from optikit_assets.errors import (
    AcceleratorError,
    CompressionError,
    EvaluationError,
    MachineError,
)
from optikit_assets.headless.driver import describe_record
from optikit_assets.optimizer.contamination import CLEAN
from optikit_assets.specs import EngineSpec
from optikit_assets.stateval.scores import EvaluatedCandidate, load_candidate
from optikit_assets.workers.evaluate import Open, TaskFiles, handle
from optikit_assets.workers.messages import (
    BASELINE_TRIAL,
    Candidate,
    EvaluateRequest,
    EvaluateResult,
)
from optikit_assets.workers.parts import Parts
from optikit_assets.workers.records import (
    CandidateFailed,
    CandidateFinished,
    Progress,
    Record,
)
from tests.references import refer
from tests.unit.stateval.builders import candidate as scored
from tests.unit.stateval.builders import suite

QUESTION = "How many people are on the train to the mountains?"
BEYOND_LIMIT = "How many people are on the boat to the islands?"


def key_of(trial: int) -> str:
    return hashlib.sha256(str(trial).encode()).hexdigest()


def named(model: str) -> Reference:
    return Reference(kind="artifact", where=model, sha256=None, what=model)


def request_for(store: Path, *models: str) -> EvaluateRequest:
    return EvaluateRequest(
        store=store.as_uri(),
        suite=suite("sums"),
        candidates=tuple(
            Candidate(trial=trial, model=named(path), artifact_key=key_of(trial))
            for trial, path in enumerate(models)
        ),
        engine=EngineSpec(),
    )


class Numbers:
    """Scores every model alike; ``damaged`` cannot be opened, nor can any with a `fault`."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.fault = fault
        self.opened: list[str] = []

    def load(self, request: EvaluateRequest, folder: Path | None, files: TaskFiles) -> list[Any]:
        return [SimpleNamespace(eval_docs=[{"question": QUESTION}, {"question": BEYOND_LIMIT}])]

    def score(
        self,
        request: EvaluateRequest,
        candidate: Candidate,
        suite_tasks: list[Any],
        opened: Open,
        parts: Parts,
    ) -> EvaluatedCandidate:
        self.opened.append(candidate.model.where)
        (Path(os.environ["VLLM_RPC_BASE_PATH"]) / "socket").touch()
        error = EvaluationError("the engine cannot load the checkpoint")
        if self.fault or candidate.model.where == "damaged":
            raise error from self.fault
        scores = scored(candidate.trial, {"sums": [1.0, 0.0]}, settings={"load_seconds": 3.0})
        return scores.model_copy(update={"suite": request.suite.name})


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Undo what the worker sets: its process ends with it, this one goes on."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def evaluated(request: EvaluateRequest, harness: Numbers) -> tuple[EvaluateResult, list[Record]]:
    records: list[Record] = []
    return handle(request, records.append, harness=harness), records


def test_no_candidate_is_begun_after_one_that_failed(tmp_path: Path) -> None:
    harness = Numbers()
    result, records = evaluated(request_for(tmp_path, "first", "damaged", "third"), harness)
    assert result.finished == {0: key_of(0)}
    assert result.failed == {1: "the engine cannot load the checkpoint"}
    assert harness.opened == ["first", "damaged"]
    assert [type(record) for record in records] == [
        *(Progress, CandidateFinished),
        *(Progress, CandidateFailed),
    ]
    store = LocalStore(tmp_path)
    assert [store.find(key_of(trial)) is not None for trial in range(3)] == [True, False, False]


def test_a_suite_that_cannot_be_had_now_is_no_failure_of_a_candidate(tmp_path: Path) -> None:
    """Else the candidates that came first would be all that is ever compared."""

    class Away(Numbers):
        def load(
            self, request: EvaluateRequest, folder: Path | None, files: TaskFiles
        ) -> list[Any]:
            raise EvaluationError("judge http://judge/v1 gave no verdict: ConnectError")

    with pytest.raises(MachineError, match="gave no verdict: ConnectError"):
        evaluated(request_for(tmp_path, "first", "second"), Away())


def test_the_next_worker_goes_on_where_the_failure_was(tmp_path: Path) -> None:
    _, before = evaluated(request_for(tmp_path, "first", "damaged", "third"), Numbers())
    harness = Numbers()
    result, records = evaluated(request_for(tmp_path, "first", "healed", "third"), harness)
    assert result.finished == {trial: key_of(trial) for trial in range(3)}
    assert harness.opened == ["healed", "third"]
    finished = [record for record in records if isinstance(record, CandidateFinished)]
    assert [record.reused for record in finished] == [True, False, False]
    # With the times at which they were made.
    (made,) = (record for record in before if isinstance(record, CandidateFinished))
    assert finished[0] == made.model_copy(update={"reused": True})


def test_scores_are_kept_with_what_they_hold_for(tmp_path: Path) -> None:
    request = request_for(tmp_path, "first")
    evaluated(request, Numbers())
    artifact = LocalStore(tmp_path).get(key_of(0))
    assert load_candidate(artifact.folder(), 0).scores() == {"sums": 0.5}
    assert artifact.manifest["suite_digest"] == request.suite.digest()
    assert artifact.manifest["model"] == "first"
    # How long the model took to load decides nothing.
    assert artifact.manifest["settings"] == {}


@pytest.mark.parametrize("model", ["first", "damaged"])
def test_the_sockets_between_the_engines_processes_are_removed(tmp_path: Path, model: str) -> None:
    evaluated(request_for(tmp_path, model), Numbers())
    assert not Path(os.environ["VLLM_RPC_BASE_PATH"]).exists()


TAKEN = (
    "Free memory on device cuda:0 (3.0/80.0 GiB) on startup is less than desired GPU memory "
    "utilization (0.9, 72.0 GiB). Decrease GPU memory utilization or reduce GPU memory used by "
    "other processes."
)


@pytest.mark.parametrize("fault", ["CUDA error: no CUDA-capable device is detected", TAKEN])
def test_a_fault_of_the_machine_is_no_failed_candidate(tmp_path: Path, fault: str) -> None:
    records: list[Record] = []
    harness = Numbers(RuntimeError(fault))
    with pytest.raises(AcceleratorError, match=re.escape(fault)):
        handle(request_for(tmp_path, "first", "second"), records.append, harness=harness)
    assert [type(record) for record in records] == [Progress]


def test_the_baseline_of_a_comparison_is_called_so(tmp_path: Path) -> None:
    request = request_for(tmp_path, "first")
    baseline = request.candidates[0].model_copy(update={"trial": BASELINE_TRIAL})
    request = request.model_copy(update={"candidates": (baseline,)})
    _, records = evaluated(request, Numbers())
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
    return request.model_copy(update={"calibration_data": refer(rows), "suite": limited})


def test_a_row_that_holds_an_item_is_refused_before_a_model_is_opened(tmp_path: Path) -> None:
    request, harness = with_calibration(tmp_path, f"Q: {QUESTION} A: 35"), Numbers()
    with pytest.raises(CompressionError, match=r"rows\.jsonl, line 1 holds item 0 of sums"):
        evaluated(request, harness)
    assert harness.opened == []


def test_what_came_of_the_comparison_is_kept_with_the_scores(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    evaluated(with_calibration(tmp_path, BEYOND_LIMIT), Numbers())
    assert store.get(key_of(0)).manifest["contamination"] == {"sums": CLEAN}
