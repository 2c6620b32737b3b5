"""What a deployment answered to its suite when it was decided on, and what it answers now."""

from dataclasses import dataclass

from optikit_assets import graph
from optikit_assets.artifacts import ArtifactStore
from optikit_assets.defs.body import Partition
from optikit_assets.defs.evaluation.candidates import Representative, read_comparison, verified
from optikit_assets.defs.evaluation.scoring import evaluate_for
from optikit_assets.errors import EvaluationError, StageError
from optikit_assets.schemas import Comparison, Deployment
from optikit_assets.specs import digest
from optikit_assets.stateval.comparison import compare
from optikit_assets.stateval.scores import EvaluatedCandidate, load_candidate
from optikit_assets.workers.messages import Candidate


@dataclass(frozen=True)
class StoredAnswers:
    """The answers of what a deployment serves.

    Attributes
    ----------
    suite
        Name of the suite that was asked.
    trials
        How many candidates it was the best of, on these items.
    """

    suite: str
    answers: EvaluatedCandidate
    trials: int


def stored_answers(store: ArtifactStore, deployment: Deployment) -> StoredAnswers:
    """Return the answers that the quality gate judged when a deployment was decided on.

    Raises
    ------
    EvaluationError
        If they are gone.
    """
    node = f"{graph.EVAL_SCORES}[{deployment.model_key}|{deployment.recipe}]"
    key = deployment.content_keys.get(node)
    comparison = read_comparison(None if key is None else store.find(key))
    where = None if comparison is None else comparison.representative.artifact_key
    found = None if where is None else store.find(where)
    if comparison is None or found is None:
        raise EvaluationError(
            f"the answers of {deployment.model_key}, {deployment.recipe}, are gone"
        )
    answers = load_candidate(found.folder(), 0, found.key)
    return StoredAnswers(comparison.suite, answers, len(comparison.trials))


def answers_again(
    partition: Partition, shipped: Representative, deployment: Deployment
) -> Comparison:
    """Ask what is shipped the items of its suite again, and compare with what it answered then.

    The weights are the same, so what differs is the engine, and what stands below it. The suite's
    own margins say how much of a score may be lost.

    Raises
    ------
    StageError
        If the answers of then are gone, the suite has other items or prompts now, or it cannot be
        evaluated.
    """
    try:
        then = stored_answers(partition.artifacts.store, deployment)
    except EvaluationError as error:
        raise StageError(f"{error}, so quality cannot be compared with them") from error
    suite = partition.catalog.suite(then.suite)
    key = digest(["answers again", partition.context.run.run_id, shipped.digest, suite.name])
    asked = Candidate(trial=0, model=shipped.model, artifact_key=key)
    failed = evaluate_for(partition, suite, [asked])
    if failed:
        raise StageError(f"{deployment.model_key} could not be evaluated again: {failed[key]}")
    now = load_candidate(verified(partition, key).folder(), 0, key)
    try:
        return compare(suite, then.answers, [now], seed=partition.seed("answers again"))
    except EvaluationError as error:
        raise StageError(
            f"suite {suite.name} is not what {deployment.model_key} was evaluated on: {error}"
        ) from error
