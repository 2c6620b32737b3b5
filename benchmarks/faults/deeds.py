"""What the platform writes, a deed each, on the real stores, small enough to be repeated."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optikit_assets.artifacts import LocalStore
from optikit_assets.engines import Hardware
from optikit_assets.headless.links import broken_links
from optikit_assets.history import History, schema
from optikit_assets.history.backup import back_up, restore
from optikit_assets.promotion import Candidate, GateResult, Ledger, Slot
from optikit_assets.publishing.folder import FolderPublisher
from optikit_assets.publishing.folder_target import FolderTarget
from optikit_assets.settings import configure
from optikit_assets.specs import SearchSpaceSpec
from optikit_assets.tuner import TrialResult, run_study
from tests.contract.artifact_store import KEY, OTHER, write
from tests.contract.publisher import MODEL, SLO, make_bundle
from tests.contract.release_target import make_release
from tests.unit.deployment import samples
from tests.unit.history.sweeps import SWEEP, add, keys

_SLOT = Slot("production", "qwen", "chat")
_OLD_SCHEMA = 20
_CPU = Hardware("cpu", "some processor", 1, 2**34, cores=2)
_SPACE = SearchSpaceSpec.model_validate(
    {
        "name": "s",
        "trials": 3,
        "startup_trials": 2,
        "parameters": {"max_num_seqs": {"choices": [8, 16, 32]}},
        "economy": {"surrogate": False, "priors": False},
    }
)


@dataclass(frozen=True)
class Deed:
    """Something that is written, in a folder of its own.

    Attributes
    ----------
    prepare
        Makes what is there before.
    do
        Does it; done a second time it goes on with what is there, and changes nothing if all is.
    seen
        What a reader sees: what was there before, or what is there after, and never between. None
        if nobody reads it but who goes on with it.
    ends
        What it comes to, once it is done; None: what is `seen`.
    clear
        Clears away what a power cut leaves, as runs, `optikit gc` and `doctor --repair` do.
    """

    prepare: Callable[[Path], object]
    do: Callable[[Path], object]
    seen: Callable[[Path], Any] | None
    clear: Callable[[Path], object] = lambda folder: None
    ends: Callable[[Path], Any] | None = None


def _store(folder: Path) -> LocalStore:
    return LocalStore(folder / "artifacts")


def _artifacts(folder: Path) -> list[str]:
    """Return the keys of the store's artifacts, each of them read through."""
    store = _store(folder)
    return sorted(key for key in store.all_keys() if store.find(key) and store.verify(key))


def _make(folder: Path) -> None:
    if _store(folder).find(KEY) is None:
        write(_store(folder), KEY)


def _history(folder: Path) -> History:
    return History(folder / "history")


def _begin(folder: Path) -> None:
    add(_history(folder), "a", "b")


def _append(folder: Path) -> None:
    """Append a row in place of another, and a result that may be there once."""
    history = _history(folder)
    history.append("sweeps", [SWEEP | {"content_key": "b", "reason": "new"}])
    history.append_once("result", lambda: [("sweeps", [SWEEP | {"content_key": "once"}])])
    history.drain()


def _rows(folder: Path) -> list[tuple[str, Any]]:
    found = _history(folder).query("SELECT content_key, reason FROM sweeps ORDER BY ALL")
    return [(key, reason or "") for key, reason in found.itertuples(index=False)]


def _begin_with_an_older_schema(folder: Path) -> None:
    every = schema.migrations
    older = every()[:_OLD_SCHEMA]
    schema.migrations = lambda: older  # type: ignore[assignment]
    schema.tables.cache_clear()
    _begin(folder)
    schema.migrations = every
    schema.tables.cache_clear()


def _save(folder: Path) -> None:
    _begin(folder)
    back_up(_history(folder), folder / "saved")
    add(_history(folder), "c")


def _restore(folder: Path) -> None:
    if keys(_history(folder)) != ["a", "b"]:
        restore(_history(folder), folder / "saved")


