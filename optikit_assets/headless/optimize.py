"""One submission end to end: observe, plan, run, read the outcome. CLI and sensor job use it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from optikit_assets import graph
from optikit_assets.artifacts import Artifact, open_store
from optikit_assets.artifacts.model_folder import check_model_folder
from optikit_assets.artifacts.models import ModelRegistry
from optikit_assets.defs.partitions import POOLS
from optikit_assets.defs.recorded import recorded
from optikit_assets.engines import get_engine
from optikit_assets.environments.status import python_of
from optikit_assets.errors import AcceleratorError, OptikitError, StageError
from optikit_assets.execution import Pools, beyond_a_node
from optikit_assets.freshness import Versions, artifact_of
from optikit_assets.graph import PIPELINE, Flow, Key, Node, get_flow, in_plan_order
from optikit_assets.headless.agenda import DriverReport, Event
from optikit_assets.headless.driver import AsRuns, run_plan
from optikit_assets.headless.materialize import open_instance, register_model
from optikit_assets.headless.plan import NodePlan, make_plan
from optikit_assets.headless.present import (
    known_seconds,
    observe,
    unless_published,
    versions_now,
)
from optikit_assets.headless.requests import Request, remember_request
from optikit_assets.headless.run_owners import cancel_orphaned_runs
from optikit_assets.publishing import get_publisher
from optikit_assets.settings import settings
from optikit_assets.specs import BASELINE, LOCAL, Catalog, JobSpec
from optikit_assets.tracing import span
from optikit_assets.tuner import check
from resources.history import open_history


@dataclass(frozen=True)
class Submission:
    """A job whose names were all resolved."""

    model_key: str
    slos: tuple[str, ...]
    recipes: tuple[str, ...]
    flow: Flow = PIPELINE
    pools: tuple[tuple[str, ...], ...] = ()
    """Names of the pools of each SLO, or of a flow that looks at none; none: this machine."""
    left_out: tuple[str, ...] = ()
    """As `Request.left_out`."""

    @property
    def pool_names(self) -> tuple[str, ...]:
        """Every pool that it names; what is of no pool is made on the first."""
        return tuple(dict.fromkeys(name for names in self.pools for name in names)) or (LOCAL,)

    @property
    def named(self) -> dict[str, tuple[str, ...]]:
        """As `Versions.named`."""
        return {"": self.pool_names, **dict(zip(self.slos, self.pools, strict=False))}

    @property
    def request(self) -> Request:
        """What is asked for, of whichever model."""
        stages = tuple(sorted(self.flow.stages))
        return Request(stages, self.slos, self.recipes, self.pools, self.left_out)

    def nodes(self) -> list[Node]:
        """Return every partition that it asks for, upstream first."""
        return self.request.nodes(self.model_key)


def resolve_submission(job: JobSpec, catalog: Catalog) -> Submission:
    """Resolve the names of a job.

    Raises
    ------
    UnknownNameError
        For a flow, model, SLO, recipe or pool that does not exist.
    OptikitError
        If the flow needs an SLO and none is named, or one is named that it does not look at.
    ModelError
        If the model is a local folder that cannot be used; others are checked when fetched.
    """
    flow = get_flow(job.flow)
    if flow.measures and not job.slos:
        known = ", ".join(sorted(catalog.slos))
        raise OptikitError(f"flow {flow.name} measures under an SLO: name one of {known}")
    if job.slos and not flow.measures:
        named = ", ".join(job.slos)
        raise OptikitError(f"flow {flow.name} looks at no SLO: leave out {named}")
    model = ModelRegistry(settings().home, settings().root, catalog).resolve(job.model)
    if model.in_place is not None:
        check_model_folder(model.in_place, catalog.model(model.name).trust_remote_code)
    for slo in job.slos:
        catalog.slo(slo)
    for recipe in job.recipes:
        catalog.recipe(recipe)
    for pool in job.pools:
        catalog.pool(pool)
    all_recipes = flow.compresses and not job.recipes
    names = {BASELINE, *(catalog.recipes if all_recipes else job.recipes)}
    left_out = sorted(catalog.broken["quantization"]) if all_recipes else ()
    pools = tuple(job.pools or catalog.slo(slo).pools for slo in job.slos)
    return Submission(
        model.key,
        job.slos,
        tuple(sorted(names)),
        flow,
        pools or (job.pools or (LOCAL,),),
        tuple(left_out),
    )


def plan_submission(
    submission: Submission, catalog: Catalog, instance: dg.DagsterInstance, pools: Pools
) -> list[NodePlan]:
    """Register the model, observe all sources, and judge every partition of the submission.

    Raises
    ------
    StageError
        If what the flow takes as it is, is not there or not current.
    SpecError
        If the model's engine lacks the flags of a search space.
    AcceleratorError
        If a pool that it names cannot be reached, is not what is declared of it, or has no node
        that the model's spec fits on.
    """
    _check_search_spaces(submission, catalog)
    _check_pools(submission, catalog, pools)
    cancel_orphaned_runs(instance)
    register_model(instance, submission.model_key)
    observe(catalog, instance, pools)
    nodes = submission.nodes()
    versions = versions_now(catalog, instance, pools, nodes, submission.named)
    versions.read(nodes)
    require_what_is_not_made(submission.flow, versions, nodes)
    return [unless_published(versions, item) for item in make_plan(versions, nodes)]


def require_what_is_not_made(flow: Flow, versions: Versions, nodes: Sequence[Node]) -> None:
    """Make sure of what the partitions of a flow need that it does not make.

    Raises
    ------
    StageError
        If some of it is not there or not current.
    """
    # What takes part in a decision without being asked for is current by itself.
    made = [node for node in nodes if node.asset != graph.DEPLOYABLE_CONFIG]
    needed = {up for node in made for up in versions.upstream(node) if not up.observed}
    beyond = in_plan_order(needed - set(nodes))
    lacking = [p for p in make_plan(versions, beyond) if p.state != "fresh"]
    if lacking:
        raise StageError(
            f"flow {flow.name} does not make "
            + "; ".join(f"{item.node}, which is {item.state} ({item.reason})" for item in lacking)
            + f": run a flow that does first; {PIPELINE.name} does all"
        )


def _check_pools(submission: Submission, catalog: Catalog, pools: Pools) -> None:
    found = {name: pools.hardware(name) for name in submission.pool_names}
    first = submission.pool_names[0]
    spec = catalog.model(graph.split_model(submission.model_key)[0]).engine
    engine = get_engine(spec.name)
    needed = engine.accelerators(spec, engine.evaluated_with, found[first])
    # Scores are made on the first; on the others what does not fit comes out as infeasible.
    if first != LOCAL and needed > found[first].count:
        reason = beyond_a_node(first, needed, found[first])
        raise AcceleratorError(f"{submission.model_key} {reason}: name another pool first")


def _check_search_spaces(submission: Submission, catalog: Catalog) -> None:
    engine = catalog.model(graph.split_model(submission.model_key)[0]).engine
    searched = {n.key.slo for n in submission.nodes() if n.asset == graph.TUNED_CONFIG}
    for slo in sorted(searched):
        check(catalog.search_space(catalog.slo(slo).search_space), engine)


def run_submission(
    submission: Submission,
    on_event: Callable[[Event], object],
    catalog: Catalog,
    tags: Mapping[str, str] | None = None,
) -> tuple[list[NodePlan], DriverReport]:
    """Run what is not fresh; `tags` are those of every run of a partition.

    Raises
    ------
    EnvironmentMissingError
        If a stage has to run and its environment is not installed.
    """
    known = {"optikit.model": submission.model_key, "optikit.flow": submission.flow.name}
    with span("optimize", known, passed_on=True) as here:
        plan, report = _run_submission(submission, on_event, catalog, tags or {})
        if report.failed:
            here.fail("failed partitions")
    return plan, report


def _run_submission(
    submission: Submission,
    on_event: Callable[[Event], object],
    catalog: Catalog,
    tags: Mapping[str, str],
) -> tuple[list[NodePlan], DriverReport]:
    pools = Pools.of(settings(), catalog)
    with open_instance() as instance:
        plan = plan_submission(submission, catalog, instance, pools)
        remember_request(instance, submission.model_key, submission.flow, submission.request)
    seconds: dict[Node, float] = {}
    if any(item.state != "fresh" for item in plan):
        seconds = known_seconds()
        for name in ("compress", "serve"):
            python_of(settings().envs_home, name)
        open_store(settings().store, settings().home).sweep_staging()
    materialize = AsRuns(
        submission.named if len(POOLS) > 1 else {},
        tags,
        {item.node: item.waits_for for item in plan if item.node.asset == graph.DEPLOYABLE_CONFIG},
    )
    report = carry_out(plan, pools, submission.pool_names, materialize, on_event, seconds)
    open_history(settings()).drain(timeout_s=60)
    return plan, report


def carry_out(
    plan: list[NodePlan],
    pools: Pools,
    names: Iterable[str],
    materialize: AsRuns,
    on_event: Callable[[Event], object],
    seconds: Mapping[Node, float],
) -> DriverReport:
    """Run a plan with as much room on every named pool as it has slots."""
    slots = {name: pools.executor(name).slots for name in names}
    return run_plan(
        plan,
        width=width(slots.values()),
        rooms={name: width([count]) for name, count in slots.items()},
        log_folder=settings().logs / "driver",
        on_event=on_event,
        materialize=materialize,
        seconds=seconds,
    )


def width(slots: Iterable[int]) -> int:
    """Return how many partitions run at a time: one per accelerator of each pool, and one more.

    That one prepares what follows while all others hold theirs.
    """
    return sum(slots) + 1


def deployments(submission: Submission) -> dict[str, Artifact]:
    """Return the newest bundle of each SLO of the submission that has one."""
    store = open_store(settings().store, settings().home)
    found = {}
    with open_instance() as instance:
        for slo in submission.slos:
            node = Node(graph.DEPLOYABLE_CONFIG, Key(submission.model_key, slo=slo))
            known = recorded(instance, node)
            artifact = artifact_of(store, known)
            if artifact is not None:
                found[slo] = artifact
    return found


def published_at(model_key: str, slo: str) -> str | None:
    """Return where the newest bundle of a model and SLO is published."""
    found = get_publisher(settings().publisher, settings().home).published(model_key, slo)
    return found and found.where
