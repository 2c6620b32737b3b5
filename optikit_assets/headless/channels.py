"""The links of channels on this machine: each follows the ledger of its slot.

::

    OPTIKIT_HOME/channels/CHANNEL/FAMILY/SLO -> the bundle that is current

All that can fail for long (fetching weights) comes before a decision is written down; afterwards a
link is renamed. One that lags, for this machine failed there or another one decided, is moved by
the next decision and by `optikit deployed`.
"""

from pathlib import Path

from optikit_assets.artifacts import ArtifactStore
from optikit_assets.engines import get_engine
from optikit_assets.promotion import Slot
from optikit_assets.publishing import Bundle, FolderPublisher
from optikit_assets.releases import local_bundle, needs
from optikit_assets.schemas import DEPLOYMENT_FILE
from optikit_assets.settings import settings


def make_ready(store: ArtifactStore, slot: Slot, bundle_key: str) -> Bundle:
    """Have on this machine all that a bundle takes, beside what is served now.

    Raises
    ------
    StorageError
        If something of it cannot be had; nothing has changed then.
    """
    artifact = store.get(bundle_key)
    deployment = DEPLOYMENT_FILE.read(artifact)
    engine = get_engine(deployment.engine)
    return local_bundle(store, engine, artifact, deployment.model_key, f"next/{_name(slot)}")


def point(store: ArtifactStore, slot: Slot, bundle: Bundle) -> Path:
    """Let the link of a slot name a bundle that was made ready.

    Raises
    ------
    StorageError
        If the disk refuses it; the link names what it named before.
    """
    published = _publisher(slot).publish(bundle, slot.family, slot.slo)
    artifact = store.get(bundle.key)
    engine = get_engine(DEPLOYMENT_FILE.read(artifact).engine)
    store.keep_here(_name(slot), needs(engine, artifact))
    store.keep_here(f"next/{_name(slot)}", [])
    return Path(published.where)


def lags(slot: Slot, bundle_key: str) -> bool:
    """Whether the link of a slot names another bundle than this one, or none."""
    there = _publisher(slot).published(slot.family, slot.slo)
    return there is None or there.key != bundle_key


def _publisher(slot: Slot) -> FolderPublisher:
    return FolderPublisher(settings().home, f"channels/{slot.channel}")


def _name(slot: Slot) -> str:
    return f"channels/{slot.channel}/{slot.family}/{slot.slo}"
