"""What a decision is made from is brought up to date first, by the run of the decision itself.

Who selects one partition of ``deployable_config`` and nothing else gets what the recipes, the SLO
and the model give now. Every partition that has to be made is a run of its own, linked to the run
of the decision. They are carried out by processes of that run and do not wait in Dagster's queue,
which runs that wait for each other could fill; while they go on it counts them among those it lets
through.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import dagster as dg

from optikit_assets import graph
from optikit_assets.defs.partitions import POOLS
from optikit_assets.defs.recorded import recorded
from optikit_assets.environments.status import python_of
from optikit_assets.errors import StageError
from optikit_assets.execution import Pools
from optikit_assets.freshness import Versions
from optikit_assets.graph import PIPELINE, Node
from optikit_assets.headless.agenda import DriverReport, Event
from optikit_assets.headless.driver import AsRuns
from optikit_assets.headless.materialize import register_model
from optikit_assets.headless.optimize import carry_out
from optikit_assets.headless.plan import NodePlan, check_specs, make_plan
from optikit_assets.headless.present import known_seconds, observe, versions_now
from optikit_assets.headless.requests import remember_request, requests
from optikit_assets.headless.run_owners import cancel_orphaned_runs
from optikit_assets.headless.status import asked_for, closure, default_request
from optikit_assets.settings import settings
from optikit_assets.specs import Catalog

# Inputs that change while others are made are made again: so often in all.
_ROUNDS = 3


def bring_up_to_date(context: dg.AssetExecutionContext) -> list[Node]:
    """Run what is not fresh upstream of the decision whose body this is called from.

    Returns all that is upstream of it and up to date now.

    Raises
    ------
    SpecError
        If the file of the model, of the SLO or of a recipe is broken that was decided among, or
        that was asked for by name.
    StageError
        If something upstream failed, or if inputs change faster than they can be followed.
    """
    node = Node.of(context.asset_key.to_user_string(), context.partition_key)
    stale: list[NodePlan] = []
    # What the last round made is judged too.
    for turn in range(_ROUNDS + 1):
        catalog = Catalog.load(settings().recipes)
        pools = Pools.of(settings(), catalog)
        found = plan_upstream(node, catalog, context.instance, pools)
        for error in catalog.broken["quantization"].values() if turn == 0 else ():
            context.log.warning(f"left out: {error}")
        # What failed is tried again by the first round alone: then it is an outcome like others.
        plan = found.plan if turn == 0 else found.settled()
        stale = [item for item in plan if item.state != "fresh"]
        if not stale:
            return [item.node for item in plan]
        if turn == _ROUNDS:
            break
        for item in stale:
            context.log.info(f"{item.node} is run first: {item.state}, {item.reason}")
        report = _run(context, found.named, plan, pools)
        # Dagster noted the versions of the inputs before the body began: the UI would call what is
        # made from those of now unsynced.
        context.get_step_execution_context().fetch_external_input_asset_version_info()
        if report.failed:
            raise StageError(
                f"{node} cannot be made: "
                + "; ".join(f"{failed}: {why}" for failed, why in report.failed.items())
            )
    raise StageError(
        f"{node}: {stale[0].node} was made {_ROUNDS} times and is {stale[0].state} again "
        f"({stale[0].reason}): materialize it once nobody edits what it is made from"
    )


class Upstream(NamedTuple):
    """What is upstream of a decision, judged at one moment."""

    versions: Versions
    plan: list[NodePlan]
    named: dict[str, tuple[str, ...]]
    """Pools that it is made on, as `Versions.named`; empty where that is recorded."""

    def settled(self) -> list[NodePlan]:
        """Return the plan in which a failure that nothing changed since counts as fresh."""
        return [replace(item, state="fresh") if item.settled else item for item in self.plan]


def plan_upstream(
    decision: Node, catalog: Catalog, instance: dg.DagsterInstance, pools: Pools
) -> Upstream:
    """Observe all sources, and judge everything upstream of a decision.

    What is asked for is kept as a request if nobody asked for anything before, with the broken
    recipes that it does without: those count again once they are corrected.
    """
    model, slo = decision.key.model, decision.key.slo
    catalog.model(graph.split_model(model)[0])
    catalog.slo(slo)
    cancel_orphaned_runs(instance)
    register_model(instance, model)
    observe(catalog, instance, pools)
    made = [r for r in requests(instance, model) if decision.asset in r.stages and slo in r.slos]
    named: dict[str, tuple[str, ...]] = {}
    if not recorded(instance, decision):
        remembered = bool(made)
        made = made or [default_request(catalog, decision)]
        for name in (name for request in made for name in request.recipes):
            # One that is gone is asked for by nobody any more.
            if name in catalog.broken["quantization"] or not remembered:
                catalog.recipe(name)
        if not remembered:
            remember_request(instance, model, PIPELINE, made[0])
        names = tuple(dict.fromkeys(name for r in made for name in r.pools_of(slo)))
        named = {"": names, slo: names} if len(POOLS) > 1 else {}
    versions = versions_now(catalog, instance, pools, named=named)
    check_specs(versions, decision)
    asked = asked_for(versions, decision, made)
    asked = closure(versions.about_to_run(asked), asked)
    versions = versions.about_to_run(asked)
    plan = make_plan(versions, [one for one in asked if one != decision])
    return Upstream(versions, plan, named)


def _run(
    context: dg.AssetExecutionContext,
    named: Mapping[str, Sequence[str]],
    plan: list[NodePlan],
    pools: Pools,
) -> DriverReport:
    for name in ("compress", "serve"):
        python_of(settings().envs_home, name)
    names = sorted({graph.pool_name(item.node.key.pool) for item in plan})
    materialize = AsRuns(named, parent_tags(context.run))
    return carry_out(
        plan, pools, names, materialize, lambda event: _log(context, event), known_seconds()
    )


def parent_tags(run: dg.DagsterRun) -> dict[str, str]:
    """Return the tags by which Dagster links the runs that a run starts to it."""
    return {
        "dagster/parent_run_id": run.run_id,
        "dagster/root_run_id": run.tags.get("dagster/root_run_id", run.run_id),
    }


def _log(context: dg.AssetExecutionContext, event: Event) -> None:
    if event.kind != "fresh":
        context.log.info(f"{event.kind} {event.node} {event.text or event.outcome}".rstrip())
