"""What was asked for of a model: an event of ``base_model`` in the instance for every request."""

from collections.abc import Collection
from itertools import zip_longest
from typing import Any, NamedTuple, cast

import dagster as dg

from optikit_assets.graph import (
    BASE_MODEL,
    PIPELINE,
    STAGES,
    Flow,
    Node,
    in_plan_order,
    pool_part,
)
from optikit_assets.specs import LOCAL

_REQUEST = "optikit/request"
# A request that is made again is no event of its own: so many different ones nobody makes.
_LIMIT = 1000


class Request(NamedTuple):
    """The flow by its stages, which hold whatever becomes of a package that named it."""

    stages: tuple[str, ...]
    slos: tuple[str, ...]
    recipes: tuple[str, ...]
    pools: tuple[tuple[str, ...], ...] = ()
    """Names of the pools of each SLO, or of a flow that looks at none; none: this machine."""
    left_out: tuple[str, ...] = ()
    """Recipes that it would have named too, with broken files: asked for once corrected."""

    def pools_of(self, slo: str) -> tuple[str, ...]:
        """Return the names of the pools that it names for one of its SLOs."""
        named = dict(zip(self.slos, self.pools, strict=False))
        return named.get(slo, (LOCAL,))

    def of_corrected(self, names: Collection[str]) -> "Request":
        """Return what it asks for of those recipes that were left out and are among `names`."""
        return self._replace(recipes=tuple(name for name in self.left_out if name in names))

    def nodes(self, model_key: str) -> list[Node]:
        """Return what it asks for, upstream first; stages that there are no more are left out."""
        known = frozenset(self.stages) & frozenset(STAGES)
        if not known:
            return []
        flow = Flow(PIPELINE.name, known)
        found: list[Node] = []
        for slos, names in zip_longest(
            [(slo,) for slo in self.slos] or [()], self.pools, fillvalue=(LOCAL,)
        ):
            parts = [pool_part(name) for name in names]
            found += flow.nodes(model_key, slos, self.recipes, parts)
        return in_plan_order(found)


def remember_request(
    instance: dg.DagsterInstance, model_key: str, flow: Flow, request: Request
) -> None:
    """Keep what is about to be brought up to date; `flow` is what it was called."""
    if request in requests(instance, model_key):
        return
    instance.report_runless_asset_event(
        dg.AssetObservation(
            BASE_MODEL,
            description=f"asked for: {flow.name}",
            partition=model_key,
            metadata={_REQUEST: dg.MetadataValue.json(request._asdict())},
        )
    )


def requests(instance: dg.DagsterInstance, model_key: str) -> list[Request]:
    """Return every different request for a model since requests are kept."""
    records_filter = dg.AssetRecordsFilter(
        asset_key=dg.AssetKey(BASE_MODEL), asset_partitions=[model_key]
    )
    found: list[Request] = []
    for record in instance.fetch_observations(records_filter, limit=_LIMIT).records:
        event = record.asset_observation
        value = event and event.metadata.get(_REQUEST)
        if isinstance(value, dg.JsonMetadataValue):
            fields = dict(cast("dict[str, Any]", value.data))
            pools = tuple(tuple(names) for names in fields.pop("pools", []))
            given = {name: tuple(names) for name, names in fields.items()}
            found.append(Request(**given, pools=pools))
    return found
