"""Pushes the newest bundle of a model and SLO, with its weights, to a publishing target."""

from optikit_assets.artifacts import open_store
from optikit_assets.errors import OptikitError
from optikit_assets.headless.bundles import model_registry, newest_bundle
from optikit_assets.publishing import Placed
from optikit_assets.releases import publication_row, push_bundle
from optikit_assets.settings import settings
from optikit_assets.who import who
from resources.history import open_history


def publish(model_key: str, slo: str, target_name: str) -> Placed:
    """Push the newest bundle; what is there already is not sent again.

    Raises
    ------
    UnknownNameError
        If there is no such target.
    OptikitError
        If there is no bundle, or the target is for others.
    ChangedInputError
        If the weights are not those that were certified.
    StorageError
        If the target cannot be reached or written; its alias names what it named before.
    """
    by = who()
    registry = model_registry()
    spec = registry.catalog.target(target_name)
    artifact, deployment = newest_bundle(model_key, slo)
    if not spec.takes(deployment.model, slo):
        raise OptikitError(
            f"target {spec.name} is not for {deployment.model} under SLO {slo}: its file says "
            "which models and slos it is for"
        )
    store = open_store(settings().store, settings().home)
    pushed = push_bundle(spec, artifact, deployment, store=store, registry=registry)
    history = open_history(settings())
    history.append("publications", [publication_row(pushed, artifact, deployment, by)])
    history.drain()
    return pushed.placed
