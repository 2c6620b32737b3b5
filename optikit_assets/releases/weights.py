"""What a bundle serves: what is promoted or pushed is what was certified, file by file."""

from dataclasses import dataclass
from pathlib import Path

from optikit_assets.artifacts import Artifact, ArtifactStore
from optikit_assets.artifacts.models import ModelRegistry
from optikit_assets.engines import get_engine
from optikit_assets.errors import ChangedInputError, StorageError
from optikit_assets.releases.local import named_model
from optikit_assets.schemas import Deployment


@dataclass(frozen=True)
class ServedWeights:
    """Weights that are what they were when they were certified.

    ``place`` is an artifact, or the folder of a model as it came.
    """

    digest: str
    place: Artifact | Path

    def folder(self) -> Path:
        """Return where they lie on this machine, fetched if need be."""
        return self.place if isinstance(self.place, Path) else self.place.folder()


def served_weights(
    store: ArtifactStore, registry: ModelRegistry, artifact: Artifact, deployment: Deployment
) -> ServedWeights:
    """Look at the weights that a bundle serves: a checkpoint, or the model as it came.

    Raises
    ------
    ChangedInputError
        If they are not what was certified.
    StorageError
        If they are gone or damaged, or no digest of them was kept, so that nothing is proven.
    """
    digest = deployment.checkpoint_digest
    if digest is None:
        raise StorageError(
            f"no digest of the weights of {deployment.model_key} was kept: nothing is proven of "
            "them; run `optikit optimize` again first"
        )
    if artifact.references:
        ((key, known),) = artifact.references.items()
        found = store.verify(key)
        if None in (known, found.digest):
            raise StorageError(
                f"{found.kind} {key[:12]}… has no digest, so that nothing is proven of it"
            )
        if known != found.digest:
            raise ChangedInputError(
                f"{found.kind} {key[:12]}… has another content than was certified"
            )
        return ServedWeights(digest, found)
    named = named_model(get_engine(deployment.engine), artifact)
    if named is not None:
        # The bundle names them by content, and is what was certified.
        return ServedWeights(digest, store.verify(named))
    model = registry.fetch(registry.resolve(deployment.model_key))
    if model.digest != digest:
        raise ChangedInputError(
            f"the weights in {model.path} are not those that {deployment.model_key} was certified "
            "with; run `optikit optimize` again first"
        )
    return ServedWeights(digest, model.path)
