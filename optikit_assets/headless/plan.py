"""Which partitions are fresh, which have to run, and why: the plan behind `optikit optimize`.

Freshness is transitive here: a node counts as stale as soon as anything above it is, not only once
its parent has run again (which is how Dagster's own staleness works).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from optikit_assets.errors import AcceleratorError, ModelError, SpecError
from optikit_assets.freshness import Versions
from optikit_assets.graph import DEPLOYABLE_CONFIG, FAILED, GRAPH, Node, split_model

# The last one is for a status alone: what a plan is made for was asked for.
State = Literal["fresh", "stale", "missing", "failed", "not asked for"]


@dataclass(frozen=True)
class NodePlan:
    """One partition: its state, why it is in it, and what it waits for within the plan.

    ``unknown`` says why nobody can judge it now; its state is stale then. ``key`` is the content
    key that it has once everything above it is up to date; what was never made has none, so that
    no model is fetched to tell that. ``settled`` says that its last outcome is one of what is there
    now, be it a failure. ``pool`` is where it is made, as the
    part of a key; a decision is certified where it chooses.
    """

    node: Node
    state: State
    reason: str
    waits_for: tuple[Node, ...]
    outcome: str
    timestamp: float | None
    unknown: str = ""
    key: str = ""
    settled: bool = False
    pool: str | None = None


def make_plan(
    versions: Versions, nodes: Iterable[Node], *, tolerant: bool = False
) -> list[NodePlan]:
    """Judge every node, upstream first.

    Parameters
    ----------
    versions
        Made just now for these nodes: it answers for one moment.
    nodes
        The scope, in topological order; what they need beyond it has to exist.
    tolerant
        Call stale, with the reason, what nobody can judge while its pool is away, or a file or the
        model that it follows from is broken.

    Raises
    ------
    AcceleratorError
        If a pool that a node is on is away, unless `tolerant`.
    SpecError, ModelError
        If a file or the model that a node follows from is broken, unless `tolerant`.
    """
    ordered = list(dict.fromkeys(nodes))
    scope = frozenset(ordered)
    versions.read(ordered)
    if not tolerant:
        return [_judge(versions, node, scope) for node in ordered]
    return [_judge_or_say_why_not(versions, node, scope) for node in ordered]


def _judge_or_say_why_not(versions: Versions, node: Node, scope: frozenset[Node]) -> NodePlan:
    known = versions.recorded(node)
    try:
        check_specs(versions, node)
        return _judge(versions, node, scope)
    except (AcceleratorError, ModelError, SpecError) as error:
        status, when = (known.status, known.timestamp) if known else ("", None)
        reason = f"cannot be judged: {error}"
        return NodePlan(node, "stale", reason, (), status, when, unknown=str(error))


def check_specs(versions: Versions, node: Node) -> None:
    """Look at the specs that a partition is of, a decision's recorded recipes and pools too.

    What was decided among is not decided again without one of them because its file has a typo.

    Raises
    ------
    SpecError
        If the file of one of them is broken.
    """
    catalog = versions.catalog
    known = versions.recorded(node)
    decided = node.asset == DEPLOYABLE_CONFIG
    labels = known.inputs if decided and known else ()
    inputs = [Node.named(label) for label in labels if label.partition("[")[0] in GRAPH]
    for one in (node, *inputs):
        if one.key.model:
            catalog.model(split_model(one.key.model)[0])
        for name, names, look_up in (
            (one.key.recipe, "quantization", catalog.recipe),
            (one.key.slo, "slos", catalog.slo),
            (one.key.pool, "hardware", catalog.pool),
        ):
            # One that is gone is told in another way.
            if name in catalog.broken[names]:
                look_up(name)


def _judge(versions: Versions, node: Node, scope: frozenset[Node]) -> NodePlan:
    ups = versions.upstream(node)
    waits_for = tuple(up for up in ups if up in scope)
    pool = versions.pool_of(node)
    known = versions.recorded(node)
    if known is None:
        return NodePlan(node, "missing", "never materialized", waits_for, "", None, pool=pool)
    state: State = "fresh"
    reason = ""
    if known.status == FAILED:
        state, reason = "failed", "its last attempt failed"
    elif known.version != versions.expected(node):
        state = "stale"
        reason = _cause(versions, ups, known.inputs)
    elif not node.is_root and not versions.has_artifact(known.version):
        state, reason = "missing", "its artifact is not in the store"
    return NodePlan(
        node,
        state,
        reason,
        waits_for,
        known.status,
        known.timestamp,
        key=versions.expected(node),
        settled=state == "fresh" or not versions.why_left_out(node),
        pool=pool,
    )


def _cause(versions: Versions, ups: tuple[Node, ...], inputs: dict[str, str]) -> str:
    changed = [up for up in ups if inputs.get(str(up)) != versions.expected(up)]
    if not ups:
        return "its content changed"
    gone = sorted(set(inputs) - {str(up) for up in ups})
    if not changed and gone:
        return ", ".join(gone[:3]) + " takes no part any more"
    if not changed:
        return "its code version changed"
    # A spec or a model that changed explains more than the stages below it, which changed with it.
    roots = [up for up in changed if up.is_root]
    return ", ".join(str(up) for up in (roots or changed)[:3]) + " changed"
