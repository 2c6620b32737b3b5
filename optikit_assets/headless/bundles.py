"""The newest bundle of a model version and an SLO, wherever it is kept."""

from optikit_assets import graph
from optikit_assets.artifacts import Artifact, open_store
from optikit_assets.artifacts.models import ModelRegistry
from optikit_assets.defs.recorded import recorded
from optikit_assets.errors import OptikitError
from optikit_assets.freshness import artifact_of
from optikit_assets.graph import Key, Node
from optikit_assets.headless.materialize import open_instance
from optikit_assets.schemas import DEPLOYMENT_FILE, Deployment
from optikit_assets.settings import settings
from optikit_assets.specs import Catalog
from resources.history import open_history


def resolve_model(model: str) -> str:
    """Return ``NAME@VERSION`` of a model; without a version the latest.

    Raises
    ------
    UnknownNameError
        If there is none.
    """
    here = settings()
    return ModelRegistry(here.home, here.root, Catalog.load(here.recipes)).resolve(model).key


def newest_bundle(model_key: str, slo: str) -> tuple[Artifact, Deployment]:
    """Return the bundle that was decided on last, and its record.

    Raises
    ------
    UnknownNameError
        If there is no such SLO.
    OptikitError
        If nothing was decided yet, or nothing can be deployed.
    """
    Catalog.load(settings().recipes).slo(slo)
    store = open_store(settings().store, settings().home)
    with open_instance() as instance:
        known = recorded(instance, Node(graph.DEPLOYABLE_CONFIG, Key(model_key, slo=slo)))
    artifact = artifact_of(store, known)
    if artifact is None:
        raise OptikitError(
            f"there is no bundle of {model_key} under SLO {slo}; make one with "
            f"`optikit optimize --model {model_key} --slo {slo}`"
        )
    deployment = DEPLOYMENT_FILE.read(artifact)
    if deployment.status != "feasible":
        raise OptikitError(
            f"no configuration of {model_key} meets SLO {slo}, so there is nothing to deploy: "
            f"{deployment.closest}"
        )
    return artifact, deployment


def published_uri(bundle_key: str) -> str | None:
    """Return what a server takes the weights of a bundle from, where it was published last."""
    history = open_history(settings())
    history.drain()
    found = history.query(
        "SELECT uri FROM publications WHERE bundle_key = $key ORDER BY published_at DESC LIMIT 1",
        {"key": bundle_key},
    )
    return next(iter(found["uri"]), None)
