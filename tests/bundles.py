"""A bundle in a real store, of a real model folder; only who decided on it is left out."""

from pathlib import Path

from optikit_assets.artifacts import Artifact, open_store
from optikit_assets.artifacts.models import ModelRegistry
from optikit_assets.engines import Flags, get_engine
from optikit_assets.schemas import DEPLOYMENT_FILE, Deployment
from optikit_assets.settings import REPOSITORY, settings
from optikit_assets.specs import Catalog, digest
from tests.tiny_model import write_model
from tests.unit.deployment import samples


def keep_plain_bundle(folder: Path) -> tuple[Artifact, Deployment]:
    """Return a bundle that serves ``tiny@1`` as it came, from ``FOLDER/tiny/1``."""
    return keep_bundle(str(write_model(folder / "tiny" / "1", 1)))


def keep_bundle(reference: str, flags: Flags | None = None) -> tuple[Artifact, Deployment]:
    """Return a bundle that serves a model as it came; with flags it has the engine's file, too."""
    home = settings().home
    registry = ModelRegistry(home, REPOSITORY, Catalog.load(settings().recipes))
    version = registry.add(reference)
    model = registry.fetch(version)
    deployment = samples.deployment().model_copy(
        update={
            "model": version.name, "model_version": version.version, "recipe": "baseline",
            "tuned": False, "checkpoint_digest": model.digest, "checkpoint_path": str(model.path),
            **({} if flags is None else {"flags": dict(flags)}),
        }
    )  # fmt: skip
    engine = get_engine(deployment.engine)
    store = open_store(settings().store, home)
    with store.create(digest("bundle"), "deployable_config") as draft:
        DEPLOYMENT_FILE.write(draft, deployment)
        draft.file("report.html").write_text("<p>proof</p>")
        if flags is not None:
            text = engine.config_text(
                flags, model=str(model.path), served_model_name=deployment.model_key
            )
            draft.file(engine.config_file).write_text(text)
    return store.get(digest("bundle")), deployment
