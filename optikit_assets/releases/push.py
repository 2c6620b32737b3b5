"""Pushes a certified bundle, with its weights, to a publishing target."""

import secrets
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optikit_assets.artifacts import Artifact, ArtifactStore
from optikit_assets.artifacts.model_folder import check_model_folder
from optikit_assets.artifacts.models import ModelRegistry
from optikit_assets.delivery import MODEL_FOLDER, deploy_files, is_within_reach, serving_plan
from optikit_assets.disk import storage_error
from optikit_assets.engines import get_engine
from optikit_assets.errors import StorageError
from optikit_assets.publishing import MlflowTracker, Placed, Release, Target, open_target
from optikit_assets.releases.account import account_of
from optikit_assets.releases.card import card_of
from optikit_assets.releases.weights import ServedWeights, served_weights
from optikit_assets.schemas import DEPLOYMENT_FILE, Deployment
from optikit_assets.settings import settings
from optikit_assets.specs import PublishSpec, digest

_REPORT = "report.html"


@dataclass(frozen=True)
class Pushed:
    """A release that a target has, and that its alias names; ``release`` is its key."""

    target: PublishSpec
    release: str
    placed: Placed


def push_bundle(
    spec: PublishSpec,
    artifact: Artifact,
    deployment: Deployment,
    *,
    store: ArtifactStore,
    registry: ModelRegistry,
) -> Pushed:
    """Push a bundle; what is there already is not sent again.

    Raises
    ------
    ChangedInputError
        If the weights are not those that were certified.
    StorageError
        If the target cannot be reached or written; its alias names what it named before. If it is
        the tracker, that alias does; what was pushed is there. Or if this machine's disk fails.
    """
    spec = spec.of(deployment.model, deployment.slo.name)
    scratch = settings().home / "cache"
    try:
        weights = served_weights(store, registry, artifact, deployment)
        files = _model_files(weights, registry, deployment)
        target = open_target(spec.to)
        key = digest(["release", artifact.key, artifact.digest, weights.digest])
        scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=scratch, prefix="publish-") as folder:
            bundle = _bundle(Path(folder), artifact, deployment, target, key)
            source = registry.resolve(deployment.model_key).source
            card = card_of(deployment, source)
            placed = target.push(Release(key, files, bundle, card), spec.alias)
            if spec.mlflow is not None:
                told = account_of(key, artifact.key, deployment, bundle, Path(folder))
                link = MlflowTracker(spec.mlflow).record(told, placed.uri, spec.alias)
                placed = replace(placed, link=link)
    except OSError as error:
        raise storage_error(error, scratch, "the bundle") or StorageError(
            f"cannot push {deployment.model_key} to {spec.to}: {error.strerror or error} "
            f"({error.filename or 'no file'}); run again: what was sent is not sent once more"
        ) from error
    return Pushed(spec, key, placed)


def publication_row(
    pushed: Pushed, artifact: Artifact, deployment: Deployment, by: str
) -> Mapping[str, Any]:
    """Return the row of the table ``publications`` for one push."""
    return {
        "publication": f"{time.time_ns():020d}-{secrets.token_hex(4)}",
        "target": pushed.target.name,
        "place": pushed.target.to,
        "model": deployment.model_key,
        "slo": deployment.slo.name,
        "bundle_key": artifact.key,
        "release": pushed.release,
        "uri": pushed.placed.uri,
        "alias": pushed.placed.alias,
        "sent": pushed.placed.sent,
        "published_by": by,
        "published_at": datetime.now(UTC),
    }


def _model_files(
    weights: ServedWeights, registry: ModelRegistry, deployment: Deployment
) -> Mapping[str, Path]:
    """Return what decides the answers, and of an artifact all that its maker put beside it."""
    folder = weights.folder()
    trusted = registry.catalog.model(deployment.model).trust_remote_code
    names = set(check_model_folder(folder, trusted).files)
    if isinstance(weights.place, Artifact):
        # Of a checkpoint that is also what made it (recipe.yaml).
        names |= {name for name, entry in weights.place.entries.items() if entry.link is None}
    return {name: folder / name for name in sorted(names)}


def _bundle(
    folder: Path, artifact: Artifact, deployment: Deployment, target: Target, key: str
) -> dict[str, Path]:
    """Write the bundle as it is for a target: its manifests take the weights from there."""
    engine = get_engine(deployment.engine)
    uri = target.uri(key)
    plan = serving_plan(deployment, engine, model_uri=uri if is_within_reach(uri) else None)
    files = deploy_files(deployment, engine, plan, MODEL_FOLDER)
    files[engine.config_file] = engine.config_text(
        deployment.flags, model=MODEL_FOLDER, served_model_name=deployment.model_key
    )
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    kept = {name: artifact.file(name) for name in (DEPLOYMENT_FILE.file, _REPORT)}
    return {**{name: folder / name for name in files}, **kept}
