"""The paper's schedule: a job holds a node, and its stages are actor pools with barriers between.

Read from the paper: a job is one model, one recipe and one workload on eight cards (appendix A.2,
``compute_config=[H100_8]``). It creates a pool of actors sized to these, has every trial of a stage
done, waits for all, destroys the pool, and goes on (section 4.5, algorithm 2, section 7.2). Tuning
trials run "in parallel or sequential as resources permit", proposed one by one: Ray Tune has one
trial wait for cards at a time if a sampler proposes them (``TUNE_MAX_PENDING_TRIALS_PG``), so they
start in that order. In favour of it is assumed that pools cost no time to create and destroy, that
jobs of one model and recipe share checkpoint and scores, and that the longest jobs go first. It
certifies nothing, so neither that work nor its time is counted.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.cluster.campaign import Campaign
from benchmarks.cluster.durations import Durations, Part
from optikit_assets.graph import (
    BASE_MODEL,
    BENCHMARK_SWEEP,
    EVAL_SCORES,
    QUANTIZED_MODEL,
    TUNED_CONFIG,
    Key,
    Node,
)


@dataclass(frozen=True)
class Staged:
    """How a campaign goes in stages."""

    utilization: float
    makespan_s: float
    tuning: float
    """Utilization of the cards of a job while it tunes: the paper reports 88 %."""


@dataclass(frozen=True)
class _Job:
    pool: str
    seconds: float
    busy_card_s: float
    tuning_s: float
    tuning_card_s: float
    after: int | None = None


def stage_s(parts: Sequence[Part], cards: int) -> float:
    """Return how long a pool of actors on so many cards takes for all trials of a stage."""
    running: list[tuple[float, int]] = []
    free, now = cards, 0.0
    for part in parts:
        while part.cards > free:
            now, back = heapq.heappop(running)
            free += back
        free -= part.cards
        heapq.heappush(running, (now + part.seconds, part.cards))
    return max((end for end, _ in running), default=now)


def staged(campaign: Campaign, durations: Durations, nodes: Mapping[str, int]) -> Staged:
    """Carry out a campaign in the paper's way.

    Parameters
    ----------
    nodes
        Name of a pool -> how many nodes it has.
    """
    jobs = _jobs(campaign, durations)
    order = sorted(range(len(jobs)), key=lambda number: -jobs[number].seconds)
    first = [number for number in order if jobs[number].after is None]
    followers: defaultdict[int, list[int]] = defaultdict(list)
    for number in order:
        after = jobs[number].after
        if after is not None:
            followers[after].append(number)
    free = Counter(nodes)
    waiting: dict[str, list[int]] = {
        pool: [n for n in first if jobs[n].pool == pool] for pool in nodes
    }
    running: list[tuple[float, int]] = []
    now = 0.0
    while running or any(waiting.values()):
        for pool, queue in waiting.items():
            while queue and free[pool]:
                number = queue.pop(0)
                free[pool] -= 1
                heapq.heappush(running, (now + jobs[number].seconds, number))
        now, number = heapq.heappop(running)
        free[jobs[number].pool] += 1
        for other in followers[number]:
            waiting[jobs[other].pool].append(other)
    cards = durations.cards_per_node
    busy = sum(job.busy_card_s for job in jobs)
    tuning = sum(job.tuning_card_s for job in jobs) / sum(cards * job.tuning_s for job in jobs)
    return Staged(busy / (cards * sum(nodes.values()) * now), now, tuning)


def _jobs(campaign: Campaign, durations: Durations) -> list[_Job]:
    found: list[_Job] = []
    for submission in campaign.submissions():
        for recipe in submission.recipes:
            made: int | None = None
            for slo, pools in zip(submission.slos, submission.pools, strict=True):
                for pool in pools:
                    job = _measures(durations, pool, Key(submission.model_key, recipe, slo, pool))
                    if made is None:
                        made = len(found)
                        found.append(_makes(durations, job, Key(submission.model_key, recipe)))
                    else:
                        found.append(replace(job, after=made))
    return found


def _measures(durations: Durations, pool: str, key: Key) -> _Job:
    """Return the job of one workload: benchmark, then tuning."""
    sweep = durations.parts(Node(BENCHMARK_SWEEP, key))
    study = durations.parts(Node(TUNED_CONFIG, key))
    tuning = stage_s(study, durations.cards_per_node)
    return _Job(
        pool,
        stage_s(sweep, durations.cards_per_node) + tuning,
        _card_s(sweep) + _card_s(study),
        tuning,
        _card_s(study),
    )


def _makes(durations: Durations, job: _Job, key: Key) -> _Job:
    """Return a job that fetches, compresses and evaluates before it measures."""
    seconds = durations.fetch_s(Node(BASE_MODEL, Key(key.model)))
    busy = 0.0
    for asset in (QUANTIZED_MODEL, EVAL_SCORES):
        parts = durations.parts(Node(asset, key))
        seconds += stage_s(parts, durations.cards_per_node)
        busy += _card_s(parts)
    return replace(job, seconds=job.seconds + seconds, busy_card_s=job.busy_card_s + busy)


def _card_s(parts: Sequence[Part]) -> float:
    return sum(part.cards * part.seconds for part in parts)
