"""Label selectors of Ray: which nodes are in a pool, and which pools have nodes in common."""

from collections.abc import Iterable, Mapping

Labels = Mapping[str, str]
"""Name -> value: of a node, or what a selector asks of it."""


def matches(labels: Labels, selector: Labels) -> bool:
    """Return whether a selector chooses a node: ``v``, ``!v``, ``in(v, w)``, ``!in(v)``."""
    return all(_allows(wanted, labels.get(key)) for key, wanted in selector.items())


def meet(one: Labels, other: Labels, nodes: Iterable[Labels]) -> bool:
    """Return whether two selectors choose a node in common, or would as soon as there is any."""
    return one == other or any(matches(node, one) and matches(node, other) for node in nodes)


def _allows(wanted: str, value: str | None) -> bool:
    bare = wanted.removeprefix("!")
    listed = bare.startswith("in(") and bare.endswith(")")
    values = [part.strip() for part in bare[3:-1].split(",")] if listed else [bare]
    return (value in values) != wanted.startswith("!")
