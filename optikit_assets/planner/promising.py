"""Flags that are predicted to serve more than an engine's defaults: what a study may begin with.

A prediction decides nothing here: a configuration that it names is measured like every other.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from optikit_assets.engines import get_engine
from optikit_assets.engines.flags import integer
from optikit_assets.planner.forecast import Place, Question, forecast, layouts
from optikit_assets.specs import RecipeSpec, SearchSpaceSpec
from optikit_assets.specs.search_space import Choices, IntRange, Scalar

PROMISING = 2
"""Configurations that a study begins with unless one says otherwise."""
# Less than this is not told apart by a measurement either.
_WORTH = 0.02
_VALUES = 4


@dataclass(frozen=True)
class _Predicted:
    """Flags beside the model's own, with the highest rate by the cards of the server."""

    flags: Mapping[str, Scalar]
    rate_per_card: float


def promising(
    question: Question,
    place: Place,
    recipe: RecipeSpec,
    space: SearchSpaceSpec,
    most: int = PROMISING,
) -> list[dict[str, Scalar]]:
    """Return at most so many configurations of a space, the best first; none beats the default: [].

    Predicted are the layouts that the space allows on a node of the place, and for the best of
    them the flags that bound a batch: one after the other, since they hardly interact. There is at
    most one configuration of each layout. Flags that the simulation does not know are left to the
    engine.

    Parameters
    ----------
    space
        Its flags are those of the question's engine, else there is nothing to say.

    Raises
    ------
    OptikitError
        If the lengths of the workload are not known.
    """
    engine = get_engine(question.engine.name)
    if space.engine != engine.name:
        return []

    def predicted(flags: Mapping[str, Scalar]) -> _Predicted:
        given = question.engine.model_copy(update={"flags": {**question.engine.flags, **flags}})
        ways = forecast(replace(question, engine=given), [place], [recipe], space)
        # A layout that does not meet the SLO by the defaults of a batch may by other ones.
        return _Predicted(flags, max(way.rate_per_card for way in ways))

    names = [name for name in engine.parallel_flags[:2] if name in space.parameters]
    batch = [name for name in engine.batch_flags if name not in question.engine.flags]
    default = predicted(dict.fromkeys(names, 1) | dict(question.engine.flags))
    every = [predicted(flags) for flags in _parallel(question, place, space, names)]
    every.sort(key=lambda one: -one.rate_per_card)

    def with_batch(found: _Predicted) -> _Predicted:
        for name in batch:
            values = _some(space, name)
            found = _best([found, *(predicted({**found.flags, name: one}) for one in values)])
        return found

    best = [with_batch(one) for one in every[:most]]
    best.sort(key=lambda one: -one.rate_per_card)
    worth = default.rate_per_card * (1.0 + _WORTH)
    return [dict(one.flags) for one in best if one.flags and one.rate_per_card > worth]


def _best(some: Iterable[_Predicted]) -> _Predicted:
    """Return the first, unless another one is worth telling from it."""
    first, *others = some
    best = max(others, key=lambda one: one.rate_per_card, default=first)
    return best if best.rate_per_card > first.rate_per_card * (1.0 + _WORTH) else first


def _parallel(
    question: Question, place: Place, space: SearchSpaceSpec, names: Iterable[str]
) -> Iterator[dict[str, Scalar]]:
    searched = [name for name in names if name not in question.engine.flags]
    for layout in layouts(space, place, question.engine):
        flags = get_engine(question.engine.name).parallel_flags
        sizes = dict(zip(flags, (layout.tensor, layout.pipeline, layout.data), strict=True))
        yield {name: sizes[name] for name in searched}


def _some(space: SearchSpaceSpec, name: str) -> list[int]:
    """Return a few values of a parameter, spread over all; none if it is not searched."""
    match space.parameters.get(name):
        case Choices(choices=choices):
            return [size for value in choices if (size := integer(value))]
        case IntRange(low=low, high=high) as domain:
            ratio = (high / max(1, low)) ** (1.0 / (_VALUES - 1))
            spread = (domain.nearest(max(1, low) * ratio**at) for at in range(_VALUES))
            return list(dict.fromkeys(spread))
        case _:
            return []
