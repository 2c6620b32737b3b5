r"""Where a model of the engine puts the limit, corrected by what open-loop probes saw.

Notation: `queue_model` says of any arrivals what latencies they would see at the pace c. The same
arrivals as in probe j give the observed percentile at the pace c_j: that is how slow the engine
really was, whatever luck the arrivals had, and it tells as much from latencies far below the bound
as from a queue that grows. The model at that pace meets the objective in the long run up to a rate
of logarithm ℓ_j = ln L(c_j). It is as sure as the spread of the percentile over other random
factors, and the less, the farther the probe was from the limit. The ladder is one more such
measurement, at c = 1. Their weighted mean, with the variance by which they scatter (Birge 1932), is
what the model says; it need not be right, so it is a prior of the pooled reading and no more.
"""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy import optimize

from optikit_assets.benchmarker.arrivals import FloatArray, probe_schedule
from optikit_assets.benchmarker.crossing import Forecast
from optikit_assets.benchmarker.queue_model import Answers, QueueModel, Requests, tokens_of
from optikit_assets.benchmarker.records import RequestRecord
from optikit_assets.specs.slo import Objective, SloSpec
from optikit_assets.specs.workload import Workload

# Standard deviation, in logarithms, of what the ladder alone says.
_LADDER_SD = 0.08
# What no number of probes takes away, since the model is wrong in the same way for all of them.
_MODEL_SD = 0.015
# Of a probe at the limit, beside what chance explains, and how it grows with the distance.
_PROBE_SD = 0.03
_DISTANCE_SD = 0.15
_PRIOR_PROBES = 2.0
# Other factors are drawn for so many requests in all, so many times.
_DRAWN = 8_000
_DRAWS = 4, 16
_LONG_RUN = 40_000
# Their arrivals are those of a probe that no benchmark comes to.
_NO_PROBE = 2**30
# Long runs are made at rates so far apart, in logarithms.
_NODE = 0.02
_LIGHT = 4.0
# A limit is looked for so many steps of rates, and more, below a light load.
_DEEPEST = 256
_MOST_REPLAYED = 6_000
_LEAST_REPLAYED = 15
_TINY_S = 1e-6
# Logarithms of paces: the first beside 1 that is tried, the last, and the step of a slope.
_FIRST_PACE = 0.05
_LAST_PACE = 0.7
_STEP = 0.03


class _Read(NamedTuple):
    """What a probe says: ln c, the standard deviation of ln L that follows, and ln of its rate."""

    log_pace: float
    log_sd: float
    log_rate: float


@dataclass(frozen=True)
class Replay:
    """Open-loop requests up to the first of which the end is not known.

    Arrays have shape (n,), times in seconds after the start; the first `warmup` are not measured.
    Requests that failed at once are left out, ``failed_share`` says how many.
    """

    rate_rps: float
    warmup: int
    arrived_s: FloatArray
    prompt: FloatArray
    answer: FloatArray
    first_s: FloatArray
    last_s: FloatArray
    failed_share: float


def replay_of(records: Sequence[RequestRecord], rate_rps: float) -> Replay | None:
    """Return what a probe's requests tell the model, or None if too few were seen to their end."""
    rows: list[tuple[float, float, float, float, float]] = []
    warmup = failed = 0
    begun = sum(r.phase == "warmup" for r in records)
    for r in records[: begun + _MOST_REPLAYED]:
        if r.phase == "tail":
            break
        if not r.ok or r.first_token_s is None or r.finished_s is None:
            # One that was refused left the engine at once; of any other it is not known when.
            if not (r.error or "").startswith("HTTP"):
                break
            failed += r.phase == "measured"
            continue
        warmup += r.phase == "warmup"
        rows.append((r.scheduled_s, r.first_token_s, r.finished_s, *tokens_of(r)))
    if len(rows) - warmup < _LEAST_REPLAYED:
        return None
    arrived, first, last, prompt, answer = np.array(rows).T
    return Replay(
        rate_rps,
        warmup,
        arrived,
        prompt,
        answer,
        first,
        last,
        failed / (len(rows) - warmup + failed),
    )


