"""What eval_scores, re-certification and repeatability share: the evaluate workers of a request."""

from collections.abc import Sequence

import dagster as dg

from optikit_assets.artifacts import Reference
from optikit_assets.defs.body import Partition
from optikit_assets.engines import get_engine
from optikit_assets.execution import Lease, settle
from optikit_assets.specs import SuiteSpec
from optikit_assets.workers.messages import Candidate, EvaluateRequest, EvaluateResult
from resources import ArtifactStoreResource, PoolRunner


def evaluate_for(
    partition: Partition,
    suite: SuiteSpec,
    candidates: Sequence[Candidate],
    calibration_data: Reference | str | None = None,
) -> dict[str, str]:
    """Evaluate candidates of a partition's model on a suite; see `evaluate`.

    Parameters
    ----------
    calibration_data
        Rows that no item of the suite may be among.
    """
    sources = partition.versions.sources
    request = EvaluateRequest(
        store=partition.artifacts.url,
        environment=partition.environment("serve"),
        suite=sources.suite(suite.name),
        task_folder=partition.share(sources.task_files(suite.name)),
        judge=partition.share(sources.judge(suite.name)),
        candidates=tuple(candidates),
        engine=partition.model_spec.engine,
        trust_remote_code=partition.model_spec.trust_remote_code,
        calibration_data=calibration_data,
    )
    return evaluate(partition.context, partition.runner, partition.artifacts, request)


def evaluate(
    context: dg.AssetExecutionContext | dg.OpExecutionContext,
    runner: PoolRunner,
    artifacts: ArtifactStoreResource,
    request: EvaluateRequest,
) -> dict[str, str]:
    """Evaluate the request's candidates that have no artifact yet, each as it will be served.

    Returns
    -------
    dict
        Artifact key of every candidate that kept failing -> reason of its last attempt.
    """
    hardware = runner.hardware
    used = get_engine(request.engine.name)
    accelerators = used.accelerators(request.engine, used.evaluated_with, hardware)
    at_once = max(1, runner.executor.slots // accelerators)

    def run(batch: Sequence[Candidate], lease: Lease) -> dict[str, str]:
        dtype = used.compute_dtype(request.engine, lease.hardware)
        engine = request.engine.model_copy(update={"dtype": dtype})
        part = request.model_copy(update={"candidates": tuple(batch), "engine": engine})
        result = runner.run(context, "evaluate", part, EvaluateResult, lease)
        return {c.artifact_key: result.failed[c.trial] for c in batch if c.trial in result.failed}

    return settle(
        runner.executor,
        request.candidates,
        run,
        is_done=lambda key: artifacts.find(key) is not None,
        # In deterministic mode GPU memory is not given back within a process (paper section 5.3).
        per_worker=1 if hardware.kind != "cpu" else -(-len(request.candidates) // at_once),
        max_attempts=2,
        accelerators=accelerators,
    )
