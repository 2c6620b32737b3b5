r"""What finished trials say about configurations that were not tried, and which promises most.

Flags mostly act by factors: one costs a share of the rate, whatever the others are. So the
logarithm of the rate per accelerator is a Gaussian process whose kernel adds up one part for each
flag and, weaker, one for each pair of flags (Duvenaud, Nickisch and Rasmussen 2011, "Additive
Gaussian processes"): every trial tells something about every flag, which thirty trials of ten flags
need.

Notation: flags d with kernels K_d and standard deviations s_d, z_d = s_d² K_d,

.. math:: K = s_0² + Σ_d z_d + ρ² Σ_{d<e} z_d z_e

K_d of numbers is squared exponential on the scale that they are drawn on, of choices 1 where they
are equal. Whether a server was shared is one more flag. The s_d are the most probable ones under a
log-normal prior. The estimate of a trial without a rate counts the less the further it was behind.
Trials that failed say nothing about the rate: they make failures near by likely.

A configuration promises its expected improvement over the best that was measured, as the process
sees both (Jones, Schonlau and Welch 1998), times the chance that it does not fail.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize, special

from optikit_assets.engines import Flags
from optikit_assets.schemas import Trial
from optikit_assets.specs import Choices, FloatRange, IntRange
from optikit_assets.specs.search_space import Domain
from optikit_assets.tuner.bounded_space import BoundedSpace, Point, contains
from optikit_assets.tuner.random_points import draw

Array = NDArray[np.float64]

# Of the range of a number: so far apart, rates are hardly alike.
_LENGTH = 0.3
# Choices that differ count like numbers so many lengths apart, where failures are concerned.
_APART = 0.8
_CAUTION = 3.0
_LEVEL_SD = 1.0
_PAIRS = 1.5
# Prior of the s_d: their median, and the standard deviation of their logarithm.
_MEDIAN_SD, _SPREAD = 0.1, 1.0
# Of no flag less, or more: beyond, kernels are singular to the precision of numbers.
_LOG_SDS = (math.log(1e-3), math.log(1.0))
# Of the logarithm of a measured rate, from server to server.
_NOISE = 0.06
# That of an estimate grows by this part of the distance to the best.
_BEHIND = 0.3
# Where nothing is known of the rate: so far below all others, and as uncertain.
_UNKNOWN = 0.3
_RANDOM, _NEAR = 384, 64
# Points near so many of the best are looked at.
_BEST = 4
# A number is changed by so much of its range, or as often as this drawn anew.
_STEP, _ANEW = 0.1, 0.3


@dataclass(frozen=True)
class Promise:
    """A configuration and what it promises: the expected gain of the logarithm of the rate."""

    point: Point
    gain: float


class Surrogate:
    """The model of one moment of a study.

    Parameters
    ----------
    space
        Whose configurations it is about.
    trials
        Finished trials.
    running
        Flags whose trials have not ended; counted as if they gave what is expected of them.
    seed
        Fixes which configurations are looked at.
    """

    def __init__(
        self, space: BoundedSpace, trials: Sequence[Trial], running: Sequence[Flags], seed: int
    ) -> None:
        self._space = space
        self._defaults = space.effective({})
        self._numbers = np.array([not isinstance(d, Choices) for d in space.domains.values()])
        self._rng = random.Random(seed)
        measured = [t for t in trials if t.status != "failed"]
        self._failed = self._encoded([t.flags for t in trials if t.status == "failed"])
        rates, noise = _observed(measured)
        self._level = float(rates.mean())
        known = self._encoded([t.flags for t in measured])
        shared = np.array([t.retuned for t in measured], dtype=np.float64)
        blocks = self._blocks(known, known, shared, shared)
        self._variances = _most_probable(blocks, rates - self._level, noise)
        self._fit(known, shared, rates - self._level, noise)
        expected, _ = self._predict(known)
        # As if each was measured by itself.
        order = [int(i) for i in np.argsort(-expected)[:_BEST]]
        self._incumbent = float(expected.max())
        self._best = [self._point(measured[i].flags) for i in order]
        if running:
            more = self._encoded(running)
            guess, _ = self._predict(more)
            self._incumbent = max(self._incumbent, float(guess.max()))
            self._fit(
                np.vstack((known, more)),
                np.concatenate((shared, np.zeros(len(more)))),
                np.concatenate((rates - self._level, guess)),
                np.concatenate((noise, np.full(len(more), _NOISE))),
            )

    def promises(self, fixed: Point | None = None) -> list[Promise]:
        """Return configurations that were looked at, the most promising first.

        Parameters
        ----------
        fixed
            Values that are given.
        """
        fixed = fixed or {}
        points = [draw(self._space, self._rng) | fixed for _ in range(_RANDOM)]
        points += [self._mutated(best | fixed, fixed) for best in self._best for _ in range(_NEAR)]
        encoded = self._encoded_points(points)
        mean, sd = self._predict(encoded)
        gains = _expected_improvement(mean - self._incumbent, sd) * self._chance(encoded)
        order: list[int] = np.argsort(-gains, kind="stable").tolist()
        return [Promise(points[i], float(gains[i])) for i in order]

    def _mutated(self, point: Point, fixed: Point) -> Point:
        """Return the point with one or two values changed, numbers mostly by a little."""
        free = [name for name in self._space.domains if name not in fixed]
        drawn = draw(self._space, self._rng)
        changed = drawn | point
        for name in self._rng.sample(free, min(len(free), self._rng.choice((1, 1, 2)))):
            domain, value = self._space.domains[name], point.get(name)
            if (
                isinstance(domain, Choices)
                or not isinstance(value, int | float)
                or self._rng.random() < _ANEW
            ):
                changed[name] = drawn[name]
            else:
                place = _place(domain, value) + self._rng.gauss(0.0, _STEP)
                changed[name] = _value(domain, min(1.0, max(0.0, place)))
        return changed

    def _point(self, flags: Flags) -> Point:
        """Return what the space has of these flags."""
        effective = self._space.effective(flags)
        return {
            name: effective[name]
            for name, domain in self._space.domains.items()
            if name in effective and contains(domain, effective[name])
        }

    def _encoded(self, many: Sequence[Flags]) -> Array:
        return self._encoded_points([dict(flags) for flags in many])

    def _encoded_points(self, points: Sequence[Point]) -> Array:
        """Return numbers, shape (points, flags): a place from 0 to 1, or which choice it is."""
        rows: list[list[float]] = []
        for point in points:
            chosen = {n: v for n, v in self._space.applying(point).items() if v is not None}
            values = self._defaults | chosen
            rows.append([_code(d, values.get(name)) for name, d in self._space.domains.items()])
        return np.array(rows, dtype=np.float64).reshape(len(points), len(self._space.domains))

    def _blocks(self, a: Array, b: Array, shared_a: Array, shared_b: Array) -> Array:
        """Return K_d between two sets of configurations, shape (flags + 1, len(a), len(b))."""
        apart = a.T[:, :, None] - b.T[:, None, :]
        numeric = np.exp(-0.5 * (apart / _LENGTH) ** 2)
        blocks = np.where(self._numbers[:, None, None], numeric, apart == 0.0)
        together = shared_a[:, None] == shared_b[None, :]
        return np.concatenate((blocks, together[None].astype(np.float64)))

    def _fit(self, known: Array, shared: Array, rates: Array, noise: Array) -> None:
        self._known, self._shared = known, shared
        kernel = _kernel(self._blocks(known, known, shared, shared), self._variances)
        kernel[np.diag_indices_from(kernel)] += noise**2
        self._factor = linalg.cho_factor(kernel, lower=True)
        self._weights = linalg.cho_solve(self._factor, rates)

    def _predict(self, encoded: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation of log rates on servers of their own."""
        alone = np.zeros(len(encoded))
        across = _kernel(self._blocks(encoded, self._known, alone, self._shared), self._variances)
        v = self._variances
        variance = _LEVEL_SD**2 + v.sum() + _PAIRS**2 * (v.sum() ** 2 - (v**2).sum()) / 2.0
        told = np.einsum("ij,ji->i", across, linalg.cho_solve(self._factor, across.T))
        return across @ self._weights, np.sqrt(np.maximum(variance - told, 1e-12))

    def _chance(self, encoded: Array) -> Array:
        """Return how likely each is not to fail, from how many near by failed and did not.

        To a power, since a failure costs a start and tells nothing of the rate.
        """
        if not len(self._failed):
            return np.ones(len(encoded))
        failed, fine = self._nearness(encoded, self._failed), self._nearness(encoded, self._known)
        return ((1.0 + fine) / (1.0 + fine + 2.0 * failed)) ** _CAUTION

    def _nearness(self, a: Array, b: Array) -> Array:
        apart = a[:, None, :] - b[None, :, :]
        lengths = np.where(self._numbers, np.abs(apart) / _LENGTH, _APART * (apart != 0.0))
        return np.exp(-0.5 * (lengths**2).sum(axis=2)).sum(axis=1)


