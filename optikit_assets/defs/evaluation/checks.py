"""Asset checks of ``eval_scores``: the quality gate, and one check per task of any suite.

The tasks are those of the suites at load time, as the recipes are. A run has to answer every check
of its asset, so one of a task that the model's suite does not have passes and says so. The checks
show the verdict; later stages act on the comparison itself, since a failed check does not take a
recorded materialization back.
"""

import re
from collections import Counter

import dagster as dg

from optikit_assets import graph
from optikit_assets.defs import partitions
from optikit_assets.schemas import Comparison, TaskComparison
from optikit_assets.specs import Catalog, SuiteSpec, digest

GATE = "quality_gate"


def check_name(title: str) -> str:
    """Return the check of the task with this title; Dagster allows letters, digits and ``_``."""
    return "recovery_" + re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")


def task_checks(catalog: Catalog) -> dict[str, str]:
    """Return the title of every task of every suite -> its check.

    Titles that differ in case or punctuation alone are told apart by their digests.
    """
    titles = {task.title for suite in catalog.suites.values() for task in suite.tasks}
    names = Counter(map(check_name, titles))
    return {
        title: name if names[name] == 1 else f"{name}_{digest(title)[:8]}"
        for title, name in sorted((title, check_name(title)) for title in titles)
    }


TASK_CHECKS = task_checks(partitions.catalog)


def check_specs() -> list[dg.AssetCheckSpec]:
    """Return the specs, partitioned like the scores."""
    described = {
        GATE: "q* loses no more than the suite's margin on any task, or the suite accepts what is "
        "inconclusive.",
        **{
            name: f"q* recovers the baseline's {title} score within the margin (paired test)."
            for title, name in TASK_CHECKS.items()
        },
    }
    return [
        dg.AssetCheckSpec(
            name,
            asset=graph.EVAL_SCORES,
            description=description,
            partitions_def=partitions.partitions_of(graph.EVAL_SCORES),
        )
        for name, description in described.items()
    ]


def failed_checks(reason: str) -> list[dg.AssetCheckResult]:
    """Return the results of a recipe without scores."""
    return [_result(name, False, reason) for name in (GATE, *TASK_CHECKS.values())]


def compared_checks(suite: SuiteSpec, comparison: Comparison) -> list[dg.AssetCheckResult]:
    """Return the results of a comparison: a task passes unless it is shown to lose too much."""
    judged = {task.task: task for task in comparison.representative.tasks}
    verdicts = {title: task.verdict for title, task in judged.items()}
    gate = _result(
        GATE,
        comparison.accepted,
        "; ".join(comparison.reasons),
        {
            **verdicts,
            "q_star": f"trial {comparison.q_star}",
            "why_q_star": comparison.q_star_reason,
        },
    )
    absent = f"{suite.name} does not have this task"
    others = [
        _task_result(name, judged[title]) if title in judged else _result(name, True, absent)
        for title, name in TASK_CHECKS.items()
    ]
    return [gate, *others]


def _task_result(name: str, task: TaskComparison) -> dg.AssetCheckResult:
    numbers = {
        "score": task.score,
        "baseline_score": task.baseline_score,
        "recovery": task.recovery,
        "recovery_low": task.recovery_low,
        "recovery_high": task.recovery_high,
        "margin": task.margin,
        "weight": task.weight,
        "items": task.n,
        "gained": task.gained,
        "lost": task.lost,
        "mcnemar_p_holm": task.mcnemar_p_holm,
        "noninferior_p_holm": task.noninferior_p_holm,
        "items_needed": task.items_needed,
    }
    known = {key: value for key, value in numbers.items() if value is not None}
    return _result(name, task.verdict != "fail", task.reason, {"verdict": task.verdict, **known})


def _result(
    name: str, passed: bool, reason: str, metadata: dict[str, object] | None = None
) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=name,
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        description=reason[:1000],
        metadata=metadata or {},  # type: ignore[arg-type]
    )
