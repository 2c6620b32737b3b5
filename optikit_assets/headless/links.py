"""Links to bundles that lead nowhere, and those that were never renamed to what they are for.

::

    OPTIKIT_HOME/deployments/MODEL/SLO          follows the newest decision
    OPTIKIT_HOME/channels/CHANNEL/FAMILY/SLO    follows the ledger of its slot
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from optikit_assets.artifacts import open_store
from optikit_assets.engines import get_engine
from optikit_assets.errors import StorageError
from optikit_assets.headless.run_owners import unfinished_runs
from optikit_assets.publishing import FolderPublisher
from optikit_assets.releases import local_bundle
from optikit_assets.settings import settings

# As `FolderPublisher` names them: `.SLO.PID.THREAD`.
_UNNAMED = re.compile(r"\..+\.\d+\.\d+")
# A rename comes right after the link; younger ones may still get theirs.
_REST_S = 60.0


@dataclass(frozen=True)
class BrokenLink:
    """A link that is not as it should be.

    Attributes
    ----------
    found
        What is wrong with it, in a line.
    mend
        Puts it right, and says how. Raises `OptikitError` with what to do if that cannot be.
    """

    found: str
    mend: Callable[[], str]


def broken_links() -> Iterator[BrokenLink]:
    """Yield the links of this home that are broken; a target that others wrote is not looked at."""
    home = settings().home
    for pattern, lead in (("deployments/*/*", _lead_to_newest), ("channels/*/*/*", _follow_ledger)):
        for link in sorted(home.glob(pattern)):
            if not link.is_symlink():
                continue
            if _UNNAMED.fullmatch(link.name):
                if time.time() - link.lstat().st_mtime > _REST_S:
                    yield _unnamed(link)
            elif not link.exists():
                found = f"{link} leads to {link.readlink()}, which is gone"
                yield BrokenLink(found, lambda link=link, lead=lead: lead(link))


def _unnamed(link: Path) -> BrokenLink:
    def remove() -> str:
        link.unlink(missing_ok=True)
        return "removed"

    return BrokenLink(f"{link} was never renamed: its maker ended", remove)


def _lead_to_newest(link: Path) -> str:
    # The whole graph comes with it, which takes seconds to load.
    from optikit_assets.defs.deployment.newest import newest_decided
    from optikit_assets.headless.materialize import opened_instance

    model_key, slo = link.parent.name, link.name
    here = settings()
    store = open_store(here.store, here.home)
    with opened_instance() as instance:
        artifact, deployment = newest_decided(instance, store, model_key, slo)
        for key in (artifact.key, *artifact.references):
            store.verify(key)
        engine = get_engine(deployment.engine)
        bundle = local_bundle(store, engine, artifact, model_key, f"{model_key}/{slo}")
        # A run publishes before it records what it decided.
        if going_on := unfinished_runs(instance):
            raise StorageError(
                f"run {going_on[0].run_id[:8]} goes on, which may publish another bundle there: "
                "run again once it has ended"
            )
    if not link.exists():
        FolderPublisher(here.home).publish(bundle, model_key, slo)
    return f"leads to bundle {artifact.key[:12]}…, the newest"


def _follow_ledger(link: Path) -> str:
    from optikit_assets.headless.promotion import deployed_now

    deployed_now(link.parents[1].name)
    if not link.exists():
        raise StorageError(
            "what the channel has is gone from the store: `optikit rollback`, or make it anew and "
            "`optikit promote` it"
        )
    return f"leads to {link.resolve().name[:12]}…, as the ledger says"
