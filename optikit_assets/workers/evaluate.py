"""Worker of the serve environment: the scores of each candidate, item by item.

``python -m optikit_assets.workers.evaluate``
"""

import logging
import time
import traceback
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from optikit_assets.artifacts import Artifact, ArtifactStore
from optikit_assets.clock import now
from optikit_assets.errors import (
    EndpointError,
    EvaluationError,
    SuiteError,
    one_line,
)
from optikit_assets.faults import raise_machine_fault
from optikit_assets.optimizer.contamination import check_tasks
from optikit_assets.specs.endpoint_address import CREDENTIALS_VARIABLE, url_to_keep
from optikit_assets.stateval import endpoint
from optikit_assets.stateval.harness import run_task
from optikit_assets.stateval.judges import check_judges
from optikit_assets.stateval.scores import EvaluatedCandidate, load_candidate, write_candidate
from optikit_assets.stateval.task_files import TaskFile, needs_network, task_files
from optikit_assets.stateval.tasks import load_tasks
from optikit_assets.workers.answering import Opened, answering, model_folder, versions
from optikit_assets.workers.channel import Emit, worker_main
from optikit_assets.workers.inputs import calibration_location, check_inputs, local, store_of
from optikit_assets.workers.messages import (
    Candidate,
    EvaluateRequest,
    EvaluateResult,
    trial_title,
)
from optikit_assets.workers.parts import Parts
from optikit_assets.workers.records import CandidateFailed, CandidateFinished

log = logging.getLogger("optikit.evaluate")

_LOAD_SECONDS = "load_seconds"

EVALUATION = "evaluation"
"""Artifact kind; see `optikit_assets.stateval.scores` for its files."""

Clock = Callable[[], datetime]
TaskFiles = dict[str, TaskFile]
Open = Callable[[Candidate], Opened]


class Harness(Protocol):
    """Reads the tasks of a suite and scores candidates on them."""

    def load(self, request: EvaluateRequest, folder: Path | None, files: TaskFiles) -> list[Any]:
        """Return the suite's tasks, checked for what would fail after hours of generation."""
        ...

    def score(
        self,
        request: EvaluateRequest,
        candidate: Candidate,
        suite_tasks: list[Any],
        opened: Open,
        parts: Parts,
    ) -> EvaluatedCandidate:
        """Load a candidate and return its scores on the tasks, with the settings they hold for."""
        ...


class LmEval:
    """lm-eval, with the engine in this process or on an endpoint."""

    def load(self, request: EvaluateRequest, folder: Path | None, files: TaskFiles) -> list[Any]:
        suite_tasks = load_tasks(request.suite, folder, files)
        check_judges(request.suite)
        if request.backend == "endpoint":
            tokenizer = endpoint.tokenizer_in(model_folder(request, request.candidates[0]))
            chat = request.suite.apply_chat_template
            endpoint.check_endpoint_tasks(suite_tasks, chat=chat, tokenizer=tokenizer)
        return suite_tasks

    def score(
        self,
        request: EvaluateRequest,
        candidate: Candidate,
        suite_tasks: list[Any],
        opened: Open,
        parts: Parts,
    ) -> EvaluatedCandidate:
        begin = time.monotonic()
        context, settings = opened(candidate)
        with context as model:
            load_seconds = time.monotonic() - begin
            tasks = list(zip(suite_tasks, request.suite.tasks, strict=True))
            outcomes = tuple(
                run_task(
                    task,
                    spec,
                    request.suite,
                    model,
                    seed=request.seed,
                    tell=parts.of(number, len(tasks), spec.title),
                )
                for number, (task, spec) in enumerate(tasks)
            )
            # The engine is freed only when nothing refers to it.
            del model
        return EvaluatedCandidate(
            trial=candidate.trial,
            suite=request.suite.name,
            tasks=outcomes,
            seed=request.seed,
            versions=versions(request),
            settings={**settings, _LOAD_SECONDS: round(load_seconds, 3)},
            seconds=round(time.monotonic() - begin, 3),
        )


def handle(
    request: EvaluateRequest,
    emit: Emit,
    *,
    clock: Clock = now,
    harness: Harness | None = None,
) -> EvaluateResult:
    """Run the suite on the candidates of the request, one after the other, until one fails.

    Libraries and tasks are loaded once. A candidate whose artifact exists already is reported as
    finished without loading it; one that fails is reported with its reason and is the last one: an
    engine that failed may leave process groups half made, which would fail the next engine of this
    process too.

    Parameters
    ----------
    request
        On a GPU with one candidate: an engine does not give all of its memory back.
    emit
        Receives `Progress`, `CandidateFinished` and `CandidateFailed`.
    clock
        Time of day, for the records.
    harness
        What evaluates; by default `LmEval`.

    Raises
    ------
    CompressionError
        If a row of the calibration data holds an item of the suite.
    SuiteError
        If the suite itself cannot be run (unknown task, unreadable data, a judge that is down).
    EndpointError
        If ``backend: endpoint`` and the endpoint cannot be used.
    MachineError
        If a library is not installed, the disk is full, … : no later candidate could do better.
    """
    if request.backend == "endpoint":
        if not request.base_url:
            raise EvaluationError("backend: endpoint needs base_url")
        where = {"called": "base_url", "kept": "with the scores", "variable": CREDENTIALS_VARIABLE}
        base_url = url_to_keep(request.base_url, **where)
        request = request.model_copy(update={"base_url": base_url})
    if request.judge is not None:
        judged = {"judge_model": str(local(request, request.judge))}
        request = request.model_copy(update={"suite": request.suite.model_copy(update=judged)})
    folder = local(request, request.task_folder) if request.task_folder else None
    files = task_files(folder)
    online = needs_network(request.suite, files) or _asks_hub_for_judge(request)
    with answering(request) as opened:
        endpoint.set_environment(online=online)
        return _evaluate_in_turn(request, emit, clock, harness or LmEval(), folder, files, opened)


