"""What has to stay in the artifact store, and why the rest need not.

Needed is what a fresh partition names, directly or through what it names; what it takes to serve
and to compare any deployment that was ever decided on; the ledger; what an unfinished study
measured; and whatever nobody can judge now. A partition that other control machines recorded is
theirs to judge.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import dagster as dg

from optikit_assets.artifacts import Artifact, ArtifactStore
from optikit_assets.defs.deployment.recertified_config import RECERTIFIED_CONFIG
from optikit_assets.defs.evaluation.candidates import read_comparison
from optikit_assets.errors import OptikitError, StorageError
from optikit_assets.execution import Pools
from optikit_assets.freshness import Versions
from optikit_assets.graph import (
    DEPLOYABLE_CONFIG,
    EVAL_SCORES,
    GRAPH,
    STAGES,
    Node,
    is_failed,
    split_model,
)
from optikit_assets.headless.plan import make_plan
from optikit_assets.headless.present import versions_now
from optikit_assets.history import History
from optikit_assets.promotion import CLAIM
from optikit_assets.schemas import DEPLOYMENT_FILE
from optikit_assets.settings import settings
from optikit_assets.specs import Catalog
from optikit_assets.tuner import results_in

_KEY = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_JUDGED = tuple(asset for asset in STAGES if GRAPH[asset].needs and asset != DEPLOYABLE_CONFIG)
_AT_ONCE = 8
# Small, and the record of what was decided.
_ALWAYS = (DEPLOYABLE_CONFIG, RECERTIFIED_CONFIG, CLAIM)


@dataclass
class Needed:
    """Which artifacts of a store are needed.

    Attributes
    ----------
    there
        All that are in the store by key; None: one that is not whole.
    keys
        What is needed with all that it names.
    alone
        What is needed without that.
    outdated
        Key -> which partition it was made for, and why it is not that partition's any more.
    """

    store: ArtifactStore
    there: dict[str, Artifact | None]
    keys: set[str] = field(default_factory=set)
    alone: set[str] = field(default_factory=set)
    outdated: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, store: ArtifactStore) -> "Needed":
        """Look at what is in a store; nothing of it is needed yet."""
        keys = store.all_keys()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return cls(store, dict(zip(keys, pool.map(store.look, keys), strict=True)))

    def __contains__(self, key: str) -> bool:
        return key in self.keys or key in self.alone

    def keep(self, keys: Iterable[str]) -> None:
        """Need artifacts, and all that they name."""
        waiting = [key for key in keys if key in self.there and key not in self.keys]
        while waiting:
            key = waiting.pop()
            self.keys.add(key)
            waiting += [name for name in self.named_by(key) if name not in self.keys]

    def named_by(self, key: str) -> set[str]:
        """Return the keys of artifacts that one names: any text that is such a key counts."""
        artifact = self.there[key]
        found = set[str]() if artifact is None else set(self._named(artifact))
        return (found & self.there.keys()) - {key}

    def _named(self, artifact: Artifact) -> Iterator[str]:
        yield from artifact.references
        yield from _KEY.findall(json.dumps(artifact.manifest))
        if artifact.kind == DEPLOYABLE_CONFIG:
            yield from self._of_deployment(artifact)
        elif artifact.kind in GRAPH:
            yield from _in_files(artifact, ".json")

    def _of_deployment(self, artifact: Artifact) -> Iterator[str]:
        """Yield what it takes to serve a decision, and to compare it with a later one.

        Not what it was chosen from: checkpoints that lost go once they are outdated.
        """
        for name in artifact.entries:
            if not name.endswith((".json", ".html", ".svg")):
                yield from _KEY.findall(artifact.file(name).read_text("utf-8", "replace"))
        try:
            deployment = DEPLOYMENT_FILE.read(artifact)
            node = f"{EVAL_SCORES}[{deployment.model_key}|{deployment.recipe}]"
            key = deployment.content_keys.get(node, "")
            comparison = read_comparison(self.there.get(key))
        except OptikitError:
            # Of another release: whatever it names.
            yield from _in_files(artifact, ".json")
            return
        if comparison is not None:
            answers = comparison.trial(comparison.q_star).artifact_key
            self.alone.add(key)
            yield from [] if answers is None else [answers]


def _in_files(artifact: Artifact, suffix: str) -> Iterator[str]:
    for name in artifact.entries:
        if name.endswith(suffix):
            yield from _KEY.findall(artifact.file(name).read_text("utf-8", "replace"))


def find_needed(
    store: ArtifactStore,
    instance: dg.DagsterInstance,
    history: History,
    catalog: Catalog,
    pools: Pools,
) -> Needed:
    """Return what is needed of a store at this moment.

    Raises
    ------
    StorageError
        If this machine cannot know what others need.
    """
    needed = Needed.of(store)
    versions = versions_now(catalog, instance, pools)
    models = {version.key for version in versions.sources.registry.versions()}
    judged: list[Node] = []
    for node in _recorded_nodes(instance):
        key = _key(versions, node)
        if why := _what_is_gone(versions.catalog, node, models):
            needed.outdated[key] = f"{node}: {why}"
        elif node.key.model in models:
            judged.append(node)
        else:
            needed.keep([key])
    for item in make_plan(versions, judged, tolerant=True):
        key = _key(versions, item.node)
        if item.state == "fresh" or item.unknown:
            needed.keep([key])
        else:
            needed.outdated[key] = f"{item.node}: {item.reason}"
    needed.keep(key for key, found in needed.there.items() if found and found.kind in _ALWAYS)
    needed.keep(_unfinished(needed))
    if store.shared_log is not None:
        needed.keep(_recorded_elsewhere(instance, history))
    return needed


def _recorded_nodes(instance: dg.DagsterInstance) -> Iterator[Node]:
    for asset in _JUDGED:
        for partition in sorted(instance.get_materialized_partitions(dg.AssetKey(asset))):
            yield Node.of(asset, partition)


def _key(versions: Versions, node: Node) -> str:
    known = versions.recorded(node)
    return "" if known is None or is_failed(known.version) else known.version


def _what_is_gone(catalog: Catalog, node: Node, models: Collection[str]) -> str:
    """Say which part of a partition does not exist any more; what is merely broken does."""
    key = node.key
    for name, folder in ((key.recipe, "quantization"), (key.slo, "slos"), (key.pool, "hardware")):
        if name and name not in catalog.names(folder):
            return f"{name} is gone from recipes/{folder}/"
    family = split_model(key.model)[0]
    # A source without any version may be a disk that is away.
    siblings = any(split_model(model)[0] == family for model in models)
    if key.model in models or (family in catalog.names("models") and not siblings):
        return ""
    return f"there is no model version {key.model} any more"


def _unfinished(needed: Needed) -> Iterator[str]:
    """Yield what studies measured that have no artifact of their own yet."""
    for journal in settings().studies.glob("*.journal"):
        if needed.there.get(journal.stem) is None:
            yield from results_in(journal)


def _recorded_elsewhere(instance: dg.DagsterInstance, history: History) -> Iterator[str]:
    """Yield what control machines with instances of their own recorded last of a partition."""
    why = history.drain().lacks("materializations")
    if why is not None:
        raise StorageError(
            f"the history has materializations {why}, so nobody knows here what other machines "
            "need; update this machine, or look into spool/rejected/ of the history, and run again"
        )
    found = history.query(
        "SELECT asset, partition, content_key, run_id FROM materializations "
        "ORDER BY materialized_at DESC"
    )
    seen: set[tuple[str, str]] = set()
    ours: dict[str, bool] = {}
    for row in found.to_dict("records"):
        run = str(row["run_id"])
        if run not in ours:
            ours[run] = instance.has_run(run)
        place = (str(row["asset"]), str(row["partition"]))
        if not ours[run] and place not in seen:
            seen.add(place)
            yield str(row["content_key"])
