"""Measures the newest bundle of a model and SLO again; see `optikit_assets.deployment`."""

from pathlib import Path

from optikit_assets.artifacts import open_store
from optikit_assets.defs.deployment.recertified_config import recertified_config
from optikit_assets.graph import DEPLOYABLE_CONFIG, Key, Node
from optikit_assets.headless.bundles import newest_bundle
from optikit_assets.headless.materialize import materialize_beside
from optikit_assets.schemas import RECERTIFICATION_FILE, RecertifiedDeployment
from optikit_assets.settings import settings
from resources.stage_runner import Listener, nobody


def recertify_newest(
    model_key: str, slo: str, certified_on: Path | None, listener: Listener = nobody
) -> RecertifiedDeployment:
    """Serve the newest bundle and compare it with what it was certified for.

    Parameters
    ----------
    certified_on
        ``OPTIKIT_HOME`` with the stage environments that it was certified on; None: the record.

    Raises
    ------
    OptikitError
        If there is no bundle, or it cannot be served here.
    """
    newest_bundle(model_key, slo)
    config = {} if certified_on is None else {"certified_on": str(certified_on.absolute())}
    version = materialize_beside(
        recertified_config, Node(DEPLOYABLE_CONFIG, Key(model_key, slo=slo)), config, listener
    )
    return RECERTIFICATION_FILE.read(open_store(settings().store, settings().home).get(version))