def _evaluate_in_turn(
    request: EvaluateRequest,
    emit: Emit,
    clock: Clock,
    harness: Harness,
    folder: Path | None,
    files: TaskFiles,
    opened: Open,
) -> EvaluateResult:
    store = store_of(request)
    parts = Parts(emit, len(request.candidates))
    suite_tasks: list[Any] = []
    contamination: dict[str, str] = {}
    finished: dict[int, str] = {}
    failed: dict[int, str] = {}
    for number, candidate in enumerate(request.candidates):
        text = f"evaluating {trial_title(candidate.trial)} with suite {request.suite.name}"
        parts.begin(number, text)
        started_at = clock()
        found = store.find(candidate.artifact_key)
        if found is None and not suite_tasks:
            # Outside the guard: when this fails the suite is at fault, not the candidate.
            check_inputs(request)
            try:
                suite_tasks = harness.load(request, folder, files)
            except EvaluationError as error:
                raise SuiteError(str(error)) from error
            contamination = _check_calibration(request, suite_tasks)
        try:
            with store.turn(candidate.artifact_key):
                # The baseline belongs to every recipe: another run may have made it meanwhile.
                found = store.find(candidate.artifact_key)
                reused = found is not None
                if found is None:
                    started_at = clock()
                    evaluated = harness.score(request, candidate, suite_tasks, opened, parts)
                    _keep(request, candidate, evaluated, contamination, store, started_at, clock)
                    found = store.get(candidate.artifact_key)
            ended = _finished(candidate, found, reused=reused)
        except EndpointError:
            raise
        except Exception as error:
            raise_machine_fault(error)
            traceback.print_exc()
            failed[candidate.trial] = one_line(error)
            emit(
                CandidateFailed(
                    trial=candidate.trial,
                    artifact_key=candidate.artifact_key,
                    reason=failed[candidate.trial],
                    started_at=started_at.isoformat(),
                    ended_at=clock().isoformat(),
                )
            )
            break
        finished[candidate.trial] = candidate.artifact_key
        emit(ended)
    return EvaluateResult(finished=finished, failed=failed, versions=versions(request))


def _keep(
    request: EvaluateRequest,
    candidate: Candidate,
    evaluated: EvaluatedCandidate,
    contamination: dict[str, str],
    store: ArtifactStore,
    started_at: datetime,
    clock: Clock,
) -> None:
    """Put the scores of a candidate into the store."""
    # How long it took decides nothing.
    settings = {k: v for k, v in evaluated.settings.items() if k != _LOAD_SECONDS}
    with store.create(candidate.artifact_key, EVALUATION) as draft:
        write_candidate(draft.path, evaluated)
        draft.manifest.update(
            suite=request.suite.name,
            suite_digest=request.suite.digest(),
            model=candidate.model and candidate.model.where,
            seed=request.seed,
            contamination=contamination,
            settings=settings,
            versions=evaluated.versions,
            seconds=evaluated.seconds,
            started_at=started_at.isoformat(),
            ended_at=clock().isoformat(),
        )
        check_inputs(request)
    log.info("%s: %.1f s", trial_title(candidate.trial), evaluated.seconds)


def _check_calibration(request: EvaluateRequest, suite_tasks: list[Any]) -> dict[str, str]:
    """Compare calibration data with the items that are evaluated, wherever they came from."""
    if request.calibration_data is None:
        return {}
    pairs = zip(suite_tasks, request.suite.tasks, strict=True)
    documents = {spec.title: list(task.eval_docs)[: spec.limit] for task, spec in pairs}
    return check_tasks(calibration_location(request, request.calibration_data), documents)


def _finished(candidate: Candidate, found: Artifact, *, reused: bool) -> CandidateFinished:
    """Return the record of scores; those from the store keep the times at which they were made."""
    scored = load_candidate(found.folder(), candidate.trial)
    return CandidateFinished(
        trial=candidate.trial,
        artifact_key=candidate.artifact_key,
        scores={task.title: task.summary for task in scored.tasks},
        seconds=scored.seconds,
        seed=scored.seed,
        started_at=found.manifest["started_at"],
        ended_at=found.manifest["ended_at"],
        reused=reused,
    )


def _asks_hub_for_judge(request: EvaluateRequest) -> bool:
    model = request.suite.judge_model
    uses = any(task.judge == "classifier" for task in request.suite.tasks)
    return uses and model is not None and not Path(model).exists()


if __name__ == "__main__":
    worker_main(EvaluateRequest, handle)
