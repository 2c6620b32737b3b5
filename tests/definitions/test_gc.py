"""`optikit gc` on a real store and a real instance; only who made the artifacts is left out."""

import os
import time
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from optikit_assets import graph
from optikit_assets.artifacts import ArtifactStore, open_store
from optikit_assets.cli.gc import run_gc
from optikit_assets.errors import OptikitError, SpecError
from optikit_assets.graph import Key, Node
from optikit_assets.headless.garbage import find_garbage, remove_garbage
from optikit_assets.headless.materialize import open_instance
from optikit_assets.releases import local, old_copies
from optikit_assets.schemas import DEPLOYMENT_FILE
from optikit_assets.settings import settings
from optikit_assets.specs import digest
from tests.definitions.world import MODEL, World
from tests.unit.deployment import samples

DAY = 24 * 3600.0


class Store:
    """Artifacts as stages leave them, with the times at which they were used last."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.store: ArtifactStore = open_store(settings().store, settings().home)

    def keep(self, name: str, kind: str, *names: str, file: str = "", days: float = 30) -> str:
        """Keep an artifact that names others in a file, or else refers to them."""
        key = name if len(name) == 64 else digest(name)
        with self.store.create(key, kind) as draft:
            if file:
                draft.write_json(file, {"of": names})
            else:
                draft.references.update(dict.fromkeys(names))
            draft.write_json("self.json", name)
        self.age(key, days)
        return key

    def age(self, key: str, days: float) -> None:
        then = time.time() - days * DAY
        os.utime(self.store.get(key).folder(), (then, then))

    def materialize(self, *nodes: Node) -> list[str]:
        """Record partitions as made from the present sources; return their keys."""
        with open_instance() as instance:
            self.world.instance = instance
            self.world.materialize(nodes)
            found = [self.world.versions().recorded(node) for node in nodes]
        return [known.version for known in found if known]

    def gone(self, older_than: float = 7 * DAY) -> set[str]:
        return {item.key for item in remove_garbage(find_garbage(older_than))}


@pytest.fixture
def made(real: World) -> Store:
    return Store(real)


BASE = Node(graph.BASE_MODEL, Key(MODEL))
QUANTIZED = Node(graph.QUANTIZED_MODEL, Key(MODEL, "int_w8a8"))
TUNED = Node(graph.TUNED_CONFIG, Key(MODEL, "baseline", "chat"))


def quantize(made: Store, name: str = "") -> tuple[str, str]:
    """Return the keys of a recorded partition and of the checkpoint that it names."""
    _, key = made.materialize(BASE, QUANTIZED)
    checkpoint = made.keep(f"checkpoint {name or key}", "checkpoint")
    made.keep(key, graph.QUANTIZED_MODEL, checkpoint, file="quantization.json")
    made.age(checkpoint, 30)
    return key, checkpoint


def test_what_a_fresh_partition_names_stays_and_what_an_edit_left_behind_goes(made: Store) -> None:
    old, old_checkpoint = quantize(made)
    stray = made.keep("stray", "benchmark")
    assert made.gone() == {stray}
    made.world.edit("quantization/int_w8a8.yaml", "samples: 256", "samples: 128")
    new, new_checkpoint = quantize(made)
    made.age(old, 30)
    found = find_garbage(7 * DAY)
    assert {item.key for item in found.items} == {old, old_checkpoint}
    assert remove_garbage(found)
    assert made.store.all_keys() == sorted([new, new_checkpoint])


def test_what_is_stale_says_of_which_partition_it_was_and_why(made: Store) -> None:
    key, checkpoint = quantize(made)
    made.world.edit("quantization/int_w8a8.yaml", "samples: 256", "samples: 128")
    said = {item.key: item.why for item in find_garbage(7 * DAY).items}
    assert said[key] == f"{QUANTIZED}: recipe_spec[int_w8a8] changed"
    assert said[checkpoint] == f"of what is not needed: {said[key]}"


def test_what_was_used_a_while_ago_stays(made: Store) -> None:
    young = made.keep("young", "benchmark", days=6)
    old = made.keep("old", "benchmark", days=8)
    assert made.gone() == {old}
    assert made.store.find(young) is not None


def test_what_is_found_again_after_it_was_judged_stays_with_all_that_it_names(made: Store) -> None:
    key, checkpoint = quantize(made)
    made.world.edit("quantization/int_w8a8.yaml", "samples: 256", "samples: 128")
    found = find_garbage(7 * DAY)
    assert {item.key for item in found.items} == {key, checkpoint}
    # Somebody takes the edit back, and a run finds the summary; of its checkpoints it asks later.
    assert made.store.find(key) is not None
    assert remove_garbage(found) == []
    assert made.store.all_keys() == sorted([key, checkpoint])


@pytest.mark.parametrize("what", ["recipe", "model"])
def test_what_is_broken_keeps_what_was_made_and_what_is_gone_does_not(
    made: Store, what: str
) -> None:
    key, checkpoint = quantize(made)
    file = {"recipe": "quantization/int_w8a8.yaml", "model": "models/tiny.yaml"}[what]
    text = (made.world.recipes / file).read_text()
    made.world.write(file, "name: [")
    assert made.gone() == set()
    made.world.write(file, text)
    (made.world.recipes / file).unlink()
    assert made.gone() == {key, checkpoint}


def test_a_model_on_a_disk_that_is_away_keeps_what_was_made_of_it(made: Store) -> None:
    quantize(made)
    (made.world.root / "weights").rename(made.world.root / "away")
    assert made.gone() == set()


def keep_deployment(made: Store, name: str) -> dict[str, str]:
    """Return what a decision is made of: winner and loser, answers, and a benchmark."""
    keys = {
        "winner": made.keep(f"winner {name}", "checkpoint"),
        "loser": made.keep(f"loser {name}", "checkpoint"),
        "model": made.keep(f"shared model {name}", "source"),
    }
    keys["benchmark"] = made.keep(f"benchmark {name}", "benchmark")
    deployment = samples.deployment()
    key = digest(["decision", name])
    with made.store.create(key, graph.DEPLOYABLE_CONFIG) as draft:
        DEPLOYMENT_FILE.write(draft, deployment)
        draft.write_json("why.json", keys["loser"])
        draft.file("vllm.yaml").write_text(f"model: artifact:{keys['model']}\n")
        draft.references[keys["winner"]] = None
        draft.manifest["benchmarks"] = [{"artifact_key": keys["benchmark"]}]
    made.age(key, 300)
    return {**keys, "bundle": key}


def test_every_deployment_stays_with_what_serves_it_and_what_lost_goes(made: Store) -> None:
    first, second = keep_deployment(made, "first"), keep_deployment(made, "second")
    assert made.gone() == {first["loser"], second["loser"]}
    for keys in (first, second):
        for what in ("bundle", "winner", "model", "benchmark"):
            assert made.store.find(keys[what]) is not None, what


def test_decisions_about_channels_stay(made: Store) -> None:
    claim = made.keep("claim 1", "promotion", days=400)
    assert made.gone() == set()
    assert made.store.find(claim) is not None


def test_an_unfinished_study_keeps_its_results_and_goes_with_its_own_artifact(made: Store) -> None:
    baseline = Key(MODEL, "baseline")
    *_, key = made.materialize(
        BASE, Node(graph.QUANTIZED_MODEL, baseline), Node(graph.EVAL_SCORES, baseline),
        Node(graph.BENCHMARK_SWEEP, TUNED.key), TUNED,
    )  # fmt: skip
    measured = made.keep("trial 1", "benchmark")
    journal = settings().studies / f"{key}.journal"
    journal.parent.mkdir()
    journal.write_text('{"record": {"trial": {"artifact_key": "' + measured + '"}}}\n')
    assert made.gone() == set()
    # It ends; later an edit makes it stale.
    made.keep(key, graph.TUNED_CONFIG, measured, file="study.json")
    made.age(measured, 30)
    assert made.gone() == set()
    made.world.edit("search_spaces/fine.yaml", "trials: 4", "trials: 5")
    # It was found a moment ago, and what it names stays with it.
    assert made.gone() == set()
    made.age(key, 30)
    assert made.gone() == {key, measured}
    assert list(journal.parent.iterdir()) == []


def begin_run(instance: dg.DagsterInstance, days_ago: float) -> str:
    run = instance.create_run_for_job(dg.JobDefinition(name="long", graph_def=_nothing))
    instance.handle_new_event(
        dg.EventLogEntry(
            None, 20, "", run.run_id, time.time() - days_ago * DAY,
            dagster_event=dg.DagsterEvent("PIPELINE_START", "long"),
        )
    )  # fmt: skip
    return run.run_id


@dg.graph(name="long")
def _nothing() -> None:
    pass


def test_nothing_goes_that_was_used_since_a_running_run_began(made: Store) -> None:
    before = made.keep("before it", "benchmark", days=12)
    since = made.keep("since it", "benchmark", days=9)
    with open_instance() as instance:
        run = begin_run(instance, 10)
    found = find_garbage(7 * DAY)
    assert {item.key for item in found.items} == {before}
    assert run in found.because
    with open_instance() as instance:
        started = instance.get_run_by_id(run)
        assert started is not None
        instance.report_run_canceled(started)
    assert {item.key for item in find_garbage(7 * DAY).items} == {before, since}


def test_a_dry_run_shows_what_would_go_and_removes_nothing(
    made: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    stray = made.keep("stray", "benchmark")
    made.keep("young", "benchmark", days=1)
    run_gc("7d", dry_run=True, json_out=tmp_path / "gc.json")
    said = capsys.readouterr().out
    assert "no partition, deployment or study names it" in said
    assert "1 would go, 8 B; 0 are needed, 1 were used since" in said
    assert stray in (tmp_path / "gc.json").read_text()
    assert made.store.find(stray) is not None
    made.age(stray, 30)
    run_gc("7d", dry_run=False, json_out=None)
    assert "1 removed, 8 B" in capsys.readouterr().out
    assert made.store.find(stray) is None


@pytest.mark.parametrize("text", ["7", "d", "-1d", "1w", ""])
def test_an_age_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="write 30m, 12h or 7d"):
        run_gc(text, dry_run=True, json_out=None)


def test_an_age_that_is_too_short_is_refused(made: Store) -> None:
    with pytest.raises(OptikitError, match="at least 1h"):
        find_garbage(1800)


def test_copies_of_bundles_go_once_no_link_leads_to_them(
    made: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = settings().home
    places = [local.copies() / (name * 16) / digest(name) for name in "abc"]
    then = time.time() - 30 * DAY
    for place in places:
        place.mkdir(parents=True)
        (place / "vllm.yaml").write_text("model: x\n")
        os.utime(place, (then, then))
    link = home / "channels" / "production" / "tiny" / "chat"
    link.parent.mkdir(parents=True)
    link.symlink_to(os.path.relpath(places[0], link.parent))
    found = find_garbage(7 * DAY)
    assert [item.key for item in found.items] == [digest("b"), digest("c")]
    # A publication comes across one of them, and is about to link to it.
    assert local._is_there(places[1])
    assert [item.key for item in remove_garbage(found)] == [digest("c")]
    assert [place.exists() for place in places] == [True, True, False]
    assert old_copies(time.time() - DAY) == []


def test_a_store_that_others_use_keeps_what_they_recorded(
    made: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from obstore.store import MemoryStore

    from optikit_assets.artifacts import ObjectStore, bucket_marks
    from optikit_assets.artifacts.cache import ArtifactCache
    from optikit_assets.bucket import Bucket
    from resources.history import open_history

    monkeypatch.setattr(bucket_marks, "_TOLERANCE_S", -60 * DAY)
    bucket = Bucket("memory://shared", MemoryStore())
    shared = ObjectStore(bucket, ArtifactCache(settings().home / "cache"))
    for module in ("headless.garbage", "headless.present"):
        monkeypatch.setattr(f"optikit_assets.{module}.open_store", lambda url, home: shared)
    monkeypatch.setattr("resources.history.open_store", lambda url, home: shared)
    made.store = shared
    keys = {}
    for name in ("theirs", "theirs of before", "stray"):
        keys[name] = digest(name)
        with shared.create(keys[name], "benchmark"):
            pass
    rows = [
        {"asset": graph.BENCHMARK_SWEEP, "partition": "other@1|baseline@chat", "run_id": "away",
         "content_key": keys[name], "cached": False,
         "materialized_at": datetime(2026, month, 1, tzinfo=UTC)}
        for name, month in (("theirs of before", 1), ("theirs", 2))
    ]  # fmt: skip
    open_history(settings()).append("materializations", rows)
    with pytest.raises(OptikitError, match="at least 1d"):
        find_garbage(3600)
    monkeypatch.setattr("optikit_assets.headless.garbage._A_DAY_S", 0.0)
    now = time.time() + 60
    gone = remove_garbage(find_garbage(0, now_s=now))
    assert {item.key for item in gone} == {keys["theirs of before"], keys["stray"]}
    assert shared.all_keys() == [keys["theirs"]]
