"""What was recorded of nodes, against what their present inputs give."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple

from optikit_assets.artifacts import Artifact, ArtifactStore
from optikit_assets.errors import AcceleratorError, ModelError, SpecError
from optikit_assets.freshness.source_versions import SourceVersions
from optikit_assets.graph import (
    BENCHMARK_SWEEP,
    DEPLOYABLE_CONFIG,
    EVAL_SCORES,
    FAILED,
    GRAPH,
    MISSING,
    POOL_SPEC,
    QUANTIZED_MODEL,
    Node,
    content_key,
    former_key,
    is_failed,
    key_of,
    measurements_of,
    outcome_version,
    pool_name,
    pool_part,
    results_of,
    upstream,
)
from optikit_assets.specs import LOCAL, Catalog

_OF_NO_POOL = (QUANTIZED_MODEL, EVAL_SCORES)


class Recorded(NamedTuple):
    """What the instance knows of a node's latest materialization or observation."""

    version: str
    status: str
    timestamp: float
    run_id: str | None
    inputs: dict[str, str]
    pool: str | None = None


def artifact_of(store: ArtifactStore, known: Recorded | None) -> Artifact | None:
    """Return what a recorded version stands for; None for a failure, and where it is gone."""
    return None if known is None or is_failed(known.version) else store.find(known.version)