def _observed(measured: Sequence[Trial]) -> tuple[Array, Array]:
    """Return logarithms of rates per accelerator, and how uncertain they are."""
    rates = np.array([_rate(t) for t in measured])
    seen = rates > 0
    logs = np.log(np.where(seen, rates, 1.0))
    best = max((logs[i] for i, t in enumerate(measured) if t.status == "feasible"), default=0.0)
    lowest = logs[seen].min() if seen.any() else 0.0
    logs = np.where(seen, logs, lowest - _UNKNOWN)
    estimated = np.array([t.status != "feasible" for t in measured])
    noise = _NOISE + np.where(estimated, _BEHIND * np.maximum(0.0, best - logs), 0.0)
    return logs, np.where(seen, noise, _UNKNOWN)


def _rate(trial: Trial) -> float:
    """Return the rate per accelerator of a trial, or what is known of it; 0: nothing."""
    if trial.status == "feasible":
        return trial.rate_per_gpu
    return (trial.estimate_rps or 0.0) / trial.gpus


def _kernel(blocks: Array, variances: Array) -> Array:
    parts = variances[:, None, None] * blocks
    alone = parts.sum(axis=0)
    pairs = (alone**2 - (parts**2).sum(axis=0)) / 2.0
    return _LEVEL_SD**2 + alone + _PAIRS**2 * pairs