def _clear_history(folder: Path) -> None:
    _history(folder).mend()
    # What the private database is owed goes with the next rows.
    add(_history(folder), "next")


def _study(folder: Path) -> list[tuple[Any, ...]]:
    result = run_study(
        storage=folder / "study.journal",
        study_name="s",
        space=_SPACE,
        seed=1,
        evaluate=lambda number, flags, hint: TrialResult("feasible", 1.0 + number),
        hardware=_CPU,
    )
    return [(trial.number, trial.flags, trial.fitness) for trial in result.trials]


def _bundles(folder: Path) -> None:
    first, _ = (make_bundle(folder, letter) for letter in "ab")
    FolderPublisher(folder).publish(first, MODEL, SLO)


def _published(folder: Path) -> str | None:
    found = FolderPublisher(folder).published(MODEL, SLO)
    return found and (Path(found.where) / "deployment.json").read_text()


def _clear_links(folder: Path) -> None:
    configure(home=folder)
    for link in broken_links():
        link.mend()


def _ledger(folder: Path) -> Ledger:
    return Ledger(_SLOT, _history(folder), _store(folder))


def _promote(folder: Path, key: str) -> None:
    ledger = _ledger(folder)
    with ledger.turn():
        current = ledger.current
        if current is None or current.bundle_key != key:
            candidate = Candidate(key, f"digest {key}", samples.deployment())
            gates = [GateResult("cost", "pass", "4 cards, deployed 8")]
            ledger.promote(candidate, gates, who="somebody", force=None, target_rps=None)


def _promoted(folder: Path) -> list[tuple[str, str]]:
    ledger = _ledger(folder)
    with ledger.turn():
        return [(made.decision, made.bundle_key) for made in ledger.decisions()]


def _target(folder: Path) -> FolderTarget:
    return FolderTarget((folder / "target").as_uri())


def _push(folder: Path, letter: str) -> None:
    _target(folder).push(make_release(folder / "releases", letter), "current")


def _pulled(folder: Path) -> tuple[str | None, int]:
    key = _target(folder).current("current")
    place = Path(_target(folder).uri(key or "").removeprefix("file://"))
    return key, sum(len(file.read_bytes()) for file in place.iterdir()) if key else 0


DEEDS = {
    "an artifact is put": Deed(
        lambda folder: write(_store(folder), OTHER),
        _make,
        _artifacts,
        lambda folder: _store(folder).sweep_staging(),
    ),
    "an artifact is removed": Deed(
        lambda folder: [write(_store(folder), key) for key in (KEY, OTHER)],
        lambda folder: _store(folder).remove(KEY),
        _artifacts,
        lambda folder: _store(folder).sweep_staging(),
    ),
    "rows are appended and loaded": Deed(_begin, _append, _rows, _clear_history),
    "a history gets a newer schema": Deed(
        _begin_with_an_older_schema,
        lambda folder: add(_history(folder), "c"),
        lambda folder: keys(_history(folder)),
        _clear_history,
    ),
    "a history is restored": Deed(
        _save, _restore, lambda folder: keys(_history(folder)), _clear_history
    ),
    "a study of three trials": Deed(lambda folder: None, _study, None, ends=_study),
    "a bundle is published": Deed(
        _bundles,
        lambda folder: FolderPublisher(folder).publish(make_bundle(folder, "b"), MODEL, SLO),
        _published,
        _clear_links,
    ),
    "a bundle is promoted": Deed(
        lambda folder: _promote(folder, "a"),
        lambda folder: _promote(folder, "b"),
        _promoted,
        lambda folder: [_clear_history(folder), _store(folder).sweep_staging()],
    ),
    "a release is pushed": Deed(
        lambda folder: _push(folder, "a"),
        lambda folder: _push(folder, "b"),
        _pulled,
        lambda folder: _push(folder, "b"),
    ),
}
"""What is done -> how; each is cut off at its every change."""
