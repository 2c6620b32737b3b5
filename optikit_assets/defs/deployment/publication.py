"""What is published: the bundle, with the model where this machine has it."""

from optikit_assets.artifacts import Artifact
from optikit_assets.defs.body import Partition
from optikit_assets.defs.evaluation.candidates import verified
from optikit_assets.publishing import Bundle
from optikit_assets.releases import local_bundle
from optikit_assets.schemas import Deployment


def bundle_of(partition: Partition, deployment: Deployment, artifact: Artifact) -> Bundle:
    """Return the bundle of a decision, ready to be served from this machine.

    Raises
    ------
    DamagedArtifactError
        If the bundle or the checkpoint that it serves is not what was certified.
    """
    for key in (artifact.key, *artifact.references):
        verified(partition, key)
    name = f"{partition.model_key}/{partition.slo}"
    store = partition.artifacts.store
    return local_bundle(store, partition.engine, artifact, deployment.model_key, name)
