"""What a flow made that decides nothing: q* of every recipe, and its rate under every SLO."""

from collections.abc import Set
from dataclasses import dataclass

import dagster as dg

from optikit_assets import graph
from optikit_assets.artifacts.store import Artifact, ArtifactStore
from optikit_assets.defs.evaluation.candidates import (
    checkpoint_key,
    read_comparison,
    why_not_evaluated,
)
from optikit_assets.defs.recorded import artifact_of, recorded
from optikit_assets.graph import Node
from optikit_assets.headless.materialize import open_instance
from optikit_assets.headless.optimize import Submission
from optikit_assets.schemas import BENCHMARK_FILE
from optikit_assets.settings import settings


@dataclass(frozen=True)
class EvaluatedRecipe:
    """A recipe's representative q* against the baseline.

    ``recovery`` is its weighted mean over tasks, unset where the baseline scores nothing;
    ``checkpoint`` its folder, unset for the model itself and where nothing was compared;
    ``artifact`` holds the comparison.
    """

    recipe: str
    verdict: str
    recovery: float | None = None
    recovery_low: float | None = None
    recovery_high: float | None = None
    reason: str = ""
    checkpoint: str | None = None
    artifact: str | None = None


@dataclass(frozen=True)
class MeasuredRecipe:
    """The highest rate at which q* of a recipe meets an SLO with the engine's defaults.

    ``pool`` is unset on the machine itself.
    """

    recipe: str
    slo: str
    status: str
    rate_rps: float = 0.0
    rate_low_rps: float | None = None
    rate_high_rps: float | None = None
    gpus: int = 1
    reason: str = ""
    artifact: str | None = None
    pool: str | None = None


def evaluated_recipes(submission: Submission, unfinished: Set[Node]) -> list[EvaluatedRecipe]:
    """Return what was found out about each recipe of the submission that was evaluated.

    Parameters
    ----------
    unfinished
        What this run did not bring up to date: what is recorded of it is older.
    """
    store = ArtifactStore(settings().store)
    with open_instance() as instance:
        return [
            _evaluated(store, node.key.recipe, artifact)
            for node, artifact in _recorded(
                instance, store, submission, graph.EVAL_SCORES, unfinished
            )
        ]


def measured_recipes(submission: Submission, unfinished: Set[Node]) -> list[MeasuredRecipe]:
    """Return what was found out about each recipe that was load-tested, as `evaluated_recipes`."""
    store = ArtifactStore(settings().store)
    with open_instance() as instance:
        return [
            _measured(node, artifact)
            for node, artifact in _recorded(
                instance, store, submission, graph.BENCHMARK_SWEEP, unfinished
            )
        ]


def _recorded(
    instance: dg.DagsterInstance,
    store: ArtifactStore,
    submission: Submission,
    asset: str,
    unfinished: Set[Node],
) -> list[tuple[Node, Artifact | None]]:
    """Return the recorded partitions of an asset; without an artifact what failed."""
    nodes = [n for n in submission.nodes() if n.asset == asset and n not in unfinished]
    known = [(node, recorded(instance, node)) for node in nodes]
    return [(node, artifact_of(store, latest)) for node, latest in known if latest is not None]


def _evaluated(store: ArtifactStore, recipe: str, evaluation: Artifact | None) -> EvaluatedRecipe:
    comparison = read_comparison(evaluation)
    if evaluation is None or comparison is None:
        verdict = graph.FAILED if evaluation is None else "unsupported"
        return EvaluatedRecipe(recipe, verdict, reason=why_not_evaluated(evaluation))
    star = comparison.representative
    key = checkpoint_key(evaluation, comparison)
    return EvaluatedRecipe(
        recipe,
        "reference" if comparison.is_baseline else comparison.verdict,
        star.mean_recovery,
        star.mean_recovery_low,
        star.mean_recovery_high,
        "; ".join(comparison.reasons),
        None if key is None else str(store.folder(key)),
        str(evaluation.path),
    )


def _measured(node: Node, artifact: Artifact | None) -> MeasuredRecipe:
    recipe, slo, pool = node.key.recipe, node.key.slo, node.key.pool
    if artifact is None:
        return MeasuredRecipe(recipe, slo, graph.FAILED, reason="its sweep failed", pool=pool)
    outcome = BENCHMARK_FILE.read(artifact)
    low, high = outcome.rate_ci_rps or (None, None)
    return MeasuredRecipe(
        recipe,
        slo,
        outcome.status,
        outcome.certified_rate_rps,
        low,
        high,
        outcome.gpus,
        outcome.reason,
        str(artifact.path),
        pool,
    )
