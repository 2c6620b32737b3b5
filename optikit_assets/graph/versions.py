"""Content keys: the sha256 over asset, code version and the version of every upstream partition.

The content key of a node is its Dagster data version and the key of its artifact, so "fresh" means
one thing everywhere: the recorded version equals the key that the present inputs give.
"""

from collections.abc import Mapping

from optikit_assets.graph.nodes import Node
from optikit_assets.graph.stages import GRAPH
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


def outcome_version(key: str, status: str) -> str:
    """Return the data version of an outcome: the content key, or one of its own for a failure."""
    return f"{key}{_FAILED_SUFFIX}" if status == FAILED else key


def is_failed(version: str) -> bool:
    """Return whether `outcome_version` marked this version as a failure's, without artifact."""
    return version.endswith(_FAILED_SUFFIX)