def forecasters(model: QueueModel | None, slo: SloSpec) -> tuple["Forecaster | None", ...]:
    """Return one for every objective; None for gaps between tokens, which the model lacks.

    There is none at all if the ladder never filled the engine: nothing says where its limit is.
    """
    if model is None or not model.full:
        return (None,) * len(slo.objectives)
    return tuple(
        None if o.metric == "itl" else Forecaster(model, o, slo.workload) for o in slo.objectives
    )


class Forecaster:
    """What the model says about one objective, after every probe."""

    def __init__(self, model: QueueModel, objective: Objective, workload: Workload) -> None:
        self._model = model
        self._objective = objective
        self._bound_s = objective.max_ms / 1000.0
        self._found: list[_Read] = []
        self._unlike = False
        self._arrivals = probe_schedule(
            workload,
            1.0,
            horizon_s=float(_LONG_RUN),
            first_stop_s=_LONG_RUN / 2.0,
            max_requests=_LONG_RUN,
            seed=0,
            probe=_NO_PROBE,
        )
        count = len(self._arrivals)
        self._arrivals *= count / self._arrivals[-1]
        self._seen = model.seen
        self._requests = model.seen.draw(count, np.random.default_rng(1))
        self._values: dict[int, float] = {}
        prompt, answer = float(self._requests.prompt.mean()), float(self._requests.answer.mean())
        alone_rps = 1.0 / model.service_s(0.0, prompt, answer)
        full_rps = model.slots / model.service_s(model.slots - 1.0, prompt, answer)
        self._highest = round(np.log(full_rps) / _NODE)
        self._lowest = min(round(np.log(alone_rps / _LIGHT) / _NODE), self._highest - 1)

    @property
    def unlike(self) -> bool:
        """Whether a probe was seen that no pace explains: the engine is another one."""
        return self._unlike

    def add(self, replay: Replay) -> None:
        """Take in a probe."""
        percent = self._percentile(replay.failed_share)
        if percent is None:
            return
        read = self._pace(replay, percent)
        if read is None:
            self._unlike = True
            return
        pace, log_sd = read
        self._found.append(_Read(pace, log_sd, float(np.log(replay.rate_rps))))
        if np.ptp(replay.prompt) > 0 or np.ptp(replay.answer) > 0:
            self._lengthen(replay)

    def _lengthen(self, replay: Replay) -> None:
        """Draw on the requests of a probe too: the ladder's are few, and the longest decide."""
        rng = np.random.default_rng(1)
        more = Requests(replay.prompt, replay.answer, np.ones(len(replay.prompt)))
        more = more.with_factors(self._model.seen.factor, rng)
        pairs = zip(astuple(self._seen), astuple(more), strict=True)
        self._seen = Requests(*(np.concatenate(pair) for pair in pairs))
        self._requests = self._seen.draw(len(self._arrivals), rng)
        self._values = {}

    def forecast(self) -> Forecast | None:
        """Return where all measurements together put the limit.

        None once a probe was seen that no pace explains: the engine is another than the model's.
        """
        if self._unlike:
            return None
        paces = [0.0, *(read.log_pace for read in self._found)]
        logs = np.array([self._log_limit(pace) for pace in paces])
        own = [math.hypot(read.log_sd, _PROBE_SD) for read in self._found]
        sds = np.array([_LADDER_SD, *own])
        at = np.array([logs[0], *(read.log_rate for read in self._found)])
        mean, variances = logs[-1], sds**2
        for _ in range(3):
            distances = np.abs(at - mean)
            distances[0] = 0.0
            variances = sds**2 + (_DISTANCE_SD * distances) ** 2
            mean = float(np.sum(logs / variances) / np.sum(1.0 / variances))
        scatter = float(np.sum((logs - mean) ** 2 / variances))
        inflation = max(1.0, (scatter + _PRIOR_PROBES) / (len(logs) - 1.0 + _PRIOR_PROBES))
        chance = float(np.sqrt(inflation / np.sum(1.0 / variances)))
        return Forecast(mean, math.hypot(chance, _MODEL_SD))

    def _percentile(self, failed_share: float) -> float | None:
        """Return the percentile of the answered requests that the failed ones leave."""
        allowed = self._objective.allowed_share
        if failed_share >= allowed:
            return None
        return 100.0 * (1.0 - (allowed - failed_share) / (1.0 - failed_share))

    def _pace(self, replay: Replay, percent: float) -> tuple[float, float] | None:
        """Return the logarithm of the pace at which the model sees what was seen, and its sd.

        None if it does at no pace.
        """
        model, metric = self._model, self._objective.metric
        rng = np.random.default_rng(0)
        seen = Requests(replay.prompt, replay.answer, np.ones(len(replay.prompt)))
        count = int(np.clip(_DRAWN // len(replay.prompt), *_DRAWS))
        draws = [seen.with_factors(model.seen.factor, rng) for _ in range(count)]

        answers = Answers(replay.arrived_s, replay.first_s, replay.last_s, replay.answer)
        target = _log_percentile(answers.metric_s(metric)[replay.warmup :], percent)

        @cache
        def beyond(log_pace: float) -> tuple[float, float]:
            pace = float(np.exp(log_pace))
            runs = [model.run(replay.arrived_s, draw, pace).metric_s(metric) for draw in draws]
            logs = [_log_percentile(run[replay.warmup :], percent) for run in runs]
            return float(np.mean(logs)) - target, float(np.std(logs, ddof=1))

        edge = _FIRST_PACE if beyond(0.0)[0] < 0.0 else -_FIRST_PACE
        near = 0.0
        while beyond(near)[0] * beyond(edge)[0] > 0.0:
            if abs(edge) > _LAST_PACE:
                return None
            near, edge = edge, 2.0 * edge
        found = float(optimize.brentq(lambda pace: beyond(pace)[0], near, edge, xtol=2e-3))
        slope = (beyond(found + _STEP)[0] - beyond(found - _STEP)[0]) / (2.0 * _STEP)
        # What the model says is a mean over few draws.
        spread = beyond(found)[1] * np.sqrt(1.0 + 1.0 / count)
        return found, float(spread / max(slope, 1.0))

    def _log_limit(self, log_pace: float) -> float:
        """Return ln L: at this pace, the model's latencies reach the bound there."""
        wanted = float(np.log(self._bound_s)) - log_pace
        # At the pace c, a rate is what the rate over c is at the pace 1.
        low, step = self._lowest, 1
        while self._long_run(low) > wanted and step < _DEEPEST:
            low, step = low - step, 2 * step
        high = low + 1
        while high < self._highest and self._long_run(high) < wanted:
            low, high = high, high + (high - low) * 2
        high = min(high, self._highest)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._long_run(middle) < wanted else (low, middle)
        under, over = self._long_run(low), self._long_run(high)
        part = 0.0 if over <= under else (wanted - under) / (over - under)
        return (low + min(max(part, 0.0), 1.0)) * _NODE - log_pace

    def _long_run(self, node: int) -> float:
        """Return the logarithm of the percentile at the rate exp(node · _NODE) and the pace 1."""
        if node not in self._values:
            run = self._model.run(self._arrivals / np.exp(node * _NODE), self._requests)
            values = run.metric_s(self._objective.metric)
            self._values[node] = _log_percentile(values, self._objective.percentile)
        return self._values[node]


def _log_percentile(values_s: FloatArray, percent: float) -> float:
    return math.log(max(float(np.percentile(values_s, percent)), _TINY_S))
