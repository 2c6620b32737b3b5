r"""A queue that answers as an engine was seen to: its step times against the batch.

Notation: at most k requests run at once, first come first served. Beside m others, a request of l
prompt tokens and n answer tokens, whose random factor is w (mean 1), takes

.. math:: s = c w [f + f' l + f'' m + (n - 1)(t + t' m)]

seconds, the first token after the terms with f. Closed loops of N clients (`ladder`) run beside
m = min(N, k) - 1 others, which tells every term; k shows where more clients answer no more
requests. The pace c, 1 for what the ladder saw, is what open-loop probes are compared by
(`forecast`).
"""

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from optikit_assets.benchmarker.arrivals import FloatArray
from optikit_assets.benchmarker.records import RequestRecord
from optikit_assets.schemas import Rung

# As many as no engine runs at once: none of the closed loops had to wait.
_NO_LIMIT = 4096
# A single client slower than two by this factor met an engine that was still cold.
_COLD = 1.2
# A limit on requests at once has to explain this much of the squared logarithms of throughput.
_WORTH = 1e-3
_LEAST_REQUESTS = 16


@dataclass(frozen=True)
class Requests:
    """Requests in order, arrays of shape (n,): tokens of prompt and answer, and their factors."""

    prompt: FloatArray
    answer: FloatArray
    factor: FloatArray

    def draw(self, count: int, rng: np.random.Generator) -> "Requests":
        """Return `count` in random order, each as often as the others."""
        chosen = rng.permutation(np.arange(count) % len(self.factor))
        return Requests(self.prompt[chosen], self.answer[chosen], self.factor[chosen])

    def with_factors(self, factors: FloatArray, rng: np.random.Generator) -> "Requests":
        """Return the same requests with factors drawn from others."""
        return Requests(self.prompt, self.answer, rng.choice(factors, size=len(self.prompt)))


@dataclass(frozen=True)
class Answers:
    """When requests were answered, seconds, shape (n,)."""

    arrived_s: FloatArray
    first_s: FloatArray
    last_s: FloatArray
    tokens: FloatArray

    def metric_s(self, metric: str) -> FloatArray:
        """Return ``ttft``, ``e2e_latency`` or ``tpot`` of every request."""
        if metric == "ttft":
            return self.first_s - self.arrived_s
        if metric == "e2e_latency":
            return self.last_s - self.arrived_s
        return (self.last_s - self.first_s) / np.maximum(self.tokens - 1.0, 1.0)


@dataclass(frozen=True)
class QueueModel:
    """Terms of a step, in seconds: (f, f', f'') and (t, t'); and the requests that were seen."""

    slots: int
    first: tuple[float, float, float]
    token: tuple[float, float]
    seen: Requests

    @property
    def full(self) -> bool:
        """Whether it is known how many requests run at once."""
        return self.slots < _NO_LIMIT

    def service_s(self, others: float, prompt: float, answer: float) -> float:
        """Return the time of a request with factor 1 beside `others`."""
        first_s = self.first[0] + self.first[1] * prompt + self.first[2] * others
        return first_s + max(answer - 1.0, 0.0) * (self.token[0] + self.token[1] * others)

    def run(self, arrived_s: FloatArray, requests: Requests, pace: float = 1.0) -> Answers:
        """Return what becomes of requests that find the engine empty at first.

        Parameters
        ----------
        arrived_s
            Seconds, ascending.
        pace
            The factor c on all times.
        """
        steps = np.maximum(requests.answer - 1.0, 0.0)
        scale = pace * requests.factor
        first = (scale * (self.first[0] + self.first[1] * requests.prompt)).tolist()
        first_more = (scale * self.first[2]).tolist()
        rest = (scale * steps * self.token[0]).tolist()
        rest_more = (scale * steps * self.token[1]).tolist()
        slots = self.slots
        ends: list[float] = []
        firsts: list[float] = []
        lasts: list[float] = []
        for now, f, ff, r, rr in zip(
            arrived_s.tolist(), first, first_more, rest, rest_more, strict=True
        ):
            del ends[: bisect_right(ends, now)]
            waits = len(ends) - slots
            # Who came earlier has begun by then: the others are those that end later.
            begin = now if waits < 0 else ends[waits]
            others = len(ends) if waits < 0 else len(ends) - bisect_right(ends, begin)
            at = begin + f + ff * others
            end = at + r + rr * others
            insort(ends, end)
            firsts.append(at)
            lasts.append(end)
        return Answers(arrived_s, np.array(firsts), np.array(lasts), requests.answer)


@dataclass(frozen=True)
class _Level:
    """Closed-loop requests of so many clients."""

    clients: int
    throughput_rps: float
    prompt: FloatArray
    answer: FloatArray
    first_s: FloatArray
    rest_s: FloatArray


