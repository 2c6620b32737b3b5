"""Pairs of answers whose truth is known, for `benchmarks.stateval_calibration`.

The truth is drawn item by item: with probability `right` the baseline is right, `gained` and `lost`
are the probabilities that the candidate alone, or the baseline alone, is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.polynomial import Polynomial

from optikit_assets.stateval.proportions import Floats

MARGIN = 0.05


@dataclass(frozen=True)
class Truth:
    """Probabilities of one item."""

    right: float
    gained: float
    lost: float

    @property
    def cells(self) -> tuple[float, float, float, float]:
        """Both right, only the candidate, only the baseline, neither."""
        return self.right - self.lost, self.gained, self.lost, 1 - self.right - self.gained

    @property
    def recovery(self) -> float:
        """True ratio of the scores."""
        return (self.right - self.lost + self.gained) / self.right

    def __str__(self) -> str:
        return f"{self.right:.0%} right, {self.gained:.1%} gained, {self.lost:.1%} lost"


def on_the_margin() -> Iterator[Truth]:
    """Yield truths whose recovery is the margin exactly."""
    for right in (0.5, 0.7, 0.8, 0.9, 0.97):
        for gained in (0.0, 0.005, 0.02, 0.05, 0.1):
            lost = MARGIN * right + gained
            if gained <= 1 - right and lost <= right:
                yield Truth(right, gained, lost)


POWER_TRUTHS = (
    Truth(0.8, 0.04, 0.04),
    Truth(0.8, 0.02, 0.02),
    Truth(0.9, 0.02, 0.02),
    Truth(0.6, 0.05, 0.05),
    Truth(0.8, 0.01, 0.03),
)
COVERAGE_TRUTHS = (Truth(0.8, 0.04, 0.08), Truth(0.9, 0.03, 0.03), Truth(0.6, 0.06, 0.04))
SPARSE_TRUTHS = (Truth(0.8, 0.005, 0.01), Truth(0.9, 0.0, 0.02))
INSTRUCTION_TRUTHS = ((0.02, 0.02), (0.0, 0.03), (0.06, 0.1))
"""Shares of instructions gained and lost; see `instruction_scores`."""


def draw_counts(
    rng: np.random.Generator, truth: Truth, n: int, draws: int
) -> tuple[Floats, Floats, Floats, Floats]:
    """Return the distinct outcomes of n items as counts, and how often each was drawn."""
    drawn = rng.multinomial(n, truth.cells, size=draws)
    distinct, times = np.unique(drawn[:, :3], axis=0, return_counts=True)
    x11, x10, x01 = distinct.T.astype(float)
    return x11, x10, x01, times / draws


def scores_of(n: int, x11: float, x10: float, x01: float) -> tuple[Floats, Floats]:
    """Return the scores of baseline and candidate that have these counts."""
    times = np.array([x11, x10, x01, n - x11 - x10 - x01], dtype=int)
    return np.repeat([1.0, 0.0, 1.0, 0.0], times), np.repeat([1.0, 1.0, 0.0, 0.0], times)


def draw_pairs(rng: np.random.Generator, truth: Truth, n: int) -> tuple[Floats, Floats]:
    """Return the scores of baseline and candidate on n items."""
    cell = rng.choice(4, size=n, p=truth.cells)
    return ((cell == 0) | (cell == 2)).astype(float), (cell <= 1).astype(float)


def instruction_scores(
    rng: np.random.Generator, n: int, gained: float, lost: float
) -> tuple[Floats, Floats]:
    """Return scores as IFEval's: prompt- and instruction-level accuracy of 1 to 3 instructions."""
    instructions = rng.integers(1, 4, size=(n, 1))
    exists = np.arange(3) < instructions
    follows = (rng.random((n, 3)) < rng.beta(4, 1, size=(n, 1))) & exists
    changed = np.where(follows, rng.random((n, 3)) >= lost, rng.random((n, 3)) < gained) & exists

    def score(done: np.ndarray) -> Floats:
        return (np.all(done | ~exists, axis=1) + done.sum(axis=1) / instructions[:, 0]) / 2

    return score(follows), score(changed)


def instruction_means(gained: float, lost: float) -> tuple[float, float]:
    """Return the expected scores of baseline and candidate, in closed form."""

    def expected(follows: Polynomial) -> float:
        # follows is the chance of an instruction given the item's p; E(p^k) is 4 / (4 + k).
        def mean(chance: Polynomial) -> float:
            return sum(float(c) * 4 / (4 + k) for k, c in enumerate(chance.coef))

        return fmean((mean(follows**m) + mean(follows)) / 2 for m in (1, 2, 3))

    return expected(Polynomial([0, 1])), expected(Polynomial([gained, 1 - lost - gained]))


def instruction_flips(gained: float, lost: float) -> tuple[float, float]:
    """Return the expected shares of items with a gained and with a lost instruction, about."""
    instructions, followed = 2, 0.8
    return instructions * (1 - followed) * gained, instructions * followed * lost