def _most_probable(blocks: Array, rates: Array, noise: Array) -> Array:
    """Return the s_d² of the highest posterior density."""

    def loss(logs: Array) -> tuple[float, Array]:
        variances = np.exp(2.0 * logs)
        kernel = _kernel(blocks, variances)
        kernel[np.diag_indices_from(kernel)] += noise**2
        factor = linalg.cho_factor(kernel, lower=True)
        weights = linalg.cho_solve(factor, rates)
        inverse = linalg.cho_solve(factor, np.eye(len(rates)))
        parts = variances[:, None, None] * blocks
        alone = parts.sum(axis=0)
        # Derivatives of the kernel by log s_d.
        slopes = 2.0 * parts * (1.0 + _PAIRS**2 * (alone - parts))
        outer = inverse - np.outer(weights, weights)
        off = (logs - math.log(_MEDIAN_SD)) / _SPREAD
        value = 0.5 * rates @ weights + np.log(np.diag(factor[0])).sum() + 0.5 * off @ off
        return float(value), 0.5 * np.einsum("ij,dij->d", outer, slopes) + off / _SPREAD

    start = np.full(len(blocks), math.log(_MEDIAN_SD))
    bounds = [_LOG_SDS] * len(blocks)
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    return np.exp(2.0 * np.asarray(found.x, dtype=np.float64))


def _expected_improvement(gain: Array, sd: Array) -> Array:
    z = gain / sd
    return gain * special.ndtr(z) + sd * np.exp(-0.5 * z**2) / math.sqrt(2.0 * math.pi)


def _code(domain: Domain, value: object) -> float:
    if isinstance(domain, Choices):
        same = (i for i, c in enumerate(domain.choices) if type(c) is type(value) and c == value)
        return float(next(same, -1))
    if isinstance(value, bool) or not isinstance(value, int | float):
        # Not set: somewhere in the middle, for want of a value.
        return 0.5
    return _place(domain, value)


def _place(domain: IntRange | FloatRange, value: float) -> float:
    """Return where a number lies in its range, from 0 to 1; outside of it at the end."""
    low, high = _ends(domain)
    if domain.log:
        low, high, value = math.log(low), math.log(high), math.log(max(value, 1e-9))
    return min(1.0, max(0.0, (value - low) / (high - low or 1.0)))


def _value(domain: IntRange | FloatRange, place: float) -> int | float:
    """Return the number at a place."""
    low, high = _ends(domain)
    at = low * (high / low) ** place if domain.log else low + place * (high - low)
    if isinstance(domain, FloatRange):
        return min(domain.max, max(domain.min, at))
    return domain.nearest(at)


def _ends(domain: IntRange | FloatRange) -> tuple[float, float]:
    return (domain.low, domain.high) if isinstance(domain, IntRange) else (domain.min, domain.max)
