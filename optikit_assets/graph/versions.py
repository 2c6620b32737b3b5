"""Content keys: the sha256 over asset, code version and the version of every upstream partition.

The content key of a node is its Dagster data version and the key of its artifact, so "fresh" means
one thing everywhere: the recorded version equals the key that the present inputs give.
"""

from collections.abc import Callable, Mapping

from optikit_assets.graph.nodes import Node
from optikit_assets.graph.stages import (
    CERTIFICATION_SPEC,
    GRAPH,
    SCENARIO_SPEC,
    SEARCH_SPACE_SPEC,
)
from optikit_assets.specs import digest

MISSING = "missing"
SAID_ELSEWHERE = "said elsewhere"
"""Version of an input that adds nothing to another one; keys are as if it were not there."""
FAILED = "failed"
_FAILED_SUFFIX = f"-{FAILED}"


def content_key(asset: str, inputs: Mapping[Node, str]) -> str:
    """Return the content key of a stage with these versions upstream."""
    upstream = sorted(
        (str(node), value) for node, value in inputs.items() if value != SAID_ELSEWHERE
    )
    return digest([asset, GRAPH[asset].code_version, upstream])


def former_key(
    asset: str, inputs: Mapping[Node, str], whole_scenario: Callable[[Node], str]
) -> str | None:
    """Return the key that a stage had while the version of a scenario was all of it.

    Search space and certification were in the key of its sweep then, and in what followed from
    that. None: the key of the stage is the one that it had.

    Parameters
    ----------
    whole_scenario
        Returns that version, of a partition of ``scenario_spec``.
    """
    parts = (SEARCH_SPACE_SPEC, CERTIFICATION_SPEC)
    if not any(node.asset in (SCENARIO_SPEC, *parts) for node in inputs):
        return None
    before = {
        node: whole_scenario(node) if node.asset == SCENARIO_SPEC else version
        for node, version in inputs.items()
        if node.asset not in parts
    }
    return content_key(asset, before)


def outcome_version(key: str, status: str) -> str:
    """Return the data version of an outcome: the content key, or one of its own for a failure."""
    return f"{key}{_FAILED_SUFFIX}" if status == FAILED else key


def key_of(version: str) -> str:
    """Return the content key that `outcome_version` made this version of."""
    return version.removesuffix(_FAILED_SUFFIX)


def is_failed(version: str) -> bool:
    """Return whether `outcome_version` marked this version as a failure's, without artifact."""
    return version.endswith(_FAILED_SUFFIX)
