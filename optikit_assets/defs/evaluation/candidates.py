"""q* of a recipe, as later stages see it, read from the recorded evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from optikit_assets import graph
from optikit_assets.artifacts.store import Artifact
from optikit_assets.defs.body import Partition
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

    ``references`` is its key with its digest, empty for the base model.
    """

    recipe: str
    trial: int
    path: Path
    digest: str
    total_bytes: int
    verdict: str
    accepted: bool
    reasons: tuple[str, ...]
    references: Mapping[str, str | None] = field(default_factory=dict)


def comparison_of(stage: Partition, recipe: str) -> Comparison | None:
    """Return the recorded comparison of a recipe of this stage's model; None if it failed.

    Raises
    ------
    StageError
        If the recipe was never evaluated.
    """
    return read_comparison(_evaluation(stage, recipe))


def read_comparison(evaluation: Artifact | None) -> Comparison | None:
    """Return the comparison of an evaluation, None if there was nothing to compare."""
    if evaluation is None or not COMPARISON_FILE.is_in(evaluation):
        return None
    return COMPARISON_FILE.read(evaluation)


def checkpoint_key(evaluation: Artifact, comparison: Comparison) -> str | None:
    """Return the key of the checkpoint of q*, None for the model itself."""
    return CHECKPOINTS_FILE.read(evaluation).checkpoints[comparison.q_star]


def representative_of(stage: Partition, recipe: str) -> Representative:
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
    evaluation, comparison = _evaluation(stage, recipe), comparison_of(stage, recipe)
    if evaluation is None or comparison is None:
        reason = why_not_evaluated(evaluation)
        return Representative(recipe, 0, stage.base.path, "", 0, FAILED, False, (reason,))
    key = checkpoint_key(evaluation, comparison)
    checkpoint = None if key is None else verified(stage, key)
    references = {} if checkpoint is None else {checkpoint.key: checkpoint.digest}
    if any(evaluation.references.get(k) not in (None, now) for k, now in references.items()):
        raise ChangedInputError(
            f"the checkpoint of trial {comparison.q_star} of {recipe} was made anew after it was "
            "evaluated, with another content; run again, it is evaluated first"
        )
    return Representative(
        recipe=recipe,
        trial=comparison.q_star,
        path=stage.base.path if checkpoint is None else checkpoint.path,
        digest=stage.base.digest if checkpoint is None else checkpoint.digest or checkpoint.key,
        total_bytes=stage.base.total_bytes if checkpoint is None else checkpoint.total_bytes,
        verdict=comparison.verdict,
        accepted=comparison.accepted,
        reasons=comparison.reasons,
        references=references,
    )


def verified(stage: Partition, key: str) -> Artifact:
    """Return an artifact of this stage's store after a look at the content of its files.

    Raises
    ------
    DamagedArtifactError
        If it is not what was put into the store.
    """
    artifact = stage.artifacts.store.verify(key)
    if not artifact.verified:
        stage.context.log.warning(
            f"{artifact.path} was made by an earlier release, without digests: only the sizes of "
            "its files were compared"
        )
    return artifact


def _evaluation(stage: Partition, recipe: str) -> Artifact | None:
    return stage.artifact_of(stage.node.needed(graph.EVAL_SCORES, recipe))


def why_not_evaluated(artifact: Artifact | None) -> str:
    """Say why an evaluation compared nothing; None stands for one that failed."""
    if artifact is None:
        return "no candidate of it could be evaluated: see eval_scores"
    return UNSUPPORTED_FILE.read(artifact).reason