@dataclass
class Versions:
    """Versions of nodes: as the present inputs give them, and as the instance recorded them.

    One object answers for one moment; make a new one after files or materializations changed.

    Parameters
    ----------
    recorded_of
        Returns what the instance knows of each node.
    has_artifact
        Whether the store holds the artifact of a content key. A version that was recorded is worth
        nothing if somebody deleted what it stands for.
    asked
        Nodes that are about to be brought up to date: a deployable config among them will choose
        from their recipes as well.
    named
        SLO -> names of the pools that a job names for it, and "" -> for what is under no SLO; empty
        if there is no job.
    """

    recorded_of: Callable[[Iterable[Node]], Mapping[Node, Recorded | None]]
    sources: SourceVersions
    has_artifact: Callable[[str], bool]
    asked: frozenset[Node] = frozenset()
    named: Mapping[str, Sequence[str]] = field(default_factory=dict)
    _expected: dict[Node, str] = field(default_factory=dict)
    _recorded: dict[Node, Recorded | None] = field(default_factory=dict)
    _outdated: dict[Node, str] = field(default_factory=dict)
    _pools: dict[Node, str | None] = field(default_factory=dict)
    _former: dict[str, bool] = field(default_factory=dict)

    @property
    def catalog(self) -> Catalog:
        """The specs that all of it follows from."""
        return self.sources.catalog

    def about_to_run(self, nodes: Iterable[Node]) -> "Versions":
        """Return the versions of the same moment for another set of `asked` nodes."""
        return Versions(
            self.recorded_of,
            self.sources,
            self.has_artifact,
            frozenset(nodes),
            self.named,
            _recorded=self._recorded,
        )

    def of_source(self, node: Node) -> str:
        """Return the version of a spec, of a runtime or of a model from what is on disk now."""
        return self.sources.version(node)

    def recorded(self, node: Node) -> Recorded | None:
        """Return what the instance recorded, read once per object."""
        if node not in self._recorded:
            self._recorded.update(self.recorded_of([node]))
        return self._recorded[node]

    def read(self, nodes: Iterable[Node]) -> None:
        """Read what the instance recorded of these nodes, which are asked for soon, at once."""
        unread = [node for node in nodes if node not in self._recorded and not node.observed]
        self._recorded.update(self.recorded_of(unread))

    def upstream(self, node: Node) -> tuple[Node, ...]:
        """Return the nodes that `node` depends on, a decision's recipes as they are now.

        What a decision can be made without is among them if it was asked for, now or before: an
        arm that nobody ever measured, that is outdated or whose artifact is gone is no reason
        against the others.
        """
        if node.asset != DEPLOYABLE_CONFIG:
            pool = self.pool_of(node)
            return upstream(node.on(pool), pools=[pool])
        found = list(upstream(node, (), ()))
        for pool, recipes in self.participants(node).items():
            found += upstream(node, recipes, [pool])
        return tuple(up for up in dict.fromkeys(found) if self._is_there(up))

    def _is_there(self, up: Node) -> bool:
        if up.asset == POOL_SPEC:
            return pool_name(up.key.pool) in self.catalog.names("hardware")
        return not _is_optional(up) or self._counts(up)

    def pool_of(self, node: Node) -> str | None:
        """Return on which pool a stage is made, as the part of a key.

        Checkpoints and scores are of no pool: there is one q* of a recipe, which all pools serve.
        Compression asks for a kind of hardware alone, and any pool will do. Scores depend on what
        computes them, so they are made on one pool: where they are current, they stay. Else they
        are made on the first pool that a job names: a job has work done on its own pools, and a
        pool that is added later, or a job that names another one first, makes no scores outdated,
        nor what was measured with the q* that they chose.
        """
        if node.asset not in _OF_NO_POOL or node.key.pool is not None:
            return node.key.pool
        if node not in self._pools:
            self._pools[node] = self._choose_pool(node)
        return self._pools[node]

    def _choose_pool(self, node: Node) -> str | None:
        if len(self.pools) == 1:
            return None
        home = pool_part(self.named[""][0]) if self.named else None
        known = self.recorded(node)
        if known is None or known.pool == home:
            return home
        if known.pool is not None and known.pool not in self.catalog.names("hardware"):
            return home
        if not self.named:
            return known.pool
        there = node.on(known.pool)
        try:
            inputs = {up: self.expected(up) for up in upstream(there, pools=[known.pool])}
        except AcceleratorError as error:
            # Made anew elsewhere it would make all outdated that was measured with its q*.
            name = pool_name(known.pool)
            raise AcceleratorError(
                f"{error}; {node} was made on pool {name}: wait until it is there, or delete "
                f"recipes/hardware/{name}.yaml to have it made anew"
            ) from error
        return known.pool if content_key(node.asset, inputs) == known.version else home

    def participants(self, node: Node) -> dict[str | None, list[str]]:
        """Return the recipes that a deployable config chooses from, by the pool they run on.

        Those are the ones asked for now, and those whose results are current and there; what nobody
        asked for, what is outdated and what was deleted takes no part.
        """
        names = self.catalog.names("quantization")
        found = {
            pool: [name for name in names if self._takes_part(node.on(pool), name)]
            for pool in self._pools_of_choice(node)
        }
        return {pool: recipes for pool, recipes in found.items() if recipes}

    def _pools_of_choice(self, decision: Node) -> list[str | None]:
        """Return the pools that a job names; without a job those of the last decision, or all."""
        if self.named:
            names = self.named.get(decision.key.slo) or self.named[""]
            return [pool_part(name) for name in names]
        if len(self.pools) == 1:
            return self.pools
        known = self.recorded(decision)
        chosen_from = {
            Node.named(label).key.pool
            for label in (known.inputs if known else ())
            if label.startswith(f"{BENCHMARK_SWEEP}[")
        }
        return [pool for pool in self.pools if pool in chosen_from] or self.pools

    @property
    def pools(self) -> list[str | None]:
        """The machine itself, then every named pool."""
        return [None, *(name for name in self.catalog.names("hardware") if name != LOCAL)]

    def _takes_part(self, decision: Node, recipe: str) -> bool:
        nodes = results_of(decision.key, recipe)
        return all(self._counts(node) for node in nodes if not _is_optional(node))

    def _counts(self, result: Node) -> bool:
        return result in self.asked or not self.why_left_out(result)

    def why_left_out(self, result: Node) -> str:
        """Say why a result that nobody asks for now is nothing to decide on, or return ""."""
        return self.outdated(result) or self._gone(result)

    def _gone(self, result: Node) -> str:
        known = self.recorded(result)
        if known is None or is_failed(known.version) or self.has_artifact(known.version):
            return ""
        return f"the artifact of {result} is gone"

    def left_out(self, node: Node) -> dict[str, str]:
        """Return recipe -> why its results take no part in a deployable config, or one of them.

        Recipes without any result under the SLO were not asked for and are not named, and neither
        is a study that was never made.
        """
        reasons: dict[str, str] = {}
        taking_part = self.participants(node)
        pools = self._pools_of_choice(node)
        for pool, name in product(pools, self.catalog.names("quantization")):
            key = node.on(pool).key
            if not any(self.recorded(result) for result in measurements_of(key, name)):
                continue
            for result in results_of(key, name):
                never = _is_optional(result) and self.recorded(result) is None
                if never or self._counts(result):
                    continue
                part = f"without {result.asset}, " if name in taking_part.get(pool, ()) else ""
                shown = name if pool is None else f"{name} on {pool}"
                reasons[shown] = f"{part}{self.why_left_out(result)}"
                break
        return reasons

    def outdated(self, node: Node) -> str:
        """Say why what is recorded of a stage is not what the present sources give, or return "".

        Transitive: built on something outdated is outdated. A failure is current if nothing that it
        followed from has changed; unlike `expected` this does not hope for a success.
        """
        if node not in self._outdated:
            self._outdated[node] = self._why_outdated(node)
        return self._outdated[node]

    def _why_outdated(self, node: Node) -> str:
        known = self.recorded(node)
        if known is None:
            return f"{node} was never materialized"
        try:
            return self._why_not_present(node, known)
        except (ModelError, SpecError) as error:
            # One broken file or folder is no reason against what does not follow from it.
            return f"{node}: {error}"
        except AcceleratorError as error:
            if node.key.pool is None:
                raise
            # What is measured elsewhere does not wait for a pool that nobody asked for.
            return f"{node}: {error}"

    def _why_not_present(self, node: Node, known: Recorded) -> str:
        if node.is_root:
            return "" if known.version == self.of_source(node) else f"{node}: its content changed"
        for up in self.upstream(node):
            if not up.observed and (why := self.outdated(up)):
                return why
        key, inputs = self.actual(node)
        if known.version in (key, outcome_version(key, FAILED)):
            return ""
        newer = [str(up) for up, now in inputs.items() if known.inputs.get(str(up)) != now]
        return f"{node} is older than {', '.join(newer) or 'its code version'}"

    def expected(self, node: Node) -> str:
        """Return the key that `node` will have once everything above it is up to date.

        Unlike Dagster's staleness this is transitive.
        """
        if node.is_root:
            return self.of_source(node)
        if node not in self._expected:
            inputs = {up: self._hoped_for(node, up) for up in self.upstream(node)}
            self._expected[node] = self.key(node, inputs)
        return self._expected[node]

    def _hoped_for(self, node: Node, up: Node) -> str:
        # Nobody is about to try again what failed among the recipes that were not asked for.
        hopeless = node.asset == DEPLOYABLE_CONFIG and up not in self.asked and not up.observed
        known = self.recorded(up) if hopeless else None
        return self.expected(up) if known is None else known.version

    def actual(self, node: Node) -> tuple[str, dict[Node, str]]:
        """Return the key of `node` from sources as they are and stages as recorded, with inputs."""
        above = self.upstream(node)
        self.read(above)
        inputs = {
            up: self.of_source(up)
            if up.observed
            else (known.version if (known := self.recorded(up)) else MISSING)
            for up in above
        }
        return self.key(node, inputs), inputs

    def key(self, node: Node, inputs: Mapping[Node, str]) -> str:
        """Return the content key with these versions upstream; the former one of what has that."""
        key = content_key(node.asset, inputs)
        former = former_key(node.asset, inputs, self.sources.whole_scenario)
        if former is None:
            return key
        if former not in self._former:
            self._former[former] = self._keeps(former, node, inputs)
        return former if self._former[former] else key

    def _keeps(self, former: str, node: Node, inputs: Mapping[Node, str]) -> bool:
        """Return whether a node goes by its former key: a sweep if it was made under that.

        What follows from such sweeps alone does so too, made or not: what was measured for a study
        or a decision that is not finished is found by its key. With them the former key holds all
        that the other one does.
        """
        if node.asset != BENCHMARK_SWEEP:
            sweeps = [up for up in inputs if up.asset == BENCHMARK_SWEEP]
            for up in sweeps:
                self.actual(up)
            return bool(sweeps) and all(self._former.get(key_of(inputs[up])) for up in sweeps)
        known = self.recorded(node)
        recorded = known is not None and key_of(known.version) == former
        return recorded or self.has_artifact(former)


def _is_optional(node: Node) -> bool:
    return node.asset in GRAPH[DEPLOYABLE_CONFIG].optional
