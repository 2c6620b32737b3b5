"""q* of a recipe, as later stages see it, read from the recorded evaluation."""

from dataclasses import dataclass

from optikit_assets import graph
from optikit_assets.artifacts import Artifact, Reference
from optikit_assets.artifacts.models import FetchedModel
from optikit_assets.defs.body import Partition
from optikit_assets.engines import ModelFacts
from optikit_assets.engines.model_facts import CONFIG, WEIGHTS
from optikit_assets.errors import ChangedInputError
from optikit_assets.graph import FAILED
from optikit_assets.schemas import (
    CHECKPOINTS_FILE,
    COMPARISON_FILE,
    UNSUPPORTED_FILE,
    Comparison,
)


@dataclass(frozen=True)
class Representative:
    """The checkpoint that is served, and what the quality gate said of it.

    ``model`` is what messages carry; ``base`` is the model that it was made of, and served itself
    where there is no ``checkpoint``.
    """

    recipe: str
    trial: int
    model: Reference
    base: FetchedModel
    checkpoint: Artifact | None
    verdict: str
    accepted: bool
    reasons: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Of what is served."""
        if self.checkpoint is None:
            return self.base.digest
        return self.checkpoint.digest or self.checkpoint.key

    @property
    def total_bytes(self) -> int:
        """Size of what is served."""
        return (self.checkpoint or self.base).total_bytes

    @property
    def where(self) -> str:
        """Where what is served is, as people may look it up."""
        return str(self.base.path) if self.checkpoint is None else self.checkpoint.where

    @property
    def references(self) -> dict[str, str | None]:
        """Key of the checkpoint with its digest, empty for the base model."""
        return {} if self.checkpoint is None else {self.checkpoint.key: self.checkpoint.digest}

    def facts(self) -> ModelFacts:
        """Return the sizes that bound how it can be served; no weights are read for it.

        Raises
        ------
        ModelError
            If its configuration lacks a number that is needed.
        """
        if self.checkpoint is None:
            return ModelFacts.read(self.base.path)
        sizes = (e.bytes for n, e in self.checkpoint.entries.items() if n.endswith(WEIGHTS))
        config = self.checkpoint.read_json(CONFIG)
        return ModelFacts.of(config, sum(sizes), f"{self.checkpoint.where}/{CONFIG}")


def comparison_of(partition: Partition, recipe: str) -> Comparison | None:
    """Return the recorded comparison of a recipe of this stage's model; None if it failed.

    Raises
    ------
    StageError
        If the recipe was never evaluated.
    """
    return read_comparison(_evaluation(partition, recipe))


def read_comparison(evaluation: Artifact | None) -> Comparison | None:
    """Return the comparison of an evaluation, None if there was nothing to compare."""
    if evaluation is None or not COMPARISON_FILE.is_in(evaluation):
        return None
    return COMPARISON_FILE.read(evaluation)


def checkpoint_key(evaluation: Artifact, comparison: Comparison) -> str | None:
    """Return the key of the checkpoint of q*, None for the model itself."""
    return CHECKPOINTS_FILE.read(evaluation).checkpoints[comparison.q_star]


def representative_of(partition: Partition, recipe: str) -> Representative:
    """Return q* of a recipe of this stage's model, from the recorded evaluation.

    Raises
    ------
    StageError
        If the recipe was never evaluated.
    DamagedArtifactError
        If the checkpoint is not what was made.
    ChangedInputError
        If it is not the one that was evaluated.
    """
    evaluation, comparison = _evaluation(partition, recipe), comparison_of(partition, recipe)
    if evaluation is None or comparison is None:
        reason = why_not_evaluated(evaluation)
        base = partition.base_reference
        return Representative(recipe, 0, base, partition.base, None, FAILED, False, (reason,))
    key = checkpoint_key(evaluation, comparison)
    checkpoint = None if key is None else verified(partition, key)
    then = None if checkpoint is None else evaluation.references.get(checkpoint.key)
    if checkpoint is not None and then not in (None, checkpoint.digest):
        raise ChangedInputError(
            f"the checkpoint of trial {comparison.q_star} of {recipe} was made anew after it was "
            "evaluated, with another content; run again, it is evaluated first"
        )
    return Representative(
        recipe=recipe,
        trial=comparison.q_star,
        model=partition.base_reference if checkpoint is None else checkpoint.reference,
        base=partition.base,
        checkpoint=checkpoint,
        verdict=comparison.verdict,
        accepted=comparison.accepted,
        reasons=comparison.reasons,
    )


def verified(partition: Partition, key: str) -> Artifact:
    """Return an artifact of this stage's store after a look at the content of its files.

    Raises
    ------
    DamagedArtifactError
        If it is not what was put into the store.
    """
    artifact = partition.artifacts.store.verify(key)
    if not artifact.verified:
        partition.context.log.warning(
            f"{artifact.where} was made by an earlier release, without digests: only the sizes of "
            "its files were compared"
        )
    return artifact


def _evaluation(partition: Partition, recipe: str) -> Artifact | None:
    return partition.artifact_of(partition.node.needed(graph.EVAL_SCORES, recipe))


def why_not_evaluated(artifact: Artifact | None) -> str:
    """Say why an evaluation compared nothing; None stands for one that failed."""
    if artifact is None:
        return "no candidate of it could be evaluated: see eval_scores"
    return UNSUPPORTED_FILE.read(artifact).reason
