"""Measures a bundle of a model and SLO again; see `optikit_assets.deployment`."""

from pathlib import Path

from optikit_assets.artifacts import open_store
from optikit_assets.defs.deployment.recertified_config import recertified_config
from optikit_assets.graph import DEPLOYABLE_CONFIG, Key, Node
from optikit_assets.headless.bundles import newest_bundle
from optikit_assets.headless.materialize import materialize_beside
from optikit_assets.headless.promotion import deployed_in
from optikit_assets.schemas import RECERTIFICATION_FILE, RecertifiedDeployment
from optikit_assets.settings import settings
from resources.stage_runner import Listener, nobody


def recertify_bundle(
    model_key: str,
    slo: str,
    *,
    certified_on: Path | None = None,
    quality: bool = False,
    channel: str | None = None,
    listener: Listener = nobody,
) -> RecertifiedDeployment:
    """Serve a bundle and compare it with what it was certified for.

    Parameters
    ----------
    certified_on
        ``OPTIKIT_HOME`` with the stage environments that it was certified on; None: the record.
    quality
        Whether its suite is answered again, too.
    channel
        Take what is deployed in this channel, of whichever version; None: the newest bundle.

    Raises
    ------
    OptikitError
        If there is no bundle, or it cannot be served here.
    """
    config: dict[str, object] = {"quality": quality}
    if certified_on is not None:
        config["certified_on"] = str(certified_on.absolute())
    if channel is None:
        newest_bundle(model_key, slo)
    else:
        config["bundle"], deployed = deployed_in(model_key, slo, channel)
        model_key = deployed.model_key
    version = materialize_beside(
        recertified_config, Node(DEPLOYABLE_CONFIG, Key(model_key, slo=slo)), config, listener
    )
    return RECERTIFICATION_FILE.read(open_store(settings().store, settings().home).get(version))
