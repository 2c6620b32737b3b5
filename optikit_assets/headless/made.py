"""What a flow made that decides nothing: q* of every recipe, and its rate under every SLO."""

from collections.abc import Set

import dagster as dg

from optikit_assets import graph
from optikit_assets.artifacts import Artifact, ArtifactStore, open_store
from optikit_assets.defs.evaluation.candidates import (
    checkpoint_key,
    read_comparison,
    why_not_evaluated,
)
from optikit_assets.defs.recorded import recorded
from optikit_assets.freshness import artifact_of
from optikit_assets.graph import Node
from optikit_assets.headless.materialize import open_instance
from optikit_assets.headless.optimize import Submission
from optikit_assets.schemas import (
    BENCHMARK_FILE,
    EvaluatedRecipe,
    FailedBenchmark,
    MeasuredRecipe,
)
from optikit_assets.settings import settings


def evaluated_recipes(submission: Submission, unfinished: Set[Node]) -> list[EvaluatedRecipe]:
    """Return what was found out about each recipe of the submission that was evaluated.

    Parameters
    ----------
    unfinished
        What this run did not bring up to date: what is recorded of it is older.
    """
    store = open_store(settings().store, settings().home)
    with open_instance() as instance:
        return [
            _evaluated(store, node.key.recipe, artifact)
            for node, artifact in _recorded(
                instance, store, submission, graph.EVAL_SCORES, unfinished
            )
        ]


def measured_recipes(submission: Submission, unfinished: Set[Node]) -> list[MeasuredRecipe]:
    """Return what was found out about each recipe that was load-tested, as `evaluated_recipes`."""
    store = open_store(settings().store, settings().home)
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
        return EvaluatedRecipe(recipe=recipe, verdict=verdict, reason=why_not_evaluated(evaluation))
    star = comparison.representative
    key = checkpoint_key(evaluation, comparison)
    return EvaluatedRecipe(
        recipe=recipe,
        verdict="reference" if comparison.is_baseline else comparison.verdict,
        recovery=star.mean_recovery,
        recovery_low=star.mean_recovery_low,
        recovery_high=star.mean_recovery_high,
        reason="; ".join(comparison.reasons),
        checkpoint=None if key is None else store.get(key).where,
        artifact=evaluation.where,
    )


def _measured(node: Node, artifact: Artifact | None) -> MeasuredRecipe:
    return MeasuredRecipe(
        recipe=node.key.recipe,
        slo=node.key.slo,
        pool=node.key.pool,
        benchmark=FailedBenchmark(reason="its sweep failed")
        if artifact is None
        else BENCHMARK_FILE.read(artifact),
        artifact=None if artifact is None else artifact.where,
    )
