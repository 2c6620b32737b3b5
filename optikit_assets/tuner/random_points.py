"""Points of a search space that were not measured yet, for when the sampler repeats itself."""

import itertools
import math
import random
from collections.abc import Callable

from optikit_assets.engines import Flags
from optikit_assets.specs import Choices, FloatRange, IntRange
from optikit_assets.specs.search_space import Scalar
from optikit_assets.tuner.bounded_space import BoundedSpace, Point

_ENUMERABLE = 4096
_DRAWS = 500


def unseen_point(
    space: BoundedSpace, *, seed: int, is_seen: Callable[[Flags], bool]
) -> Point | None:
    """Return a random point that was neither measured nor refused, None if there is none.

    Small spaces are gone through completely; from large ones a bounded number of points is drawn.
    """
    rng = random.Random(seed)
    if space.size is not None and space.size <= _ENUMERABLE:
        points = _all_points(space)
        rng.shuffle(points)
    else:
        points = [draw(space, rng) for _ in range(_DRAWS)]
    return next((p for p in points if not is_seen(space.flags_of(p))), None)


def _all_points(space: BoundedSpace) -> list[Point]:
    axes: list[list[Scalar | None]] = []
    for domain in space.domains.values():
        if isinstance(domain, Choices):
            axes.append(list(domain.choices))
        elif isinstance(domain, IntRange):
            axes.append(list(range(domain.low, domain.high + 1, domain.step)))
    return [dict(zip(space.domains, values, strict=True)) for values in itertools.product(*axes)]


def draw(space: BoundedSpace, rng: random.Random) -> Point:
    """Return a point at random, with a value for parameters that do not apply too."""
    point: Point = {}
    for name, domain in space.domains.items():
        if isinstance(domain, Choices):
            point[name] = rng.choice(domain.choices)
        elif isinstance(domain, FloatRange):
            point[name] = _between(rng, domain.min, domain.max, domain.log)
        elif domain.log:
            point[name] = min(domain.high, round(_between(rng, domain.low, domain.high, True)))
        else:
            point[name] = rng.randrange(domain.low, domain.high + 1, domain.step)
    return point


def _between(rng: random.Random, low: float, high: float, log: bool) -> float:
    if log:
        return math.exp(rng.uniform(math.log(low), math.log(high)))
    return rng.uniform(low, high)
