"""Stands in for the evaluate worker: answers by rule, keeps artifacts as the real one does.

Run n gets item n wrong, so that runs differ in a known way. A candidate at a damaged path fails.
"""

from pathlib import Path

from optikit_assets.artifacts import open_store
from optikit_assets.stateval.endpoint import served_model
from optikit_assets.stateval.scores import write_candidate
from optikit_assets.workers.channel import Emit, worker_main
from optikit_assets.workers.evaluate import EVALUATION
from optikit_assets.workers.messages import EvaluateRequest, EvaluateResult
from optikit_assets.workers.records import Progress
from tests.unit.stateval.builders import candidate

ITEMS = 20


def handle(request: EvaluateRequest, emit: Emit) -> EvaluateResult:
    if request.base_url:
        served_model(request.base_url, request.endpoint_model)
    store = open_store(request.store, Path())
    finished: dict[int, str] = {}
    for done, wanted in enumerate(request.candidates):
        emit(Progress(done=done, total=len(request.candidates), text="evaluating"))
        scores = [0.0 if item < wanted.trial else 1.0 for item in range(ITEMS)]
        settings = {
            "backend": request.backend,
            "deterministic": request.deterministic,
            "base_url": request.base_url,
            "model": request.endpoint_model,
            "chat": request.suite.apply_chat_template,
        }
        evaluated = candidate(
            wanted.trial,
            {task.title: scores for task in request.suite.tasks},
            versions={"vllm": "0"},
            settings=settings,
        )
        with store.create(wanted.artifact_key, EVALUATION) as draft:
            write_candidate(draft.path, evaluated)
        finished[wanted.trial] = wanted.artifact_key
    return EvaluateResult(finished=finished, failed={}, versions={})


if __name__ == "__main__":
    worker_main(EvaluateRequest, handle)
