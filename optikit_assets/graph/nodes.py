"""Partitions of the graph, and what follows for them from its declaration."""

from collections.abc import Collection, Iterable
from dataclasses import replace
from itertools import product
from typing import NamedTuple

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

    def needed(self, asset: str, recipe: str = "") -> "Node":
        """Return the partition of another asset that goes with this one.

        Parameters
        ----------
        recipe
            In place of the node's own, and for one that has none.
        """
        whole = replace(self.key, recipe=recipe or self.key.recipe)
        return Node(asset, whole.within(GRAPH[asset].dimensions))

    def __str__(self) -> str:
        return self.asset if self.partition is None else f"{self.asset}[{self.partition}]"


def upstream(node: Node, recipes: Collection[str] = ()) -> tuple[Node, ...]:
    """Return the nodes that `node` depends on directly.

    Parameters
    ----------
    recipes
        What a deployable config chooses from; of no meaning for other nodes.
    """
    own = parts_of(GRAPH[node.asset].dimensions)
    needs = GRAPH[node.asset].needs
    per_recipe = [n for n in needs if "recipe" in parts_of(GRAPH[n].dimensions) - own]
    direct = (node.needed(need) for need in needs if need not in per_recipe)
    chosen = (node.needed(need, name) for name in sorted(recipes) for need in per_recipe)
    return (*direct, *chosen)


def results_of(key: Key, recipe: str) -> tuple[Node, ...]:
    """Return what a decision for a model and an SLO knows of one recipe: its evaluation first."""
    decision = Node(DEPLOYABLE_CONFIG, key)
    return upstream(decision, [recipe])[len(upstream(decision)) :]


def measurements_of(key: Key, recipe: str) -> tuple[Node, ...]:
    """Return those results of a recipe that were made for the SLO itself."""
    return tuple(node for node in results_of(key, recipe) if node.key.slo)


def nodes_of(
    assets: Iterable[str],
    *,
    models: Iterable[str] = (),
    recipes: Iterable[str] = (),
    slos: Iterable[str] = (),
) -> list[Node]:
    """Return every partition of these assets."""
    known = {"model": list(models), "recipe": list(recipes), "slo": list(slos)}
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
