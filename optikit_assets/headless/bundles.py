"""The newest bundle of a model version and an SLO, wherever it is kept."""

from optikit_assets.artifacts import Artifact, open_store
from optikit_assets.artifacts.models import ModelRegistry
from optikit_assets.defs.deployment.newest import newest_recorded
from optikit_assets.delivery import is_within_reach
from optikit_assets.headless.materialize import open_instance
from optikit_assets.schemas import Deployment
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
    return model_registry().resolve(model).key


def model_registry() -> ModelRegistry:
    """Return the registry of this process, over the spec files as they are now."""
    here = settings()
    return ModelRegistry(here.home, here.root, Catalog.load(here.recipes))


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
        return newest_recorded(instance, store, model_key, slo)


def published_uri(bundle_key: str) -> str | None:
    """Return what a pod takes the weights of a bundle from, where such a place got it last."""
    history = open_history(settings())
    history.drain()
    found = history.query(
        "SELECT uri FROM publications WHERE bundle_key = $key ORDER BY published_at DESC",
        {"key": bundle_key},
    )
    return next((uri for uri in found["uri"] if is_within_reach(uri)), None)
