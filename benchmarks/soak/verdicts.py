"""What may grow, and whether it did: one table of expectations, a robust slope, a verdict.

Notation: a measure has values y_i after cycle x_i. Its slope is Theil and Sen's, the median of
(y_j - y_i) / (x_j - x_i) over i < j, with the interval that `scipy.stats.theilslopes` gives it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from scipy import stats

FLAT, GROWS, TOLERATED = "flat", "GROWS", "rises, within the tolerance"
ASKED_FOR = "grows with what was asked for"
_CONFIDENCE = 0.95
# Of what may grow, the later half may not grow so many times as fast as the earlier one.
_FASTER = 1.5


@dataclass(frozen=True)
class Expectation:
    """What is expected of the measures whose names fit a pattern.

    Attributes
    ----------
    per
        Unit of what was asked for that it may grow with; empty: it may not grow.
    tolerance
        Growth over all cycles, in the measure's unit, that is none yet.
    why
        Why it may grow, or what keeps it from growing.
    """

    pattern: str
    why: str
    per: str = ""
    tolerance: float = 0.0


RUNS, CYCLES, MINUTES = "run", "cycle (a model version, a decision)", "minute"
EXPECTATIONS = (
    Expectation("runs", "the record of what was asked for", per=RUNS),
    Expectation("history rows", "the trial history keeps every trial", per=RUNS),
    Expectation("history/: bytes", "two databases of those rows", per=RUNS, tolerance=2**20),
    Expectation("history/: files", "an empty one for each result that has its rows", per=RUNS),
    Expectation("dagster/history/: *", "Dagster keeps the events of a run in a file", per=RUNS),
    Expectation("dagster/storage/: *", "what steps of the queue's runs print", per=RUNS),
    Expectation("dagster/schedules/: bytes", "ticks, purged after a week", per=MINUTES),
    Expectation("dagster/schedules/: files", "a database and its log", tolerance=2),
    Expectation("ticks", "purged by Dagster after a week (skipped ones) or a month", per=MINUTES),
    Expectation("artifacts/: *", "results of every version; every decision stays", per=CYCLES),
    Expectation("bundles/: *", "copies of bundles that a link leads to"),
    Expectation("cache/: *", "digests of files that are there", per=CYCLES),
    Expectation("elsewhere/: *", "digests and identities", tolerance=2**12),
    Expectation("studies/: *", "journals of studies, removed with their results", tolerance=2**16),
    Expectation("logs/: *", "a line for every worker that was started", per=RUNS),
    Expectation("logs/*/: *", "removed by `optikit gc` with what is as old", tolerance=2**18),
    Expectation("dagster/: *", "the settings of the instance"),
    Expectation("*: RSS (MiB)", "what its allocator keeps, or a slow leak", tolerance=16),
    Expectation("*: descriptors", "connections that are kept for reuse", tolerance=8),
    Expectation("*: threads", "pools of threads that fill", tolerance=8),
    Expectation("open runs", "all have ended"),
    Expectation("*", "nothing of it may stay"),
)
"""The first that fits a measure counts."""


def expectation_of(measure: str) -> Expectation:
    """Return what is expected of a measure."""
    return next(e for e in EXPECTATIONS if fnmatchcase(measure, e.pattern))


@dataclass(frozen=True)
class Trend:
    """How a measure went over the cycles.

    Attributes
    ----------
    slope, low, high
        Per cycle; `low` and `high` are the bounds of its interval.
    cost
        Of what may grow: slope per unit of what was asked for; else 0.
    """

    measure: str
    first: float
    last: float
    slope: float
    low: float
    high: float
    cost: float
    verdict: str
    expectation: Expectation


def trend(measure: str, values: Sequence[float], asked: Sequence[float] | None = None) -> Trend:
    """Judge a measure by its values after each cycle, warm-up left out.

    Parameters
    ----------
    asked
        How much was asked for by then, in the unit that its expectation names.

    Raises
    ------
    ValueError
        If there are less than two values.
    """
    if len(values) < 2:
        raise ValueError(f"{measure}: {len(values)} values have no slope: play more cycles")
    expected = expectation_of(measure)
    y = np.asarray(values, float)
    x = np.arange(len(y), dtype=float)
    slope, low, high = _slope(x, y)
    cost = 0.0
    if expected.per and asked is not None and len(set(asked)) > 1:
        cost = _slope(np.asarray(asked, float), y)[0]
    if low <= 0:
        verdict = FLAT
    elif slope * (len(y) - 1) <= expected.tolerance:
        verdict = TOLERATED
    elif expected.per and not _accelerates(y, expected.tolerance):
        verdict = ASKED_FOR
    else:
        verdict = GROWS
    return Trend(measure, float(y[0]), float(y[-1]), slope, low, high, cost, verdict, expected)


def _slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    found = stats.theilslopes(y, x, _CONFIDENCE)
    return float(found.slope), float(found.low_slope), float(found.high_slope)


def _accelerates(y: np.ndarray, tolerance: float) -> bool:
    """Whether the later half certainly grows faster than the earlier: not in proportion, then."""
    middle = len(y) // 2
    if middle < 3:
        return False
    earlier, later = y[: middle + 1], y[middle:]
    before = _slope(np.arange(len(earlier), dtype=float), earlier)
    after = _slope(np.arange(len(later), dtype=float), later)
    return after[1] > _FASTER * max(before[2], 0.0) and after[0] * (len(later) - 1) > tolerance


def trends(samples: Sequence[Mapping[str, float]]) -> list[Trend]:
    """Judge every measure of samples that were taken cycle by cycle, the worst first."""
    asked = {
        RUNS: [sample["runs"] for sample in samples],
        CYCLES: list(range(len(samples))),
        MINUTES: [sample["minute"] for sample in samples],
    }
    found = []
    for measure in samples[0]:
        if measure != "minute":
            per = expectation_of(measure).per
            found.append(trend(measure, [s[measure] for s in samples], asked.get(per)))
    order = (GROWS, ASKED_FOR, TOLERATED, FLAT)
    return sorted(found, key=lambda it: order.index(it.verdict))
