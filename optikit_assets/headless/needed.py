"""What has to stay in the artifact store.

Needed is the newest result of every partition that anybody recorded, whatever it is made from has
changed since; what it takes to serve and to compare any deployment that was ever decided on; the
ledger; what an unfinished study measured; what cannot be read; and all that those name. What is up
to date is not asked: that depends on the process and the machine that ask.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import dagster as dg

from optikit_assets.artifacts import Artifact, ArtifactStore
from optikit_assets.artifacts.base import is_key
from optikit_assets.defs.deployment.recertified_config import RECERTIFIED_CONFIG
from optikit_assets.defs.evaluation.candidates import read_comparison
from optikit_assets.defs.recorded import all_recorded
from optikit_assets.errors import OptikitError, StorageError
from optikit_assets.graph import (
    DEPLOYABLE_CONFIG,
    EVAL_SCORES,
    GRAPH,
    STAGES,
    is_failed,
)
from optikit_assets.headless.run_owners import THIS_HOME, homes_of
from optikit_assets.history import History
from optikit_assets.promotion import CLAIM
from optikit_assets.schemas import DEPLOYMENT_FILE
from optikit_assets.settings import settings
from optikit_assets.tuner import results_in

_KEY = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_AT_ONCE = 8
# Small, and the record of what was decided.
_ALWAYS = (DEPLOYABLE_CONFIG, RECERTIFIED_CONFIG, CLAIM)


class Result(NamedTuple):
    """One recorded result of a partition."""

    asset: str
    partition: str | None
    key: str
    run_id: str | None


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
    replaced
        Key -> the partition of which it was the newest result once.
    """

    store: ArtifactStore
    there: dict[str, Artifact | None]
    keys: set[str] = field(default_factory=set)
    alone: set[str] = field(default_factory=set)
    replaced: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, store: ArtifactStore) -> "Needed":
        """Look at what is in a store; nothing of it is needed yet."""
        keys = store.all_keys()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return cls(store, dict(zip(keys, pool.map(store.look, keys), strict=True)))

    def __contains__(self, key: str) -> bool:
        return key in self.keys or key in self.alone

    def whole(self, key: str) -> Artifact:
        """Return one that is whole; others are always needed."""
        artifact = self.there[key]
        if artifact is None:
            raise self.store.missing(key)
        return artifact

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
        try:
            found = set(self._left(key) if artifact is None else self._named(artifact))
        except (OSError, OptikitError):
            # Damaged, or put aside just now.
            found = set(self._left(key))
        return (found & self.there.keys()) - {key}

    def _left(self, key: str) -> Iterator[str]:
        for remains in self.store.remains(key):
            yield from _KEY.findall(remains.text)

    def _named(self, artifact: Artifact) -> Iterator[str]:
        yield from artifact.references
        yield from _KEY.findall(json.dumps(artifact.manifest))
        if artifact.kind == DEPLOYABLE_CONFIG:
            yield from self._of_deployment(artifact)
        elif artifact.kind in GRAPH:
            yield from _in_files(artifact, ".json")

    def _of_deployment(self, artifact: Artifact) -> Iterator[str]:
        """Yield what it takes to serve a decision, and to compare it with a later one.

        Not what it was chosen from: checkpoints that lost go once their partitions have newer ones.
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

    def keep_newest(
        self, results: Iterable[Result], home_of: Callable[[str | None], str | None]
    ) -> None:
        """Need the newest result of every partition in every home.

        Parameters
        ----------
        results
            Newest first.
        home_of
            Returns the home of a run, None if nobody knows: then its result is the newest of one.
        """
        seen: set[tuple[str, str | None, str]] = set()
        for result in results:
            if is_failed(result.key):
                continue
            home = home_of(result.run_id)
            place = (result.asset, result.partition, home or "")
            if home is None or place not in seen:
                self.keep([result.key])
            else:
                self.replaced[result.key] = f"{result.asset}[{result.partition}]"
            seen.add(place)

    def keep_what_is_broken(self) -> None:
        """Need what is not whole, and what it names or may have named, put aside or not."""
        broken = [key for key, artifact in self.there.items() if artifact is None]
        self.keep(broken)
        aside = [item.key for item in self.store.quarantined() if is_key(item.key)]
        remains = [left for key in {*broken, *aside} for left in self.store.remains(key)]
        for left in remains:
            self.keep(_KEY.findall(left.text))
        if any(left.kind in ("", DEPLOYABLE_CONFIG) for left in remains):
            # What it takes to serve may be named in what is lost.
            self.keep(key for key, it in self.there.items() if it and it.kind not in STAGES)


def _in_files(artifact: Artifact, suffix: str) -> Iterator[str]:
    for name in artifact.entries:
        if name.endswith(suffix):
            yield from _KEY.findall(artifact.file(name).read_text("utf-8", "replace"))


def find_needed(
    store: ArtifactStore, instance: dg.DagsterInstance, history: History, *, shared: bool
) -> Needed:
    """Return what is needed of a store at this moment.

    Parameters
    ----------
    shared
        Whether other homes may record in this instance.

    Raises
    ------
    HistoryError
        If the history cannot be read now.
    StorageError
        If something else cannot be read, so that nobody knows what is needed.
    """
    needed = Needed.of(store)
    rows, events = _in_history(history), _in_instance(instance)
    runs = {item.run_id for item in (*rows, *events) if item.run_id}
    homes = homes_of(instance, runs, shared=shared)
    # A run may have been deleted: of an instance of one home, or a history of one, it was its own.
    of_event = None if shared else THIS_HOME
    of_row = None if store.shared_log is not None else THIS_HOME
    needed.keep_newest(rows, lambda run: homes.get(run or "", of_row))
    needed.keep_newest(events, lambda run: homes.get(run or "", of_event))
    needed.keep(key for key, found in needed.there.items() if found and found.kind in _ALWAYS)
    needed.keep(_unfinished(needed))
    # At the end: what was read for it may have been put aside.
    needed.keep_what_is_broken()
    return needed


def _in_instance(instance: dg.DagsterInstance) -> list[Result]:
    return [
        Result(asset, partition, known.version, known.run_id)
        for asset in STAGES
        for partition, known in all_recorded(instance, asset)
    ]


def _in_history(history: History) -> list[Result]:
    """Return what all machines that exchange rows recorded, newest first."""
    why = history.drain().lacks("materializations")
    if why is not None:
        raise StorageError(
            f"the history has materializations {why}, so nobody knows here what is needed: update "
            f"this machine, or mend or delete what lies in {history.root}/spool/rejected/, and run "
            "again; nothing was removed"
        )
    found = history.query(
        "SELECT asset, partition, content_key, coalesce(run_id, '') AS run_id "
        "FROM materializations ORDER BY materialized_at DESC"
    )
    return [
        Result(row["asset"], row["partition"], row["content_key"], row["run_id"])
        for row in found.to_dict("records")
    ]


def _unfinished(needed: Needed) -> Iterator[str]:
    """Yield what studies measured that have no artifact of their own yet."""
    for journal in settings().studies.glob("*.journal"):
        if needed.there.get(journal.stem) is None:
            try:
                yield from results_in(journal)
            except OSError as error:
                raise StorageError(
                    f"cannot read {journal} ({error.strerror}), so nobody knows what its study "
                    "needs; nothing was removed"
                ) from error
