r"""Coefficients of a step's parts from measured rows, and how wrong they may be.

Notation: row i has the parts :math:`f_i` of its cycle (`Work.parts`) and took :math:`y_i` seconds.
The coefficients minimize

.. math:: \sum_i w_i \left(\frac{\theta \cdot f_i}{y_i} - 1\right)^2
          + \lambda \sum_j s_j^2 (\theta_j - \theta_{0 j})^2, \quad \theta \ge 0

by non-negative least squares (Lawson and Hanson, 1974): relative errors, weighted again and again
by :math:`w_i = 1 / |e_i|` so that rows that fit nothing count little. :math:`\theta_0` is what is
known before; it decides what the rows leave open (two parts that grow alike, a part that no row
has), since :math:`s_j`, the median size of part j in the rows, keeps its weight that of
:math:`\lambda` rows.

Dense models and mixtures of experts have kernels of their own: each kind is fitted with the fit of
all rows as what is known before.

What is known before of an installation's own rows is a fit of other cards. As long as the own rows
are as far from it as its interval says, it counts as ten of them; where they are k times as far, as
:math:`10 / k^2`: on a card that nobody has measured before, they speak for themselves.

The interval comes from cross-validation: rows of one group (a model on a card, or one of an
installation's own models) are predicted from all other groups, so that a residual is one of
something that was not seen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from optikit_assets.planner.architecture import Architecture
from optikit_assets.planner.roofline import TERMS
from optikit_assets.planner.rows import Row, Work, parts_of, seconds_of

UNFITTED = {
    "weights": 1.2, "cache": 1.0, "linear": 1.4, "attention": 2.0, "activations": 1.0,
    "reduce_bytes": 1.0, "reduce_calls": 1.0, "layers": 2.0, "step": 1.0, "sequences": 1.0,
}  # fmt: skip
"""What is assumed before anything was measured: somewhat slower than the data sheet's best."""
_FIRST_TOKEN = (1.0, 1.0, 0.3, 1.0)
KINDS = ("dense", "experts")
INTERVAL = 0.9
"""Share of measured times that an interval is to hold."""
# Weights of what is known before, in rows.
_ROOFLINE_ROWS = 1.0
_KIND_ROWS = 30.0
_OWN_ROWS = 10.0
# Without rows: three out of ten times to three times as long as the plain roofline says.
_UNKNOWN = (0.3, 3.0)
# Fewer groups do not say how far apart groups are.
_LEAST_GROUPS = 3
_ROUNDS = 12
_LEAST_ERROR = 0.03


@dataclass(frozen=True)
class Fit:
    """Coefficients with what stands behind them.

    Attributes
    ----------
    coefficients
        Of shape (terms,), in the order of `TERMS`.
    first_token
        Coefficients of `rows.FIRST_TOKEN`.
    rows, own_rows
        Measured rows behind it, and how many of them are of this installation; 0: none.
    low, high
        Nine of ten measured times are between `low` and `high` times the predicted one.
    """

    coefficients: NDArray[np.float64]
    first_token: NDArray[np.float64]
    rows: int = 0
    own_rows: int = 0
    low: float = _UNKNOWN[0]
    high: float = _UNKNOWN[1]

    @classmethod
    def unfitted(cls) -> "Fit":
        """Return what is assumed where nothing was measured."""
        return cls(np.array([UNFITTED[name] for name in TERMS]), np.array(_FIRST_TOKEN))

    def latency_s(self, work: Work) -> float:
        """Return the mean time of a request of a closed loop."""
        return float(work.parts @ self.coefficients) * (1.0 + work.queue)

    def ttft_s(self, work: Work) -> float:
        """Return the mean time to its first token; the steps of decoding are left at least."""
        parts = work.first_token_parts(self.coefficients)
        decoding = float(parts[1]) * (work.output_tokens - 1.0)
        latency_s = self.latency_s(work)
        waited = latency_s * work.queue / (1.0 + work.queue)
        return min(waited + float(parts @ self.first_token), latency_s - decoding)

    def tpot_s(self, work: Work) -> float:
        """Return the mean time per output token after the first."""
        return (self.latency_s(work) - self.ttft_s(work)) / max(1.0, work.output_tokens - 1.0)

    @property
    def basis(self) -> str:
        """What stands behind it, for people."""
        if not self.rows:
            return "no measured rows: an unfitted roofline"
        own = f", {self.own_rows} of them from this history" if self.own_rows else ""
        return f"{self.rows} measured rows{own}"


def kind_of(architecture: Architecture) -> str:
    """Return which fit a model belongs to."""
    return "experts" if architecture.experts else "dense"


