"""All candidates of a recipe against the baseline: statistics per task, quality gate, choice of q*.

The gate judges q*, the candidate that would be deployed:

* a task *passes* when its loss is shown to be within its margin, *fails* when it is shown to be
  beyond, and is *inconclusive* otherwise (Holm's correction over the tasks, level alpha each way);
  since q* is the best of several trials on the very items it is judged on, its passing is corrected
  for their number too (Bonferroni), while a failure of the best needs no such correction;
* the recipe fails if any task fails, passes if every task passes, else it is inconclusive, and then
  accepted only if the suite says so and the observed recoveries of q* meet the margin: of every
  task its own, and of the mean the suite's. A task without a recovery meets none.

q* is the trial with the highest lower confidence bound of its mean recovery.
"""

from collections.abc import Sequence
from statistics import fmean, stdev

import numpy as np

from optikit_assets.errors import EvaluationError
from optikit_assets.schemas.comparison import (
    Comparison,
    TaskComparison,
    TaskSpread,
    TrialComparison,
    Verdict,
)
from optikit_assets.specs.base import digest
from optikit_assets.specs.suite import SuiteSpec, TaskSpec
from optikit_assets.stateval.paired import RESAMPLES, PairedResult, compare_pairs
from optikit_assets.stateval.pairing import check_same_tasks, pair
from optikit_assets.stateval.proportions import Floats
from optikit_assets.stateval.recovery import MeanRecovery, TaskPairs, mean_recovery
from optikit_assets.stateval.scores import EvaluatedCandidate
from optikit_assets.stateval.variance import VarianceComponents, variance_components


