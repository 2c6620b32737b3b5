"""One submission end to end: observe, plan, run, read the outcome. CLI and sensor job use it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg

from optikit_assets import graph
from optikit_assets.artifacts.hub import HUB_PREFIX
from optikit_assets.artifacts.model_folder import check_model_folder
from optikit_assets.artifacts.models import ModelRegistry
from optikit_assets.artifacts.store import Artifact, ArtifactStore
from optikit_assets.defs.driver import DriverReport, Event, run_plan
from optikit_assets.defs.materialize import open_instance, register_model
from optikit_assets.defs.partitions import MODEL_DIMENSION
from optikit_assets.defs.plan import NodePlan, make_plan
from optikit_assets.defs.recorded import Versions, recorded
from optikit_assets.defs.run_owners import cancel_orphaned_runs
from optikit_assets.defs.source_versions import SourceVersions
from optikit_assets.defs.sources import changed_observations, source_nodes
from optikit_assets.engines import Hardware, detect
from optikit_assets.environments.status import python_of
from optikit_assets.graph import Key, Node, chain, in_plan_order, measurements_of
from optikit_assets.history import History
from optikit_assets.settings import REPOSITORY, settings
from optikit_assets.specs import BASELINE, Catalog, JobSpec
from optikit_assets.tuner.search_space import check


@dataclass(frozen=True)
class Submission:
    """A job whose names were all resolved."""

    model_key: str
    slos: tuple[str, ...]
    recipes: tuple[str, ...]

    def nodes(self) -> list[Node]:
        """Return every partition that it needs, upstream first."""
        return in_plan_order(
            node for slo in self.slos for node in chain(self.model_key, slo, self.recipes)
        )


def resolve_submission(job: JobSpec, catalog: Catalog) -> Submission:
    """Resolve the names of a job.

    Raises
    ------
    UnknownNameError
        For a model, SLO or recipe that does not exist.
    ModelError
        If the model is a local folder that cannot be used; a hub model is checked when fetched.
    """
    model = ModelRegistry(settings().home, REPOSITORY, catalog).resolve(job.model)
    if not model.source.startswith(HUB_PREFIX):
        check_model_folder(Path(model.source), catalog.model(model.name).trust_remote_code)
    for slo in job.slos:
        catalog.slo(slo)
    for recipe in job.recipes:
        catalog.recipe(recipe)
    names = {BASELINE, *job.recipes} if job.recipes else set(catalog.recipes)
    return Submission(model.key, tuple(job.slos), tuple(sorted(names)))


def plan_submission(
    submission: Submission, catalog: Catalog, instance: dg.DagsterInstance, hardware: Hardware
) -> list[NodePlan]:
    """Register the model, observe all sources, and judge every partition of the submission."""
    check_search_spaces(submission, catalog)
    cancel_orphaned_runs(instance)
    register_model(instance, submission.model_key)
    observe(catalog, instance, hardware)
    nodes = submission.nodes()
    return make_plan(_versions(catalog, instance, hardware, nodes), nodes, _has_artifact)


def check_search_spaces(submission: Submission, catalog: Catalog) -> None:
    """Check that the model's engine has the flags of every search space, before anything runs.

    Raises
    ------
    SpecError
        For the first SLO whose space cannot be searched.
    """
    spec = catalog.model(graph.split_model(submission.model_key)[0]).engine
    for slo in submission.slos:
        check(catalog.search_space(catalog.slo(slo).search_space), spec)


def observe(catalog: Catalog, instance: dg.DagsterInstance, hardware: Hardware) -> None:
    """Record the present version of every source that changed since it was last observed."""
    versions = _versions(catalog, instance, hardware)
    known = {version.key for version in versions.sources.registry.versions()}
    keys = [key for key in instance.get_dynamic_partitions(MODEL_DIMENSION) if key in known]
    for observation in changed_observations(versions, source_nodes(keys)):
        instance.report_runless_asset_event(observation)


def run_submission(
    submission: Submission, on_event: Callable[[Event], object], catalog: Catalog
) -> tuple[list[NodePlan], DriverReport]:
    """Run what is not fresh.

    Raises
    ------
    EnvironmentMissingError
        If a stage has to run and its environment is not installed.
    """
    hardware = detect()
    with open_instance() as instance:
        plan = plan_submission(submission, catalog, instance, hardware)
    if any(item.state != "fresh" for item in plan):
        for name in ("compress", "serve"):
            python_of(settings().envs_home, name)
        ArtifactStore(settings().store).sweep_staging()
    report = run_plan(
        plan, width=width(hardware), log_folder=settings().logs / "driver", on_event=on_event
    )
    History(settings().history).drain(timeout_s=60)
    return plan, report


def width(hardware: Hardware) -> int:
    """Return how many partitions run at a time: one per accelerator and one that prepares."""
    return (hardware.count if hardware.kind != "cpu" else 1) + 1


def deployments(submission: Submission) -> dict[str, Artifact]:
    """Return the newest bundle of each SLO of the submission that has one."""
    store = ArtifactStore(settings().store)
    found = {}
    with open_instance() as instance:
        for slo in submission.slos:
            node = Node(graph.DEPLOYABLE_CONFIG, Key(submission.model_key, slo=slo))
            known = recorded(instance, node)
            artifact = store.find(known.version) if known else None
            if artifact is not None:
                found[slo] = artifact
    return found


def status(
    catalog: Catalog,
    model_keys: Sequence[str],
    instance: dg.DagsterInstance,
    hardware: Hardware,
) -> list[NodePlan]:
    """Judge every partition of the given models under every SLO that was ever asked for.

    Once there is a deployable config, what was asked for are the recipes that have results under
    its SLO: it was decided among those, and the others are no reason to decide again.
    """
    versions = _versions(catalog, instance, hardware)
    every = tuple(sorted(catalog.recipes))
    nodes: list[Node] = []
    asked: list[Node] = []
    for key in model_keys:
        base = Node(graph.BASE_MODEL, Key(key))
        nodes.append(base)
        asked.append(base)
        for slo in catalog.slos:
            decision = Node(graph.DEPLOYABLE_CONFIG, Key(key, slo=slo))
            measured = tuple(name for name in every if _is_measured(versions, decision, name))
            decided = versions.recorded(decision)
            if decided or measured:
                nodes += Submission(key, (slo,), every).nodes()
                asked += Submission(key, (slo,), measured if decided else every).nodes()
    versions = versions.about_to_run(asked)
    judged = {item.node: item for item in make_plan(versions, asked, _has_artifact)}
    beyond = [node for node in nodes if node not in judged]
    for item in make_plan(versions, beyond, _has_artifact):
        never = item.timestamp is None
        judged[item.node] = replace(item, state="not asked for", reason="") if never else item
    return [judged[node] for node in dict.fromkeys(nodes)]


def _is_measured(versions: Versions, decision: Node, recipe: str) -> bool:
    return any(versions.recorded(node) for node in measurements_of(decision.key, recipe))


def _versions(
    catalog: Catalog,
    instance: dg.DagsterInstance,
    hardware: Hardware,
    asked: Iterable[Node] = (),
) -> Versions:
    registry = ModelRegistry(settings().home, REPOSITORY, catalog)
    sources = SourceVersions(catalog, registry, hardware)
    return Versions(instance, sources, frozenset(asked))


def _has_artifact(key: str) -> bool:
    return ArtifactStore(settings().store).find_complete(key) is not None


def bundle_link(model_key: str, slo: str) -> Path:
    """Return the stable link to the newest bundle of a model and SLO."""
    return settings().deployments / model_key / slo
