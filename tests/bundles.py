"""A bundle in a real store, of a real model folder; only who decided on it is left out."""

from pathlib import Path

from optikit_assets.artifacts import Artifact, open_store
from optikit_assets.artifacts.models import ModelRegistry
from optikit_assets.schemas import DEPLOYMENT_FILE, Deployment
from optikit_assets.settings import REPOSITORY, settings
from optikit_assets.specs import Catalog, digest
from tests.tiny_model import write_model
from tests.unit.deployment import samples


def keep_plain_bundle(folder: Path) -> tuple[Artifact, Deployment]:
    """Return a bundle that serves ``tiny@1`` as it came, from ``FOLDER/tiny/1``."""
    home = settings().home
    registry = ModelRegistry(home, REPOSITORY, Catalog.load(settings().recipes))
    model = registry.fetch(registry.add(str(write_model(folder / "tiny" / "1", 1))))
    deployment = samples.deployment().model_copy(
        update={
            "model": "tiny", "model_version": "1", "recipe": "baseline", "tuned": False,
            "checkpoint_digest": model.digest, "checkpoint_path": str(model.path),
        }
    )  # fmt: skip
    store = open_store(settings().store, home)
    with store.create(digest("bundle"), "deployable_config") as draft:
        DEPLOYMENT_FILE.write(draft, deployment)
        draft.file("report.html").write_text("<p>proof</p>")
    return store.get(digest("bundle")), deployment
