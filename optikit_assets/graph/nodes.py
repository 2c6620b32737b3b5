"""Partitions of the graph, and what follows for them from its declaration."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

from optikit_assets.graph.keys import Key, parts_of, unpack
from optikit_assets.graph.stages import DEPLOYABLE_CONFIG, GRAPH


class Node(NamedTuple):
    """One partition of one asset; an unpartitioned one has the empty key."""

    asset: str
    key: Key = Key()

    @classmethod
    def of(cls, asset: str, partition: str | None = None) -> "Node":
        """Return the node that Dagster knows by this partition key."""
        if partition is None:
            return cls(asset)
        return cls(asset, unpack(GRAPH[asset].dimensions, partition))

    @classmethod
    def named(cls, label: str) -> "Node":
        """Return the node that is written like this, see `__str__`."""
        asset, bracket, partition = label.partition("[")
        return cls.of(asset, partition[:-1] if bracket else None)

    @property
    def partition(self) -> str | None:
        """The partition key as Dagster has it; None without partitions."""
        return self.key.pack(GRAPH[self.asset].dimensions) or None

    @property
    def observed(self) -> bool:
        """Whether it is a source that is only observed."""
        return GRAPH[self.asset].observed

    @property
    def is_root(self) -> bool:
        """Whether nothing is upstream of it: its version is that of what is on disk."""
        return not GRAPH[self.asset].needs

    def on(self, pool: str | None) -> "Node":
        """Return this node as seen from a pool, which its asset need not be partitioned by."""
        return Node(self.asset, replace(self.key, pool=pool))

    def needed(self, asset: str, recipe: str = "") -> "Node":
        """Return the partition of another asset that goes with this one.

        Parameters
        ----------
        recipe
            In place of the node's own, and for one that has none.
        """
        whole = replace(self.key, recipe=recipe or self.key.recipe)
        need = Node(asset, whole.within(GRAPH[asset].dimensions))
        return need.on(self.key.pool) if GRAPH[asset].by_hardware else need

    def __str__(self) -> str:
        return self.asset if self.partition is None else f"{self.asset}[{self.partition}]"


def upstream(
    node: Node, recipes: Collection[str] = (), pools: Sequence[str | None] = (None,)
) -> tuple[Node, ...]:
    """Return the nodes that `node` depends on directly.

    Parameters
    ----------
    recipes
        What a deployable config chooses from; of no meaning for other nodes.
    pools
        Where it chooses from, and where what has no pool in its key was or will be made; of no
        meaning for nodes of a pool.
    """
    own = parts_of(GRAPH[node.asset].dimensions)
    beyond = {need: parts_of(GRAPH[need].dimensions) - own for need in GRAPH[node.asset].needs}
    direct = [
        place.needed(need)
        for need, parts in beyond.items()
        if "recipe" not in parts
        for place in _places(node, parts, pools)
    ]
    chosen = [
        place.needed(need, name)
        for name in sorted(recipes)
        for need, parts in beyond.items()
        if "recipe" in parts
        for place in _places(node, parts, pools)
    ]
    return (*direct, *chosen)


def _places(node: Node, parts: set[str], pools: Sequence[str | None]) -> list[Node]:
    return [node.on(pool) for pool in pools] if "pool" in parts else [node]


def results_of(key: Key, recipe: str) -> tuple[Node, ...]:
    """Return what a decision knows of one recipe on the pool of `key`: its evaluation first."""
    found = upstream(Node(DEPLOYABLE_CONFIG, key), [recipe], [key.pool])
    return tuple(node for node in found if node.key.recipe)


def measurements_of(key: Key, recipe: str) -> tuple[Node, ...]:
    """Return those results of a recipe that were made for the SLO itself."""
    return tuple(node for node in results_of(key, recipe) if node.key.slo)


def nodes_of(
    assets: Iterable[str],
    *,
    models: Iterable[str] = (),
    recipes: Iterable[str] = (),
    slos: Iterable[str] = (),
    pools: Iterable[str | None] = (None,),
) -> list[Node]:
    """Return every partition of these assets."""
    known: dict[str, list[Any]] = {
        "model": list(models),
        "recipe": list(recipes),
        "slo": list(slos),
        "pool": list(pools),
    }
    nodes: list[Node] = []
    for asset in assets:
        parts = parts_of(GRAPH[asset].dimensions)
        names = [name for name in known if name in parts]
        nodes += [
            Node(asset, Key(**dict(zip(names, values, strict=True))))
            for values in product(*(known[name] for name in names))
        ]
    return nodes


def in_plan_order(nodes: Iterable[Node]) -> list[Node]:
    """Return every node once, upstream first."""
    order = {asset: place for place, asset in enumerate(GRAPH)}
    return sorted(dict.fromkeys(nodes), key=lambda node: order[node.asset])
