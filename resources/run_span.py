"""The span of a run: of a stage at one partition, or of another job that asks for workers."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from optikit_assets import errors
from optikit_assets.tracing import is_on, span

_PARTITION_TAG = "dagster/partition"


@contextmanager
def run_span(context: dg.InitResourceContext) -> Iterator[None]:
    """Have a span for as long as a run has its resources, whoever started the run.

    What the run starts in other processes is below it.
    """
    run = context.run
    if run is None or not is_on():
        yield
        return
    name = ", ".join(_steps(context.instance, run)) or run.job_name
    known = {
        "optikit.asset": name,
        "optikit.partition": run.tags.get(_PARTITION_TAG),
        "dagster.run_id": run.run_id,
    }
    with span(name, known, passed_on=True) as here:
        yield
        if here.is_wanted and (kind := _failure(context.instance, run.run_id)):
            here.fail(kind)


def _steps(instance: dg.DagsterInstance | None, run: dg.DagsterRun) -> list[str]:
    """Return the steps of a run: of an asset it is its name."""
    plan = run.execution_plan_snapshot_id
    if instance is None or plan is None:
        return []
    return sorted(instance.get_execution_plan_snapshot(plan).step_keys_to_execute)


def _failure(instance: dg.DagsterInstance | None, run_id: str) -> str:
    """Return the class of the error that a step of a run failed with, "" if none did."""
    if instance is None:
        return ""
    failed = instance.get_records_for_run(
        run_id, of_type=dg.DagsterEventType.STEP_FAILURE, limit=1
    ).records
    for record in failed:
        event = record.event_log_entry.dagster_event
        error = event.step_failure_data.error if event else None
        while error is not None and error.cls_name not in errors.__all__ and error.cause:
            error = error.cause
        return (error and error.cls_name) or "unknown"
    return ""
