"""The sensor that requests what edits made stale, partition by partition, through Dagster's queue.

It plans as `optikit status` does. What is stale is requested once everything upstream of it is
fresh, so a decision is made after all of its inputs and never from a mix of old and new ones. A
request is made once for what a partition is to become: by its content key, which Dagster knows a
run by.
"""

import time
from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

import dagster as dg

from optikit_assets.artifacts.models import ModelRegistry
from optikit_assets.defs.automation import FOR_EDITS
from optikit_assets.defs.partitions import MODEL_DIMENSION, multi_partition_key
from optikit_assets.execution import Pools
from optikit_assets.graph import STAGES, Node
from optikit_assets.headless.plan import NodePlan
from optikit_assets.headless.run_owners import cancel_orphaned_runs
from optikit_assets.headless.status import status
from optikit_assets.settings import settings
from optikit_assets.specs import Catalog, digest

RETRIES = 2
"""How often a request that failed is made again."""
RETRY_AFTER_S = 600.0
"""How long after a failure; twice as long after the second."""

REQUEST_TAG = "optikit/request"
"""Of a run: the digest of the partition and of the content key that it was requested for."""

PARTITION_TAG = "dagster/partition"
_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]

STAGE_JOBS = {
    stage: dg.define_asset_job(
        f"materialize_{stage}",
        selection=[stage],
        description=f"Makes partitions of {stage}; what the sensor for edits requests.",
    )
    for stage in STAGES
}


class Due(NamedTuple):
    """What is requested now, and what is said of the rest."""

    requests: list[dg.RunRequest]
    told: list[str]