def fit_queue(
    closed: Sequence[RequestRecord], ladder: Sequence[RequestRecord], rungs: Sequence[Rung]
) -> QueueModel | None:
    """Return the model of an engine from its closed loops, or None if they tell too little.

    Parameters
    ----------
    closed
        Requests that were sent one after the other.
    ladder
        Requests of all rungs.
    rungs
        Those that obey Little's law, by number of clients.
    """
    levels = [
        level
        for rung in rungs
        if (level := _level(ladder, rung.clients, rung.throughput_rps)) is not None
    ]
    if not levels:
        return None
    alone = _seen_alone(closed, levels[0])
    if sum(len(level.first_s) for level in (*alone, *levels)) < _LEAST_REQUESTS:
        return None
    every = (_fit(alone, levels, free) for free in range(1, len(levels) + 1))
    fits = [fit for fit in every if fit is not None]
    return min(fits, key=lambda fit: fit[0])[1] if fits else None


def _level(records: Sequence[RequestRecord], clients: int, throughput_rps: float) -> _Level | None:
    # The first of every client came all at once.
    chosen = [r for r in records if r.probe == -clients and r.index >= clients and r.ok]
    return _level_of(chosen, clients, throughput_rps)


def _level_of(
    records: Sequence[RequestRecord], clients: int, throughput_rps: float
) -> _Level | None:
    known = [
        (*tokens_of(r), r.scheduled_s, r.first_token_s, r.finished_s)
        for r in records
        if r.ok and r.first_token_s is not None and r.finished_s is not None
    ]
    if not known:
        return None
    prompt, answer, sent, first, last = np.array(known, dtype=np.float64).T
    return _Level(
        clients,
        throughput_rps,
        prompt,
        answer,
        first - sent,
        last - first,
    )


def tokens_of(record: RequestRecord) -> tuple[int, int]:
    """Return the tokens of prompt and answer; where the server did not say, 0 and the events."""
    seen = len(record.itl_s) + 1
    return max(record.input_tokens, 0), record.output_tokens if record.output_tokens > 0 else seen


def _seen_alone(closed: Sequence[RequestRecord], two: _Level) -> list[_Level]:
    level = _level_of([r for r in closed if r.phase == "closed"], 1, 0.0)
    if level is None or level.rest_s.mean() > _COLD * two.rest_s.mean():
        return []
    return [level]


def _fit(alone: list[_Level], levels: list[_Level], free: int) -> tuple[float, QueueModel] | None:
    """Return the model in which the first `free` levels never wait, and how far off it is.

    None if in it a request that is alone takes no time.
    """
    used = [*alone, *levels[:free]]
    others = np.concatenate([np.full(len(u.first_s), u.clients - 1.0) for u in used])
    prompt = np.concatenate([u.prompt for u in used])
    answer = np.concatenate([u.answer for u in used])
    first_s = np.concatenate([u.first_s for u in used])
    rest_s = np.concatenate([u.rest_s for u in used])
    steps = np.maximum(answer - 1.0, 0.0)
    first = _terms([np.ones_like(prompt), prompt, others], first_s)
    token = _terms([steps, steps * others], rest_s)
    bare = QueueModel(_NO_LIMIT, (first[0], first[1], first[2]), (token[0], token[1]), _NOTHING)
    mean_l, mean_n = float(prompt.mean()), float(answer.mean())
    if bare.service_s(0.0, mean_l, mean_n) <= 0.0:
        return None
    slots, top_rps = _NO_LIMIT, np.inf
    if free < len(levels):
        top_rps = float(np.mean([level.throughput_rps for level in levels[free:]]))
        sizes = np.arange(levels[free - 1].clients, levels[free].clients + 1)
        reach = np.array([k / bare.service_s(k - 1, mean_l, mean_n) for k in sizes.tolist()])
        best = int(np.argmin(np.abs(np.log(reach / top_rps))))
        slots, top_rps = int(sizes[best]), float(reach[best])
    off = 0.0 if free == len(levels) else _WORTH
    for i, level in enumerate(levels):
        n = level.clients
        expected = n / bare.service_s(n - 1, mean_l, mean_n) if i < free else top_rps
        off += float(np.log(level.throughput_rps / expected)) ** 2
    expected_s = first[0] + first[1] * prompt + first[2] * others
    expected_s = expected_s + steps * (token[0] + token[1] * others)
    if not np.all(expected_s > 0.0):
        return None
    factor = (first_s + rest_s) / expected_s
    seen = Requests(prompt, answer, factor / factor.mean())
    return off, QueueModel(slots, bare.first, bare.token, seen)


def _terms(columns: list[FloatArray], seconds: FloatArray) -> list[float]:
    """Return non-negative least-squares coefficients; a column that does not vary is left out."""
    table = np.stack(columns, axis=1)
    useful = [0] + [i for i in range(1, len(columns)) if np.ptp(columns[i]) > 0]
    found, _ = optimize.nnls(table[:, useful], seconds)
    terms = [0.0] * len(columns)
    for i, value in zip(useful, found.tolist(), strict=True):
        terms[i] = value
    return terms


_NOTHING = Requests(np.empty(0), np.empty(0), np.empty(0))