def fit_rows(rows: Sequence[Row]) -> dict[str, Fit]:
    """Fit rows of one engine; return a fit for each of `KINDS`.

    Where fewer than three groups of a kind were measured, its interval is that of all kinds
    together.
    """
    if not rows:
        return dict.fromkeys(KINDS, Fit.unfitted())
    parts, seconds = parts_of(rows), seconds_of(rows)
    groups = np.array([row.group for row in rows])
    kinds = np.array([kind_of(row.work.architecture) for row in rows])
    every = np.ones(len(rows), bool)
    residuals = np.empty(len(rows))
    for group in np.unique(groups):
        out = groups == group
        for kind in np.unique(kinds[out]):
            held = out & (kinds == kind)
            known = _of_kind(parts, seconds, every & ~out, kinds == kind)
            residuals[held] = np.log(seconds[held] / (parts[held] @ known))
    fits: dict[str, Fit] = {}
    for kind in KINDS:
        here = kinds == kind
        found = _of_kind(parts, seconds, every, here)
        enough = len(np.unique(groups[here])) >= _LEAST_GROUPS
        low, high = _interval(residuals[here] if enough else residuals)
        first = _first_token(
            [row for row, own in zip(rows, here, strict=True) if own] or rows,
            found,
            np.array(_FIRST_TOKEN),
        )
        fits[kind] = Fit(found, first, int(here.sum()) or len(rows), 0, low, high)
    return fits


def refit(prior: Fit, rows: Sequence[Row]) -> Fit:
    """Return a fit moved by an installation's own rows; the prior counts as ten of them at most.

    The interval is no narrower than the prior's until three models were measured. Rows of a single
    model are held out one by one, which tells little of another model.
    """
    if not rows:
        return prior
    parts, seconds = parts_of(rows), seconds_of(rows)
    groups = np.array([row.group for row in rows])
    if len(np.unique(groups)) == 1:
        groups = np.arange(len(rows))
    found = _moved(prior, parts, seconds)
    residuals = np.zeros(len(rows))
    for group in np.unique(groups) if len(rows) > 1 else ():
        out = groups == group
        known = _moved(prior, parts[~out], seconds[~out])
        residuals[out] = np.log(seconds[out] / (parts[out] @ known))
    low, high = _interval(residuals)
    if len({row.group for row in rows}) < _LEAST_GROUPS:
        low, high = min(low, prior.low), max(high, prior.high)
    first = _first_token(rows, found, prior.first_token)
    return Fit(found, first, prior.rows + len(rows), prior.own_rows + len(rows), low, high)


def _moved(
    prior: Fit, parts: NDArray[np.float64], seconds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the coefficients of rows that differ from those behind a fit as it says, or more."""
    off = np.log(seconds / (parts @ prior.coefficients))
    # Half of an interval of nine of ten is 1.645 standard deviations.
    told = math.log(prior.high / prior.low) / (2.0 * 1.645)
    times = max(1.0, float(np.sqrt(np.mean(off**2))) / max(told, _LEAST_ERROR))
    most = _OWN_ROWS if prior.rows else _ROOFLINE_ROWS
    return _solve(parts, seconds, prior.coefficients, most / times**2)


def _of_kind(
    parts: NDArray[np.float64],
    seconds: NDArray[np.float64],
    known: NDArray[np.bool_],
    kind: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Return the coefficients of a kind from the rows that are `known`."""
    plain = Fit.unfitted().coefficients
    if not known.any():
        return plain
    pooled = _solve(parts[known], seconds[known], plain, _ROOFLINE_ROWS)
    own = known & kind
    return _solve(parts[own], seconds[own], pooled, _KIND_ROWS) if own.any() else pooled


def _solve(
    parts: NDArray[np.float64],
    seconds: NDArray[np.float64],
    start: NDArray[np.float64],
    prior_rows: float,
) -> NDArray[np.float64]:
    relative = parts / seconds[:, None]
    size = np.diag(np.median(relative, axis=0) + 1e-4) * np.sqrt(prior_rows)
    weight = np.ones(len(seconds))
    found = start
    for _ in range(_ROUNDS):
        found, _ = optimize.nnls(
            np.vstack((relative * weight[:, None], size)), np.concatenate((weight, size @ start))
        )
        weight = 1.0 / np.sqrt(np.maximum(np.abs(relative @ found - 1.0), _LEAST_ERROR))
        weight /= np.sqrt(np.mean(weight**2))
    return found


def _first_token(
    rows: Sequence[Row], coefficients: NDArray[np.float64], start: NDArray[np.float64]
) -> NDArray[np.float64]:
    # How long one waits for a place in the cache is no matter of these coefficients.
    timed = [(r, r.ttft_s) for r in rows if r.ttft_s is not None and not r.work.queue]
    if not timed:
        return start
    parts = np.array([row.work.first_token_parts(coefficients) for row, _ in timed])
    return _solve(parts, np.array([seconds for _, seconds in timed]), start, _OWN_ROWS)


def _interval(residuals: NDArray[np.float64]) -> tuple[float, float]:
    tail = (1.0 - INTERVAL) / 2.0
    low, high = np.exp(np.quantile(residuals, (tail, 1.0 - tail)))
    return min(1.0, float(low)), max(1.0, float(high))
