"""What was asked for of every decision, and the state of all that: behind `optikit status`."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import dagster as dg

from optikit_assets import graph
from optikit_assets.errors import AcceleratorError, ModelError, SpecError
from optikit_assets.execution import Pools
from optikit_assets.freshness import Versions
from optikit_assets.graph import (
    GRAPH,
    PIPELINE,
    STAGES,
    Key,
    Node,
    in_plan_order,
    measurements_of,
    pool_name,
    split_model,
)
from optikit_assets.headless.plan import NodePlan, make_plan
from optikit_assets.headless.present import unless_published, versions_now
from optikit_assets.headless.requests import Request, requests
from optikit_assets.specs import BASELINE, LOCAL, Catalog


def status(
    catalog: Catalog,
    model_keys: Sequence[str],
    instance: dg.DagsterInstance,
    pools: Pools,
) -> list[NodePlan]:
    """Judge every partition of the given models under every SLO that was ever asked for."""
    versions = versions_now(catalog, instance, pools)
    # What is recorded under the name of a broken file is shown, and asked for by nobody.
    named = catalog.names("quantization")
    nodes: list[Node] = []
    asked: list[Node] = []
    again: set[Node] = set()
    for key in model_keys:
        base = Node(graph.BASE_MODEL, Key(key))
        nodes.append(base)
        asked.append(base)
        without_slo = graph.nodes_of(
            (graph.QUANTIZED_MODEL, graph.EVAL_SCORES), models=[key], recipes=named
        )
        versions.read(without_slo)
        nodes += [node for node in without_slo if versions.recorded(node)]
        made = requests(instance, key)
        for slo in catalog.names("slos"):
            decision = Node(graph.DEPLOYABLE_CONFIG, Key(key, slo=slo))
            seen = list(measured(versions, decision))
            if not seen and not versions.recorded(decision):
                continue
            nodes += PIPELINE.nodes(key, (slo,), named, seen or [None])
            wanted = asked_for(versions, decision, made)
            if versions.recorded(decision):
                again |= {node for one in made for node in corrected(versions, decision, one)}
            asked += wanted
            nodes += wanted
    versions = versions.about_to_run(asked)
    plan = make_plan(versions, asked, tolerant=True)
    judged = {item.node: unless_published(versions, item) for item in plan}
    judged |= {item.node: _asked_for_again(versions, item) for item in plan if item.node in again}
    beyond = [node for node in nodes if node not in judged]
    for item in make_plan(versions, beyond, tolerant=True):
        never = item.timestamp is None
        judged[item.node] = replace(item, state="not asked for", reason="") if never else item
    return [judged[node] for node in dict.fromkeys(nodes)]


def _asked_for_again(versions: Versions, item: NodePlan) -> NodePlan:
    """Have what was never made for a broken recipe's sake count as stale by its correction."""
    if item.timestamp is not None or item.unknown:
        return item
    try:
        key = versions.expected(item.node)
    except (AcceleratorError, ModelError, SpecError):
        return item
    reason = f"{item.node.key.recipe} was broken when it was asked for"
    return replace(item, key=key, reason=reason)


def measured(versions: Versions, decision: Node) -> dict[str | None, list[str]]:
    """Return the pools where something was measured under a decision's SLO, and the recipes."""
    every = sorted(versions.catalog.recipes)
    nodes = {
        pool: {name: measurements_of(decision.on(pool).key, name) for name in every}
        for pool in versions.pools
    }
    versions.read(node for named in nodes.values() for some in named.values() for node in some)
    found = {
        pool: [name for name in every if any(map(versions.recorded, named[name]))]
        for pool, named in nodes.items()
    }
    return {pool: recipes for pool, recipes in found.items() if recipes}


def asked_for(versions: Versions, decision: Node, made: Iterable[Request]) -> list[Node]:
    """Return what was asked for of a decision, itself among it, upstream first.

    Once there is a deployable config, that are the recipes that have results under its SLO, and
    those studies of theirs that were made: it was decided among those, and the others are no reason
    to decide again, but for those that were left out because their files were broken. Until then it
    is what the requests named; where none is known, it is what the model's spec names.

    Parameters
    ----------
    made
        The requests for the model.
    """
    model, slo = decision.key.model, decision.key.slo
    seen = measured(versions, decision)
    for_it = [request for request in made if slo in request.slos]
    again = [node for request in for_it for node in corrected(versions, decision, request)]
    if versions.recorded(decision):
        optional = GRAPH[graph.DEPLOYABLE_CONFIG].optional
        decided = [
            node
            for pool in list(seen) or [None]
            for node in PIPELINE.nodes(model, (slo,), seen.get(pool, ()), [pool])
            if node.asset not in optional or versions.recorded(node)
        ]
        return in_plan_order([*decided, *again]) if again else decided
    found = [
        node
        for request in for_it or [default_request(versions.catalog, decision, list(seen))]
        for node in _under(versions, decision, request)
    ]
    return in_plan_order([*found, *again]) if again else found


def corrected(versions: Versions, decision: Node, request: Request) -> list[Node]:
    """Return what a request asks for of recipes that were broken when it was made and are not now.

    Nothing of a request that is under other SLOs.
    """
    if decision.key.slo not in request.slos:
        return []
    again = request.of_corrected(versions.catalog.recipes)
    return _under(versions, decision, again) if again.recipes else []


def _under(versions: Versions, decision: Node, request: Request) -> list[Node]:
    """Return what a request asks for of the recipes and pools that there are, under one SLO."""
    return [
        node
        for node in request.nodes(decision.key.model)
        if node.key.slo in ("", decision.key.slo)
        and node.key.recipe in ("", *versions.catalog.recipes)
        and node.key.pool in versions.pools
    ]


def default_request(catalog: Catalog, decision: Node, seen: Sequence[str | None] = ()) -> Request:
    """Return what a decision is made of that nobody named anything for.

    Those are the recipes that the model's spec names, or all, on the pools of the SLO.
    """
    slo = catalog.slos.get(decision.key.slo)
    spec = catalog.models.get(split_model(decision.key.model)[0])
    recipes = {BASELINE, *((spec and spec.recipes) or catalog.recipes)}
    pools = tuple(map(pool_name, seen)) or (slo.pools if slo else (LOCAL,))
    broken = () if spec and spec.recipes else sorted(catalog.broken["quantization"])
    return Request(
        STAGES, (decision.key.slo,), tuple(sorted(recipes)), (pools,), left_out=tuple(broken)
    )


def closure(versions: Versions, nodes: Iterable[Node]) -> list[Node]:
    """Return nodes with all that is made upstream of them, upstream first."""
    found: dict[Node, None] = {}
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found[node] = None
            waiting += [up for up in versions.upstream(node) if not up.observed]
    return in_plan_order(found)
