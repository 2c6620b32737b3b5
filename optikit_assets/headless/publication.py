"""Pushes the newest bundle of a model and SLO, with its weights, to a publishing target."""

import secrets
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from optikit_assets.artifacts import Artifact, ArtifactStore, open_store
from optikit_assets.artifacts.model_folder import check_model_folder
from optikit_assets.artifacts.models import ModelRegistry
from optikit_assets.delivery import MODEL_FOLDER, deploy_files, serving_plan
from optikit_assets.disk import storage_error
from optikit_assets.engines import get_engine
from optikit_assets.errors import ChangedInputError
from optikit_assets.headless.bundles import newest_bundle
from optikit_assets.headless.promotion import who
from optikit_assets.publishing import Placed, Release, Target, open_target
from optikit_assets.schemas import DEPLOYMENT_FILE, Deployment
from optikit_assets.settings import settings
from optikit_assets.specs import Catalog, PublishSpec, digest
from resources.history import open_history

_REPORT = "report.html"


def publish(model_key: str, slo: str, target_name: str) -> Placed:
    """Push the newest bundle; what is there already is not sent again.

    Raises
    ------
    UnknownNameError
        If there is no such target.
    OptikitError
        If there is no bundle.
    ChangedInputError
        If the weights are not those that were certified.
    StorageError
        If the target cannot be reached or written; its alias names what it named before.
    """
    by = who()
    spec = Catalog.load(settings().recipes).target(target_name)
    artifact, deployment = newest_bundle(model_key, slo)
    store = open_store(settings().store, settings().home)
    weights, content = _weights(store, artifact, deployment)
    target = open_target(spec.to)
    key = digest(["release", artifact.key, artifact.digest, content])
    scratch = settings().home / "cache"
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=scratch, prefix="publish-") as folder:
            bundle = _bundle(Path(folder), artifact, deployment, target, key)
            placed = target.push(Release(key, weights, bundle), spec.alias)
    except OSError as error:
        raise storage_error(error, scratch, "the bundle") or error from error
    _remember(spec, deployment, artifact, key, placed, by)
    return placed


def _weights(
    store: ArtifactStore, artifact: Artifact, deployment: Deployment
) -> tuple[Mapping[str, Path], str]:
    """Return the files that are served, after a look at each of them, and their digest."""
    here = settings()
    if artifact.references:
        (key,) = artifact.references
        checkpoint = store.verify(key)
        folder, content = checkpoint.folder(), checkpoint.digest or checkpoint.key
    else:
        registry = ModelRegistry(here.home, here.root, Catalog.load(here.recipes))
        model = registry.fetch(registry.resolve(deployment.model_key))
        folder, content = model.path, model.digest
    if content != deployment.checkpoint_digest:
        raise ChangedInputError(
            f"the weights in {folder} are not known to be those that {deployment.model_key} was "
            "certified with; run `optikit optimize` again first"
        )
    trusted = Catalog.load(here.recipes).model(deployment.model).trust_remote_code
    files = check_model_folder(folder, trusted).files
    return {name: folder / name for name in files}, content


def _bundle(
    folder: Path, artifact: Artifact, deployment: Deployment, target: Target, key: str
) -> dict[str, Path]:
    """Write the bundle as it is for a target: its manifests take the weights from there."""
    engine = get_engine(deployment.engine)
    plan = serving_plan(deployment, engine, model_uri=target.uri(key))
    files = deploy_files(deployment, engine, plan)
    files[engine.config_file] = engine.config_text(
        deployment.flags, model=MODEL_FOLDER, served_model_name=deployment.model_key
    )
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    kept = {name: artifact.file(name) for name in (DEPLOYMENT_FILE.file, _REPORT)}
    return {**{name: folder / name for name in files}, **kept}


def _remember(
    spec: PublishSpec,
    deployment: Deployment,
    artifact: Artifact,
    key: str,
    placed: Placed,
    by: str,
) -> None:
    history = open_history(settings())
    row = {
        "publication": f"{time.time_ns():020d}-{secrets.token_hex(4)}",
        "target": spec.name,
        "place": spec.to,
        "model": deployment.model_key,
        "slo": deployment.slo.name,
        "bundle_key": artifact.key,
        "release": key,
        "uri": placed.uri,
        "alias": placed.alias,
        "sent": placed.sent,
        "published_by": by,
        "published_at": datetime.now(UTC),
    }
    history.append("publications", [row])
    history.drain()
