"""A link per model version and SLO: ``OPTIKIT_HOME/deployments/MODEL/SLO``."""

import os
import threading
from contextlib import suppress
from pathlib import Path

from optikit_assets.disk import storage_error
from optikit_assets.publishing.base import Bundle, Published, register_publisher


@register_publisher("folder")
class FolderPublisher:
    """Points a symbolic link at the bundle where it lies; the link is replaced by rename.

    The bundle's folder is named after its key, as those of the artifact store are.
    """

    def __init__(self, home: Path, folder: str = "deployments") -> None:
        self.root = home / folder

    def publish(self, bundle: Bundle, model: str, slo: str) -> Published:
        link = self._link(model, slo)
        fresh = link.with_name(f".{link.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            link.parent.mkdir(parents=True, exist_ok=True)
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(os.path.relpath(bundle.path, link.parent))
            # Of what was served until now: so it counts as used until the end of that.
            with suppress(OSError):
                os.utime(link)
            fresh.replace(link)
        except OSError as error:
            translated = storage_error(error, self.root, f"the link {link}")
            if translated is None:
                raise
            raise translated from error
        return Published(str(link), bundle.key)

    def published(self, model: str, slo: str) -> Published | None:
        link = self._link(model, slo)
        if not link.exists():
            return None
        return Published(str(link), link.resolve().name)

    def _link(self, model: str, slo: str) -> Path:
        return self.root / model / slo