@dg.sensor(
    name="stale_partitions",
    jobs=list(STAGE_JOBS.values()),
    minimum_interval_seconds=20,
    default_status=FOR_EDITS,
    description="Requests every partition that was made before and that an edit, another version "
    "or an upgrade made stale: upstream first, each once, a failed one twice more. What nobody "
    "asked for is not requested, nor what follows from a broken file.",
)
def stale_partitions(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Request what is stale and has nothing stale upstream."""
    # A driver that was killed would be waited for.
    cancel_orphaned_runs(context.instance)
    catalog = Catalog.load(settings().recipes)
    registry = ModelRegistry(settings().home, settings().root, catalog)
    known = set(context.instance.get_dynamic_partitions(MODEL_DIMENSION))
    keys = [version.key for version in registry.versions() if version.key in known]
    plan = status(catalog, keys, context.instance, Pools.of(settings(), catalog))
    due = due_requests(plan, context.instance, time.time())
    told = due.told or ["everything that was asked for is fresh"]
    if due.requests:
        context.log.info("; ".join(told))
        return dg.SensorResult(run_requests=due.requests)
    return dg.SensorResult(skip_reason="; ".join(told))


def due_requests(plan: Sequence[NodePlan], instance: dg.DagsterInstance, now_s: float) -> Due:
    """Return what of a plan is requested now.

    Parameters
    ----------
    plan
        Of everything that was asked for, upstream first.
    now_s
        Seconds since 1970.
    """
    unsettled = {item.node for item in plan if item.state not in ("fresh", "not asked for")}
    # Failures that are outcomes like others now, and what was made in spite of them.
    given_up: set[Node] = set()
    due = Due([], [])
    waiting = 0
    busy = instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED))
    for item in plan:
        # What was never made is somebody's request that goes on, or broke off; with a key it is of
        # a recipe that was corrected since.
        if item.node not in unsettled or (item.timestamp is None and not item.key):
            continue
        if item.unknown:
            due.told.append(f"{item.node} {item.reason}")
        elif unsettled.intersection(item.waits_for):
            waiting += 1
        elif item.settled and given_up.intersection(item.waits_for):
            _settle(item.node, unsettled, given_up)
        elif any(_may_make(run, item.node) for run in busy):
            due.told.append(f"{item.node} is being made")
        elif not _request(item, instance, now_s, due) and item.settled:
            _settle(item.node, unsettled, given_up)
    if waiting:
        due.told.append(f"{waiting} wait for what is upstream of them")
    return due


def _settle(node: Node, unsettled: set[Node], given_up: set[Node]) -> None:
    """Have what is downstream of a node wait for it no longer."""
    unsettled.remove(node)
    given_up.add(node)


def _may_make(run: dg.DagsterRun, node: Node) -> bool:
    """Whether a run is of a partition; those of a driver do not name their asset."""
    selected = run.asset_selection
    asset = dg.AssetKey(node.asset)
    return run.tags.get(PARTITION_TAG) == node.partition and (not selected or asset in selected)


def _request(item: NodePlan, instance: dg.DagsterInstance, now_s: float, due: Due) -> bool:
    """Request a partition, or say why not now; return False once it is given up."""
    name = digest([str(item.node), item.key])
    if pause := pause_after(_in_vain(item, name, instance), now_s):
        due.told.append(f"{item.node} {pause.text}")
        return not pause.given_up
    due.told.append(f"{item.node} is requested: {item.reason}")
    before = instance.get_runs(dg.RunsFilter(tags={REQUEST_TAG: name}), limit=1)
    due.requests.append(
        dg.RunRequest(
            run_key=run_key(name, before),
            job_name=STAGE_JOBS[item.node.asset].name,
            partition_key=multi_partition_key(item.node),
            tags={REQUEST_TAG: name},
        )
    )
    return True


class Pause(NamedTuple):
    """Why something is not requested again now."""

    text: str
    given_up: bool = False
    """It failed too often."""


def pause_after(in_vain: Sequence[dg.RunRecord], now_s: float) -> Pause | None:
    """Return why what was requested in vain, the latest first, is not requested now; None: it is.

    Parameters
    ----------
    now_s
        Seconds since 1970.
    """
    if not in_vain:
        return None
    latest = in_vain[0]
    run = f"(run {latest.dagster_run.run_id})"
    if latest.dagster_run.status == dg.DagsterRunStatus.CANCELED:
        return Pause(
            "was canceled and is not requested again until something that it follows from changes "
            + run
        )
    if len(in_vain) > RETRIES:
        return Pause(
            f"failed {len(in_vain)} times and is not tried again until something that it follows "
            f"from changes {run}",
            given_up=True,
        )
    again_s = (latest.end_time or now_s) + RETRY_AFTER_S * 2 ** (len(in_vain) - 1)
    return (
        Pause(f"failed and is tried again in {again_s - now_s:.0f} s") if now_s < again_s else None
    )


def run_key(name: str, before: Sequence[dg.DagsterRun]) -> str:
    """Return the key of a request for what `before`, the latest first, were requested for.

    The daemon makes one run of a key: what was requested before gets another one, by the latest of
    its runs, since `optikit gc` removes those before it.
    """
    return f"{name}-{before[0].run_id if before else 0}"


def _in_vain(item: NodePlan, name: str, instance: dg.DagsterInstance) -> list[dg.RunRecord]:
    """Return the latest requests of a partition for one content key that did not bring it there.

    Those before a request for something else brought it there, or do not count any more; nor do
    any once it was made by whomever after they ended. A run that succeeds counts if the partition
    is what it was: its failure is an outcome, and what changes in every run would be run for ever.
    """
    partition_tags = {PARTITION_TAG: item.node.partition or ""}
    of_it = dg.RunsFilter(job_name=STAGE_JOBS[item.node.asset].name, tags=partition_tags)
    records = instance.get_run_records(of_it, limit=RETRIES + 1)
    found = list(takewhile(lambda run: run.dagster_run.tags.get(REQUEST_TAG) == name, records))
    made_since = found and _ended_before(found[0], item.timestamp or 0.0)
    return [] if made_since else found


def _ended_before(record: dg.RunRecord, when_s: float) -> bool:
    return record.end_time is not None and record.end_time < when_s
