"""What is published: the bundle, with the model where this machine has it."""

import os
import secrets
import shutil
from pathlib import Path

from optikit_assets.artifacts import Artifact
from optikit_assets.artifacts.references import ARTIFACT
from optikit_assets.defs.body import Partition
from optikit_assets.defs.evaluation.candidates import representative_of, verified
from optikit_assets.disk import storage_error
from optikit_assets.publishing import Bundle
from optikit_assets.schemas import Deployment
from optikit_assets.settings import settings


def bundle_of(partition: Partition, deployment: Deployment, artifact: Artifact) -> Bundle:
    """Return the bundle of a decision, ready to be served from this machine.

    A store of one machine holds it as it is. In one of many machines it names its model by content:
    here it is copied, with the folder that the model has on this machine, which keeps it.

    Raises
    ------
    DamagedArtifactError
        If the bundle or the checkpoint that it serves is not what was certified.
    """
    served = [artifact.key, *artifact.references]
    for key in served:
        verified(partition, key)
    store = partition.artifacts.store
    if store.shared_log is None or deployment.recipe is None:
        return Bundle(artifact.key, artifact.folder())
    model = representative_of(partition.on(deployment.pool), deployment.recipe).model
    if model.kind == ARTIFACT:
        served.append(model.where)
    store.keep_here(f"{partition.model_key}/{partition.slo}", dict.fromkeys(served))
    engine = partition.engine
    text = artifact.file(engine.config_file).read_text(encoding="utf-8")
    here = engine.config_text(
        engine.config_flags(text),
        model=str(store.local(model)),
        served_model_name=partition.model_key,
    )
    return Bundle(artifact.key, _copy(artifact, engine.config_file, here))


def _copy(artifact: Artifact, name: str, text: str) -> Path:
    """Return a copy of a bundle in which one file has another content."""
    place = settings().home / "bundles" / artifact.key
    part = place.with_name(f".{place.name[:16]}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        shutil.copytree(artifact.folder(), part)
        (part / name).write_text(text, encoding="utf-8")
        shutil.rmtree(place, ignore_errors=True)
        part.rename(place)
    except OSError as error:
        translated = storage_error(error, place.parent, f"bundle {artifact.key[:12]}…")
        if translated is None:
            raise
        raise translated from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return place