def compare(
    suite: SuiteSpec,
    baseline: EvaluatedCandidate,
    candidates: Sequence[EvaluatedCandidate],
    *,
    seed: int,
    resamples: int = RESAMPLES,
    chosen_from: int | None = None,
) -> Comparison:
    """Compare the candidates of one recipe with the baseline.

    Parameters
    ----------
    suite
        What all of them were evaluated on.
    baseline
        The uncompressed model.
    candidates
        One per calibration trial. The baseline alone compares as equal to itself and passes.
    seed
        Of every bootstrap.
    resamples
        Bootstrap resamples.
    chosen_from
        How many trials the best was chosen from, on these items; None: those that are here.

    Raises
    ------
    EvaluationError
        If there is no candidate, a trial occurs twice, or items or tasks do not fit together.
    """
    if not candidates:
        raise EvaluationError("no candidate was evaluated, so there is nothing to compare")
    numbers = [candidate.trial for candidate in candidates]
    if len(set(numbers)) != len(numbers):
        raise EvaluationError(f"a trial occurs twice: {numbers}")
    is_baseline = len(candidates) == 1 and candidates[0].tasks == baseline.tasks
    trials = tuple(
        _compare_trial(
            suite,
            baseline,
            candidate,
            seed,
            resamples,
            trials=chosen_from or len(candidates),
            is_baseline=is_baseline,
        )
        for candidate in candidates
    )
    chosen, why = _choose(trials, is_baseline)
    accepted, reasons = _gate(suite, chosen, is_baseline)
    return Comparison(
        suite=suite.name,
        seed=seed,
        alpha=suite.gate.alpha,
        margin=suite.gate.margin,
        resamples=resamples,
        is_baseline=is_baseline,
        verdict=chosen.verdict,
        accepted=accepted,
        reasons=reasons,
        q_star=chosen.trial,
        q_star_reason=why,
        trials=trials,
        tasks=tuple(_spread(task.title, baseline, candidates) for task in suite.tasks),
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return Holm's adjusted p-values; tests that do not exist (None) are left out.

    The i-th smallest of m is multiplied by m - i + 1, and is at least as large as the one before
    (Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6, 1979).
    """
    present = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for done, (p, i) in enumerate(present):
        highest = max(highest, min(1.0, p * (len(present) - done)))
        adjusted[i] = highest
    return adjusted


def _compare_trial(
    suite: SuiteSpec,
    baseline: EvaluatedCandidate,
    candidate: EvaluatedCandidate,
    seed: int,
    resamples: int,
    *,
    trials: int,
    is_baseline: bool,
) -> TrialComparison:
    check_same_tasks([task.title for task in suite.tasks], baseline, candidate)
    pairs: list[tuple[Floats, Floats]] = [
        pair(task.title, baseline.task(task.title), candidate.task(task.title))
        for task in suite.tasks
    ]
    results = [
        compare_pairs(
            b,
            c,
            margin=_margin(suite, task),
            alpha=suite.gate.alpha,
            seed=_seed(seed, task.title),
            tests=len(suite.tasks),
            trials=trials,
            resamples=resamples,
        )
        for task, (b, c) in zip(suite.tasks, pairs, strict=True)
    ]
    alpha = suite.gate.alpha
    mcnemar = holm([r.mcnemar_p for r in results])
    passing = [None if r.noninferior_p is None else r.noninferior_p * trials for r in results]
    noninferior = holm([p if p is None else min(p, 1.0) for p in passing])
    inferior = holm([r.inferior_p for r in results])
    tasks = tuple(
        _task_comparison(suite, task, result, (m, p, q), is_baseline)
        for task, result, m, p, q in zip(
            suite.tasks, results, mcnemar, noninferior, inferior, strict=True
        )
    )
    mean = mean_recovery(
        [TaskPairs(b, c, t.weight) for t, (b, c) in zip(suite.tasks, pairs, strict=True)],
        alpha=alpha,
        seed=_seed(seed, "mean recovery"),
        resamples=resamples,
    )
    return _trial_comparison(candidate, tasks, mean)


def _trial_comparison(
    candidate: EvaluatedCandidate, tasks: tuple[TaskComparison, ...], mean: MeanRecovery
) -> TrialComparison:
    verdicts = {task.verdict for task in tasks}
    verdict: Verdict = "inconclusive"
    if "fail" in verdicts:
        verdict = "fail"
    elif verdicts == {"pass"}:
        verdict = "pass"
    return TrialComparison(
        trial=candidate.trial,
        artifact_key=candidate.artifact_key,
        mean_recovery=mean.value,
        mean_recovery_low=mean.interval.low,
        mean_recovery_high=mean.interval.high,
        verdict=verdict,
        tasks=tasks,
    )


def _task_comparison(
    suite: SuiteSpec,
    task: TaskSpec,
    result: PairedResult,
    holm_p: tuple[float | None, float | None, float | None],
    is_baseline: bool,
) -> TaskComparison:
    margin = _margin(suite, task)
    verdict, reason = _verdict(result, holm_p[1], holm_p[2], suite.gate.alpha, margin)
    if is_baseline:
        verdict, reason = "pass", "the baseline is its own reference"
    undecided = verdict == "inconclusive"
    return TaskComparison(
        task=task.title,
        n=result.n,
        baseline_score=result.baseline_score,
        score=result.score,
        recovery=result.recovery,
        recovery_low=result.recovery_interval.low,
        recovery_high=result.recovery_interval.high,
        recovery_method=result.recovery_interval.method,
        difference=result.difference,
        difference_low=result.difference_interval.low,
        difference_high=result.difference_interval.high,
        difference_method=result.difference_interval.method,
        gained=result.gained,
        lost=result.lost,
        mcnemar_p=result.mcnemar_p,
        mcnemar_p_holm=holm_p[0],
        margin=margin,
        weight=task.weight,
        noninferior_p=result.noninferior_p,
        noninferior_p_holm=holm_p[1],
        inferior_p=result.inferior_p,
        inferior_p_holm=holm_p[2],
        items_needed=result.items_needed if undecided else None,
        verdict=verdict,
        reason=reason,
    )


def _verdict(
    result: PairedResult,
    noninferior_p: float | None,
    inferior_p: float | None,
    alpha: float,
    margin: float,
) -> tuple[Verdict, str]:
    if result.recovery is None or noninferior_p is None or inferior_p is None:
        return "inconclusive", (
            "the baseline scores 0, so recovery is undefined: use a task that the model can do"
        )
    recovery = f"recovery {result.recovery:.1%}"
    if noninferior_p <= alpha:
        return "pass", f"{recovery}, shown to lose at most {margin:.1%} (p = {noninferior_p:.2g})"
    if inferior_p <= alpha:
        return "fail", f"{recovery}, shown to lose more than {margin:.1%} (p = {inferior_p:.2g})"
    needed = (
        "no number of items would, since the recovery lies on the margin"
        if result.items_needed is None
        else f"about {result.items_needed} would"
    )
    return "inconclusive", (
        f"{recovery}: {result.n} items cannot show on which side of a loss of {margin:.1%} "
        f"it lies; {needed}"
    )


def _choose(trials: tuple[TrialComparison, ...], is_baseline: bool) -> tuple[TrialComparison, str]:
    """Return q* and the reason; ties go to the higher mean, then to the lower trial number."""

    def rank(trial: TrialComparison) -> tuple[float, float, int]:
        low, mean = trial.mean_recovery_low, trial.mean_recovery
        return (
            -np.inf if low is None else low,
            -np.inf if mean is None else mean,
            -trial.trial,
        )

    best = max(trials, key=rank)
    if is_baseline:
        return best, "the baseline has one candidate"
    if len(trials) == 1:
        return best, f"trial {best.trial} is the only candidate"
    if best.mean_recovery_low is None or best.mean_recovery is None:
        return best, (
            f"no trial has a confidence bound of its mean recovery; trial {best.trial} has the "
            "highest mean recovery"
        )
    # TrialComparison is frozen, so identity tells the winner from an equal rival.
    second = max((t for t in trials if t is not best), key=rank)
    rival = "none" if second.mean_recovery_low is None else f"{second.mean_recovery_low:.2%}"
    return best, (
        f"trial {best.trial} has the highest lower bound of mean recovery, "
        f"{best.mean_recovery_low:.2%} (mean {best.mean_recovery:.2%}); "
        f"next is trial {second.trial} with {rival}"
    )


def _gate(
    suite: SuiteSpec, chosen: TrialComparison, is_baseline: bool
) -> tuple[bool, tuple[str, ...]]:
    gate = suite.gate
    details = tuple(f"{task.task}: {task.reason}" for task in chosen.tasks)
    if is_baseline:
        return True, ("accepted: the baseline is its own reference",)
    if chosen.verdict == "pass":
        return True, ("accepted: no task loses more than its margin", *details)
    if chosen.verdict == "fail":
        failed = ", ".join(task.task for task in chosen.tasks if task.verdict == "fail")
        return False, (f"refused: shown to lose more than the margin on {failed}", *details)
    if chosen.mean_recovery is None:
        return False, ("refused: no task has a recovery", *details)
    mean = f"mean recovery {chosen.mean_recovery:.1%}"
    wanted = f"{1 - gate.margin:.1%}"
    undefined = ", ".join(task.task for task in chosen.tasks if task.recovery is None)
    below = ", ".join(
        f"{task.task} ({task.recovery:.1%} of {1 - task.margin:.1%})"
        for task in chosen.tasks
        if task.recovery is not None and task.recovery < 1 - task.margin
    )
    if not gate.accept_inconclusive:
        head = f"refused: inconclusive ({mean}), and the suite does not accept that"
        return False, (head, *details)
    if undefined:
        head = f"refused: inconclusive, and the baseline scores 0 on {undefined}"
        return False, (head, *details)
    if below:
        return False, (f"refused: inconclusive, and recovery is too low on {below}", *details)
    if chosen.mean_recovery < 1 - gate.margin:
        return False, (f"refused: inconclusive, and {mean} is below {wanted}", *details)
    head = f"accepted though inconclusive: no task is below its margin, {mean}"
    return True, (head, *details)


def _spread(
    title: str, baseline: EvaluatedCandidate, candidates: Sequence[EvaluatedCandidate]
) -> TaskSpread:
    reference = baseline.scores()[title]
    scores = [candidate.scores()[title] for candidate in candidates]
    mean = fmean(scores)
    std = stdev(scores) if len(scores) > 1 else None
    parts = _components(title, baseline, candidates)
    return TaskSpread(
        task=title,
        trials=len(scores),
        baseline_score=reference,
        mean=mean,
        min=min(scores),
        max=max(scores),
        std=std,
        rsd=None if std is None or mean == 0 else std / mean,
        mean_recovery=mean / reference if reference > 0 else None,
        calibration_std=parts and parts.calibration_std,
        noise_std=parts and parts.noise_std,
        trials_differ_p=parts and parts.p_value,
    )


def _components(
    title: str, baseline: EvaluatedCandidate, candidates: Sequence[EvaluatedCandidate]
) -> VarianceComponents | None:
    """Return the parts of the spread between trials; None for a single one."""
    if len(candidates) < 2:
        return None
    reference = baseline.task(title)
    rows = [pair(title, reference, candidate.task(title))[1] for candidate in candidates]
    return variance_components(np.stack(rows))


def _margin(suite: SuiteSpec, task: TaskSpec) -> float:
    return suite.gate.margin if task.margin is None else task.margin


def _seed(seed: int, purpose: str) -> int:
    """Return a seed per task that does not depend on the order of the tasks."""
    return int(digest([seed, purpose])[:8], 16)
