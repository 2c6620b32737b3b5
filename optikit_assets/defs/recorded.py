"""What the instance recorded of nodes, against what their present inputs give."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import dagster as dg

from optikit_assets.artifacts import Artifact, ArtifactStore
from optikit_assets.defs.source_versions import SourceVersions
from optikit_assets.graph import (
    DEPLOYABLE_CONFIG,
    FAILED,
    GRAPH,
    MISSING,
    Node,
    content_key,
    is_failed,
    measurements_of,
    outcome_version,
    results_of,
    upstream,
)
from optikit_assets.specs import Catalog

DATA_VERSION_TAG = "dagster/data_version"
STATUS_TAG = "optikit/status"
INPUTS_METADATA = "inputs"


class Recorded(NamedTuple):
    """What the instance knows of a node's latest materialization or observation."""

    version: str
    status: str
    timestamp: float
    run_id: str | None
    inputs: dict[str, str]


def recorded(instance: dg.DagsterInstance, node: Node) -> Recorded | None:
    """Return the latest recorded version of one partition, through public API only."""
    records_filter = dg.AssetRecordsFilter(
        asset_key=dg.AssetKey(node.asset),
        asset_partitions=None if node.partition is None else [node.partition],
    )
    fetch = instance.fetch_observations if node.observed else instance.fetch_materializations
    records = fetch(records_filter, limit=1).records
    if not records:
        return None
    event = records[0].asset_observation if node.observed else records[0].asset_materialization
    if event is None or event.tags is None or DATA_VERSION_TAG not in event.tags:
        return None
    return Recorded(
        event.tags[DATA_VERSION_TAG],
        event.tags.get(STATUS_TAG, "ok"),
        records[0].timestamp,
        records[0].run_id,
        _inputs(event.metadata),
    )


def artifact_of(store: ArtifactStore, known: Recorded | None) -> Artifact | None:
    """Return what a recorded version stands for; None for a failure, and where it is gone."""
    return None if known is None or is_failed(known.version) else store.find(known.version)


def _is_optional(node: Node) -> bool:
    return node.asset in GRAPH[DEPLOYABLE_CONFIG].optional


def _inputs(metadata: Mapping[str, dg.MetadataValue]) -> dict[str, str]:
    value = metadata.get(INPUTS_METADATA)
    return dict(value.data) if isinstance(value, dg.JsonMetadataValue) and value.data else {}  # type: ignore[arg-type]


@dataclass
class Versions:
    """Versions of nodes: as the present inputs give them, and as the instance recorded them.

    One object answers for one moment; make a new one after files or materializations changed.

    Parameters
    ----------
    has_artifact
        Whether the store holds the artifact of a content key. A version that was recorded is worth
        nothing if somebody deleted what it stands for.
    asked
        Nodes that are about to be brought up to date: a deployable config among them will choose
        from their recipes as well.
    """

    instance: dg.DagsterInstance
    sources: SourceVersions
    has_artifact: Callable[[str], bool]
    asked: frozenset[Node] = frozenset()
    _expected: dict[Node, str] = field(default_factory=dict)
    _recorded: dict[Node, Recorded | None] = field(default_factory=dict)
    _outdated: dict[Node, str] = field(default_factory=dict)

    @property
    def catalog(self) -> Catalog:
        """The specs that all of it follows from."""
        return self.sources.catalog

    def about_to_run(self, nodes: Iterable[Node]) -> "Versions":
        """Return the versions of the same moment for another set of `asked` nodes."""
        asked = frozenset(nodes)
        return Versions(
            self.instance, self.sources, self.has_artifact, asked, _recorded=self._recorded
        )

    def of_source(self, node: Node) -> str:
        """Return the version of a spec, of a runtime or of a model from what is on disk now."""
        return self.sources.version(node)

    def recorded(self, node: Node) -> Recorded | None:
        """Return what the instance recorded, read once per object."""
        if node not in self._recorded:
            self._recorded[node] = recorded(self.instance, node)
        return self._recorded[node]

    def upstream(self, node: Node) -> tuple[Node, ...]:
        """Return the nodes that `node` depends on, a decision's recipes as they are now.

        What a decision can be made without is among them if it was asked for, now or before: an
        arm that nobody ever measured, that is outdated or whose artifact is gone is no reason
        against the others.
        """
        if node.asset != DEPLOYABLE_CONFIG:
            return upstream(node)
        found = upstream(node, self.participants(node))
        return tuple(up for up in found if not _is_optional(up) or self._counts(up))

    def participants(self, node: Node) -> list[str]:
        """Return the recipes that a deployable config chooses from.

        Those are the ones asked for now, and those whose results are current and there; what nobody
        asked for, what is outdated and what was deleted takes no part.
        """
        return [name for name in sorted(self.catalog.recipes) if self._takes_part(node, name)]

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
        taking_part = set(self.participants(node))
        for name in sorted(self.catalog.recipes):
            if not any(self.recorded(result) for result in measurements_of(node.key, name)):
                continue
            for result in results_of(node.key, name):
                never = _is_optional(result) and self.recorded(result) is None
                if never or self._counts(result):
                    continue
                part = f"without {result.asset}, " if name in taking_part else ""
                reasons[name] = f"{part}{self.why_left_out(result)}"
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
            self._expected[node] = content_key(node.asset, inputs)
        return self._expected[node]

    def _hoped_for(self, node: Node, up: Node) -> str:
        # Nobody is about to try again what failed among the recipes that were not asked for.
        if node.asset == DEPLOYABLE_CONFIG and up not in self.asked and (r := self.recorded(up)):
            return r.version
        return self.expected(up)

    def actual(self, node: Node) -> tuple[str, dict[Node, str]]:
        """Return the key of `node` from sources as they are and stages as recorded, with inputs."""
        inputs = {
            up: self.of_source(up)
            if up.observed
            else (known.version if (known := self.recorded(up)) else MISSING)
            for up in self.upstream(node)
        }
        return content_key(node.asset, inputs), inputs
