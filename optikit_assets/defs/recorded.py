"""What the Dagster instance recorded of nodes, through its public API only."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

import dagster as dg

from optikit_assets.freshness import Recorded
from optikit_assets.graph import GRAPH, Node

DATA_VERSION_TAG = "dagster/data_version"
_PAGE = 1000
STATUS_TAG = "optikit/status"
INPUTS_METADATA = "inputs"
POOL_TAG = "optikit/pool"
"""Of a materialization: the named pool that its workers were on. Of a run: the names of the pools
that it is about, with commas between them."""


def recorded(instance: dg.DagsterInstance, node: Node) -> Recorded | None:
    """Return the latest recorded version of one partition."""
    return recorded_of(instance, [node])[node]


def recorded_of(instance: dg.DagsterInstance, nodes: Iterable[Node]) -> dict[Node, Recorded | None]:
    """Return what `recorded` does of every node, with one question for all of an asset."""
    by_asset: defaultdict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        by_asset[node.asset].append(node)
    found: dict[Node, Recorded | None] = {}
    for asset, some in by_asset.items():
        partitions = [node.partition for node in some]
        known = _latest(instance, asset, partitions, observed=GRAPH[asset].observed)
        found |= {node: known.get(node.partition) for node in some}
    return found


def all_recorded(instance: dg.DagsterInstance, asset: str) -> Iterator[tuple[str | None, Recorded]]:
    """Yield every materialization of an asset with its partition key, newest first."""
    for record in every_record(instance, dg.AssetKey(asset), observed=False):
        known = _as_recorded(record, observed=False)
        if known is not None:
            yield record.partition_key, known


def every_record(
    instance: dg.DagsterInstance, asset: dg.AssetKey, *, observed: bool
) -> Iterator[dg.EventLogRecord]:
    """Yield every materialization, or observation, of an asset, newest first."""
    fetch = instance.fetch_observations if observed else instance.fetch_materializations
    cursor = None
    while True:
        found = fetch(asset, limit=_PAGE, cursor=cursor)
        yield from found.records
        if not found.has_more:
            return
        cursor = found.cursor


def observed(
    instance: dg.DagsterInstance, asset: str, partitions: Iterable[str | None]
) -> dict[str | None, str]:
    """Return the versions last observed of a source, by its partition keys in Dagster."""
    known = _latest(instance, asset, partitions, observed=True)
    return {partition: found.version for partition, found in known.items()}


def _latest(
    instance: dg.DagsterInstance,
    asset: str,
    partitions: Iterable[str | None],
    *,
    observed: bool,
) -> dict[str | None, Recorded]:
    """Return what is recorded last of each of these partitions of one asset, if anything is."""
    fetch = instance.fetch_observations if observed else instance.fetch_materializations
    unseen = set(partitions)
    found: dict[str | None, Recorded] = {}
    while unseen:
        keys = sorted(key for key in unseen if key is not None)
        records_filter = dg.AssetRecordsFilter(
            asset_key=dg.AssetKey(asset), asset_partitions=keys or None
        )
        # Newest first: as a rule the first answer has all of them.
        records = fetch(records_filter, limit=len(unseen)).records
        for record in records:
            if record.partition_key in unseen:
                unseen.remove(record.partition_key)
                known = _as_recorded(record, observed=observed)
                found |= {} if known is None else {record.partition_key: known}
        if not records or not keys:
            break
    return found


def _as_recorded(record: dg.EventLogRecord, *, observed: bool) -> Recorded | None:
    event = record.asset_observation if observed else record.asset_materialization
    if event is None or event.tags is None or DATA_VERSION_TAG not in event.tags:
        return None
    return Recorded(
        event.tags[DATA_VERSION_TAG],
        event.tags.get(STATUS_TAG, "ok"),
        record.timestamp,
        record.run_id,
        _inputs(event.metadata),
        event.tags.get(POOL_TAG),
    )


def _inputs(metadata: Mapping[str, dg.MetadataValue]) -> dict[str, str]:
    value = metadata.get(INPUTS_METADATA)
    return dict(value.data) if isinstance(value, dg.JsonMetadataValue) and value.data else {}  # type: ignore[arg-type]
