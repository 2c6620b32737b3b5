"""The typed key of a partition, and how it is packed into a partition key of Dagster's.

Dagster allows two dimensions, so what is more is packed: a scenario is ``recipe@slo``, on a named
pool of accelerators ``recipe@slo@pool``. A key of two dimensions is ``model|other``: Dagster orders
them by name, and ``model`` sorts before ``recipe``, ``scenario`` and ``slo``.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from optikit_assets.specs import LOCAL, check_name

SEP = "@"
_DIMENSION_SEP = "|"

# Dimension -> the parts that are packed into it.
PARTS = {
    "model": ("model",),
    "recipe": ("recipe",),
    "slo": ("slo",),
    "pool": ("pool",),
    "scenario": ("recipe", "slo", "pool"),
}


@dataclass(frozen=True)
class Key:
    """What a partition is of; a part that it does not have is empty.

    ``pool`` is None on the machine itself: its partitions have the keys that they had when there
    was no other pool.
    """

    model: str = ""
    recipe: str = ""
    slo: str = ""
    pool: str | None = None

    def within(self, dimensions: Iterable[str]) -> "Key":
        """Return the key with those parts alone that `dimensions` have."""
        return Key(**{part: getattr(self, part) for part in parts_of(dimensions)})

    def dimension(self, name: str) -> str:
        """Return what is packed into one dimension."""
        return SEP.join(part for part in (getattr(self, field) for field in PARTS[name]) if part)

    def pack(self, dimensions: Iterable[str]) -> str:
        """Return the partition key."""
        return _DIMENSION_SEP.join(map(self.dimension, dimensions))


def parts_of(dimensions: Iterable[str]) -> set[str]:
    """Return the parts that a key of these dimensions has."""
    return {part for dimension in dimensions for part in PARTS[dimension]}


def unpack(dimensions: tuple[str, ...], partition: str) -> Key:
    """Return the key that was packed into a partition key.

    Raises
    ------
    ValueError
        If it has not the parts of these dimensions.
    """
    found: dict[str, str] = {}
    for dimension, packed in zip(dimensions, partition.split(_DIMENSION_SEP), strict=True):
        names = PARTS[dimension]
        # A model's own separator, of name and version, stays.
        values = packed.split(SEP) if len(names) > 1 else [packed]
        required = sum(name != "pool" for name in names)
        if not required <= len(values) <= len(names):
            raise ValueError(f"{packed!r} is no {dimension}")
        found.update(zip(names, values, strict=False))
    return Key(**{**found, "pool": pool_part(found.get("pool", LOCAL))})


def pool_part(name: str) -> str | None:
    """Return the part of a key that stands for a pool."""
    return None if name == LOCAL else name


def pool_name(part: str | None) -> str:
    """Return the name of the pool that a part of a key stands for."""
    return LOCAL if part is None else part


def split_model(key: str) -> tuple[str, str]:
    """Return name and version of a model key, checked: Dagster silently drops bad dynamic keys."""
    name, _, version = key.partition(SEP)
    return check_name(name), check_name(version)
