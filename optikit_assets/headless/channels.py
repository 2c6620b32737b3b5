"""The links of channels on this machine: each follows the ledger of its slot.

::

    OPTIKIT_HOME/channels/CHANNEL/FAMILY/SLO -> a copy of the bundle that is current

A copy, with its weights: what is made anew under the key of a bundle is served only once somebody
promotes it.

All that can fail for long (fetching weights) comes before a decision is written down; afterwards a
link is renamed. One that lags, for this machine failed there or another one decided, is moved by
`optikit deployed`. A machine without a link serves nothing of a slot, and fetches nothing for it.
"""

from pathlib import Path

from optikit_assets.artifacts import ArtifactStore
from optikit_assets.engines import get_engine
from optikit_assets.errors import StorageError
from optikit_assets.promotion import Slot
from optikit_assets.publishing import Bundle, FolderPublisher
from optikit_assets.releases import needs, promoted_bundle
from optikit_assets.schemas import DEPLOYMENT_FILE
from optikit_assets.settings import settings


def make_ready(
    store: ArtifactStore, slot: Slot, bundle_key: str, bundle_digest: str | None
) -> Bundle:
    """Have on this machine all that a bundle takes, beside what is served now.

    Raises
    ------
    StorageError
        If something of it cannot be had, or it has another content by now; nothing has changed
        then.
    """
    artifact = store.get(bundle_key)
    if artifact.digest != bundle_digest:
        raise StorageError(
            f"bundle {bundle_key[:12]}… was made anew, with another content; a link that "
            "serves what was promoted keeps serving it"
        )
    deployment = DEPLOYMENT_FILE.read(artifact)
    engine = get_engine(deployment.engine)
    return promoted_bundle(store, engine, artifact, deployment.model_key, f"next/{_name(slot)}")


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


def linked(slot: Slot) -> str | None:
    """Return the key of the bundle that the link of a slot leads to, None if there is no link.

    Empty: what it led to is gone.
    """
    link = settings().home / _name(slot)
    if not link.is_symlink():
        return None
    return link.resolve().name if link.exists() else ""


def _publisher(slot: Slot) -> FolderPublisher:
    return FolderPublisher(settings().home, f"channels/{slot.channel}")


def _name(slot: Slot) -> str:
    return f"channels/{slot.channel}/{slot.family}/{slot.slo}"
