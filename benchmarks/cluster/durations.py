"""How long the parts of each stage hold how many cards.

From the paper: a benchmark sends load for 900 s (appendix B); a study has 30 trials over tensor
parallel sizes 1, 2, 4, 8 (sections 4.4 and 5.4), of which those too small for the model miss the
SLO at once (table 7); five calibration trials of a recipe that calibrates, one of a recipe that
does not (section 5.2); the parallel sizes at which the three models do best (tables 5 to 7). A job
of one model and one workload comes to the 15 to 25 hours on eight cards of section 6, which is what
the other numbers were chosen by: start-up of a server as its users report it, compression and
evaluation by the size of the model. A checkpoint is taken for half of the model. How much a
duration varies is assumed, or taken from a history.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from optikit_assets.engines import Hardware, get_engine
from optikit_assets.graph import (
    BASE_MODEL,
    BENCHMARK_SWEEP,
    DEPLOYABLE_CONFIG,
    EVAL_SCORES,
    QUANTIZED_MODEL,
    TUNED_CONFIG,
    Node,
    split_model,
)
from optikit_assets.specs import BASELINE, Catalog, SearchSpaceSpec
from optikit_assets.specs.search_space import Choices
from optikit_assets.tuner import trials_at_once

LOAD_S = 900.0
INFEASIBLE_S = 60.0
"""Of a closed loop that shows that a configuration misses the SLO."""
CERTIFICATION_LOAD_S = 300.0
_ARMS, _ROUNDS = 4, 3
_NO_CALIBRATION = 0.15
"""Share of the time of a recipe that calibrates which one takes that does not."""
_COMPRESSED = 0.5
_SPREAD = tuple(random.Random(1).lognormvariate(0.0, 0.15) for _ in range(1000))


class Part(NamedTuple):
    """What one lease is for."""

    cards: int
    seconds: float


@dataclass(frozen=True)
class Family:
    """A size of model."""

    name: str
    cards: int
    start_s: float
    fetch_s: float
    compress_s: float
    evaluate_s: float
    gigabytes: float
    """Of the model as it is, in 16 bits."""


FAMILIES = (
    Family("qwen-7b", 2, 51, 15, 1500, 700, 15),
    Family("mistral-24b", 4, 110, 48, 4200, 1500, 48),
    Family("llama-70b", 8, 215, 140, 10800, 3000, 140),
)


@dataclass(frozen=True)
class Durations:
    """The parts of every partition of a campaign.

    Parameters
    ----------
    catalog
        Has the recipes with their trials, and the search space of each SLO.
    cards_per_node
        Nothing takes more.
    spread
        Factors by which durations differ from the usual, to draw from.
    """

    catalog: Catalog
    cards_per_node: int = 8
    spread: Sequence[float] = _SPREAD

    def fetch_s(self, node: Node) -> float:
        """Return how long it takes to fetch a model, which holds no card."""
        return _family(node).fetch_s

    def parts(self, node: Node) -> list[Part]:
        """Return what a partition takes cards for; a study takes `trials_at_once` of its own.

        Those of compression and evaluation are taken at once.
        """
        rng = random.Random(str(node))
        return [
            Part(min(cards, self.cards_per_node), seconds * rng.choice(self.spread))
            for cards, seconds in self._usual(node, rng)
        ]

    def trials_at_once(self, node: Node, hardware: Hardware, slots: int) -> int:
        """Return how many trials of a study run at a time on a pool with so many cards."""
        spec = self.catalog.model(split_model(node.key.model)[0]).engine
        cards = get_engine(spec.name).accelerators(spec, {}, hardware)
        return trials_at_once(slots, cards, self._space(node).startup_trials)

    def gigabytes(self, node: Node) -> float:
        """Return the size of what a node fetches for a partition: the model, or a checkpoint."""
        compressed = node.asset != QUANTIZED_MODEL and node.key.recipe not in ("", BASELINE)
        return _family(node).gigabytes * (_COMPRESSED if compressed else 1.0)

    def usual_s(self, node: Node) -> float:
        """Return how long a partition takes as a rule, with all the cards that it can use."""
        seconds = [part.seconds for part in self._usual(node, random.Random(str(node)))]
        if node.asset in (QUANTIZED_MODEL, EVAL_SCORES):
            return max(seconds, default=0.0)
        if node.asset == TUNED_CONFIG:
            return max(*seconds, sum(seconds) / self._space(node).startup_trials)
        return sum(seconds) or self.fetch_s(node)

    def _usual(self, node: Node, rng: random.Random) -> list[Part]:
        family = _family(node)
        if node.asset == BASE_MODEL:
            return []
        if node.asset == DEPLOYABLE_CONFIG:
            served = Part(family.cards, family.start_s + CERTIFICATION_LOAD_S)
            return [served] * (_ARMS * _ROUNDS)
        recipe = self.catalog.recipe(node.key.recipe)
        if node.asset == QUANTIZED_MODEL:
            if recipe.name == BASELINE:
                return []
            share = 1.0 if recipe.calibration else _NO_CALIBRATION
            return [Part(1, family.compress_s * share)] * recipe.trials
        if node.asset == EVAL_SCORES:
            return [Part(family.cards, family.evaluate_s)] * recipe.trials
        sweep = Part(family.cards, family.start_s + LOAD_S)
        if node.asset == BENCHMARK_SWEEP:
            return [sweep]
        assert node.asset == TUNED_CONFIG
        space = self._space(node)
        choices = space.parameters["tensor_parallel_size"]
        assert isinstance(choices, Choices)
        sizes = [int(size) for size in choices.choices if size is not None]
        drawn = [rng.choice(sizes) for _ in range(space.trials - 1)]
        return [self._trial(family, cards) for cards in drawn]

    def _space(self, node: Node) -> SearchSpaceSpec:
        return self.catalog.search_space(self.catalog.slo(node.key.slo).search_space)

    def _trial(self, family: Family, cards: int) -> Part:
        hopeless = cards < family.cards / 2
        return Part(cards, family.start_s + (INFEASIBLE_S if hopeless else LOAD_S))


def _family(node: Node) -> Family:
    return next(family for family in FAMILIES if node.key.model.startswith(family.name))
