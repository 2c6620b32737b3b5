"""`optikit gc` on a real store and a real instance; only who made the artifacts is left out."""

import dataclasses
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import obstore
import pytest
from dagster._core.events import StepMaterializationData
from obstore.store import MemoryStore

from optikit_assets import graph
from optikit_assets.artifacts import ArtifactStore, ObjectStore, bucket_marks, open_store
from optikit_assets.artifacts.bucket_layout import object_of
from optikit_assets.artifacts.cache import ArtifactCache
from optikit_assets.bucket import Bucket
from optikit_assets.cli.gc import run_gc
from optikit_assets.defs.recorded import DATA_VERSION_TAG
from optikit_assets.environments.layout import INSTANCE_TEMPLATE, environment_path
from optikit_assets.errors import DamagedArtifactError, OptikitError, SpecError, StorageError
from optikit_assets.execution.base import NOBODY
from optikit_assets.execution.started_workers import note_start
from optikit_assets.graph import Key, Node
from optikit_assets.headless.garbage import find_garbage, remove_garbage
from optikit_assets.headless.materialize import open_instance
from optikit_assets.headless.run_owners import HOME_TAG
from optikit_assets.locks import locked
from optikit_assets.publishing import Bundle, FolderPublisher
from optikit_assets.releases import local, old_copies
from optikit_assets.schemas import DEPLOYMENT_FILE
from optikit_assets.settings import settings
from optikit_assets.specs import digest
from resources.history import open_history
from tests.definitions.world import HARDWARE, MODEL, World, local_on
from tests.executors import execute_with
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


@pytest.mark.slow
def test_the_newest_result_stays_with_what_it_names_and_what_it_replaced_goes(made: Store) -> None:
    old, old_checkpoint = quantize(made)
    stray = made.keep("stray", "benchmark")
    assert made.gone() == {stray}
    made.world.edit("quantization/int_w8a8.yaml", "samples: 256", "samples: 128")
    # Stale, but nothing is there in its place yet.
    assert made.gone() == set()
    new, new_checkpoint = quantize(made)
    found = find_garbage(7 * DAY)
    assert {item.key for item in found.items} == {old, old_checkpoint}
    assert remove_garbage(found)
    assert made.store.all_keys() == sorted([new, new_checkpoint])


@pytest.mark.slow
def test_what_was_replaced_says_of_which_partition_it_was(made: Store) -> None:
    key, checkpoint = quantize(made)
    replace(made)
    said = {item.key: item.why for item in find_garbage(7 * DAY).items}
    assert said[key] == f"{QUANTIZED} has a newer result"
    assert said[checkpoint] == f"of what is not needed: {said[key]}"


@pytest.mark.slow
def test_whatever_this_machine_would_make_of_it_now_the_newest_result_stays(
    made: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = environment_path(settings().envs_home, "serve")
    (environment / "lib/python3.12/site-packages/vllm-0.11.0.dist-info").mkdir(parents=True)
    (environment / "pyvenv.cfg").write_text("version = 3.12.1\n")
    monkeypatch.setenv("VLLM_ATTENTION_BACKEND", "FLASH_ATTN")
    baseline = Key(MODEL, "baseline")
    *_, key = made.materialize(
        BASE, Node(graph.QUANTIZED_MODEL, baseline), Node(graph.EVAL_SCORES, baseline),
        Node(graph.BENCHMARK_SWEEP, TUNED.key),
    )  # fmt: skip
    bench = made.keep("bench", "benchmark")
    made.keep(key, graph.BENCHMARK_SWEEP, bench, file="sweep.json")
    monkeypatch.delenv("VLLM_ATTENTION_BACKEND")
    environment.rename(environment.with_name("away"))
    execute_with(monkeypatch, local_on(dataclasses.replace(HARDWARE, kind="cuda")))
    monkeypatch.setenv("OPTIKIT_EXECUTOR", "of another machine")
    (made.world.root / "weights").rename(made.world.root / "away")
    made.world.write("models/tiny.yaml", "name: [")
    assert made.gone() == set()


@pytest.mark.slow
def test_a_failure_replaces_nothing(made: Store) -> None:
    quantize(made)
    made.world.edit("quantization/int_w8a8.yaml", "samples: 256", "samples: 128")
    with open_instance() as instance:
        made.world.instance = instance
        made.world.materialize([QUANTIZED], status="failed")
    assert made.gone() == set()


def replace(made: Store) -> None:
    """Have an edit, and a newer result of the partition."""
    made.world.edit("quantization/int_w8a8.yaml", "samples: 256", "samples: 128")
    quantize(made)


@pytest.mark.slow
def test_what_was_used_a_while_ago_stays(made: Store) -> None:
    young = made.keep("young", "benchmark", days=6)
    old = made.keep("old", "benchmark", days=8)
    assert made.gone() == {old}
    assert made.store.find(young) is not None


@pytest.mark.slow
def test_what_is_found_again_after_it_was_judged_stays_with_all_that_it_names(made: Store) -> None:
    key, checkpoint = quantize(made)
    replace(made)
    found = find_garbage(7 * DAY)
    assert {item.key for item in found.items} == {key, checkpoint}
    # Somebody takes the edit back, and a run finds the summary; of its checkpoints it asks later.
    assert made.store.find(key) is not None
    assert remove_garbage(found) == []
    assert {key, checkpoint} <= set(made.store.all_keys())


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


@pytest.mark.slow
def test_every_deployment_stays_with_what_serves_it_and_what_lost_goes(made: Store) -> None:
    first, second = keep_deployment(made, "first"), keep_deployment(made, "second")
    assert made.gone() == {first["loser"], second["loser"]}
    for keys in (first, second):
        for what in ("bundle", "winner", "model", "benchmark"):
            assert made.store.find(keys[what]) is not None, what


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cut off", "of a newer format", "put aside", "without manifest"])
def test_what_a_damaged_deployment_named_stays(made: Store, how: str) -> None:
    keys = keep_deployment(made, "first")
    folder = made.store.get(keys["bundle"]).folder()
    manifest = folder / "manifest.json"
    if how == "of a newer format":
        manifest.write_text(manifest.read_text().replace('"format": 2', '"format": 3'))
    elif how == "without manifest":
        manifest.write_text(manifest.read_text()[:100])
    else:
        (folder / "vllm.yaml").write_text("")
    if how == "put aside":
        with pytest.raises(DamagedArtifactError):
            made.store.verify(keys["bundle"])
    else:
        os.utime(folder, (0, 0))
    assert made.gone() == set()


@pytest.mark.slow
def test_the_newest_result_stays_without_what_it_refers_to(made: Store) -> None:
    key, checkpoint = quantize(made)
    answers = made.keep("answers", "evaluation")
    (folder,) = [made.store.get(key).folder()]
    (folder / "quantization.json").unlink()
    made.store.remove(checkpoint)
    with made.store.create(digest("other"), graph.EVAL_SCORES) as draft:
        draft.references.update({answers: None, checkpoint: None})
    made.age(digest("other"), 30)
    assert made.gone() == {digest("other"), answers}
    assert made.store.all_keys() == [key]


def test_decisions_about_channels_stay(made: Store) -> None:
    claim = made.keep("claim 1", "promotion", days=400)
    assert made.gone() == set()
    assert made.store.find(claim) is not None


@pytest.mark.slow
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
    # It ends; later another one takes its place.
    made.keep(key, graph.TUNED_CONFIG, measured, file="study.json", days=0)
    made.world.edit("search_spaces/fine.yaml", "trials: 4", "trials: 5")
    made.materialize(TUNED)
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


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_logs_go_once_nobody_wrote_to_them_for_as_long_but_for_a_living_driver_s(
    made: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = settings().logs
    ages = {"workers/old": 30, "workers/older": 40, "servers/young": 1, "driver/alive": 30}
    for name, days in ages.items():
        file = logs / f"{name}.log"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("said")
        then = time.time() - days * DAY
        os.utime(file, (then, then))
    with locked(logs / "driver" / "alive.log"):
        garbage = find_garbage(7 * DAY)
        os.utime(logs / "workers" / "older.log")
        assert [item.what for item in remove_garbage(garbage)] == ["logs of workers"]
    left = {str(file.relative_to(logs)) for file in logs.rglob("*") if file.is_file()}
    assert left == {"workers/older.log", "servers/young.log", "driver/alive.log"}
    run_gc("7d", dry_run=False, json_out=None)
    assert "logs of drivers" in capsys.readouterr().out
    assert not (logs / "driver" / "alive.log").exists()


def test_the_list_of_workers_forgets_who_was_started_before(made: Store) -> None:
    note_start(settings().home, "benchmark", "here", "log", NOBODY)
    ledger = settings().logs / "workers.jsonl"
    young = ledger.read_text()
    old = '{"time": 1000.0, "worker": "compress"}\n'
    ledger.write_text(old + young)
    found = find_garbage(7 * DAY)
    (item,) = found.items
    assert (item.what, item.key, item.bytes) == ("list of workers", "1 lines", len(old))
    assert remove_garbage(found) == [item]
    assert ledger.read_text() == young
    assert find_garbage(7 * DAY).items == ()


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
    # What the next promotion replaces was served until now.
    FolderPublisher(home, "channels/production").publish(
        Bundle(digest("b"), places[1]), "tiny", "chat"
    )
    assert link.resolve() == places[1]
    assert old_copies(time.time() - DAY) == []


def recorded_by(instance: dg.DagsterInstance, home: str, key: str) -> None:
    """Record a result of a partition in a run of another home."""
    run = instance.create_run_for_job(
        dg.JobDefinition(name="long", graph_def=_nothing), tags={HOME_TAG: home} if home else {}
    )
    made = dg.AssetMaterialization(
        TUNED.asset, partition=TUNED.partition, tags={DATA_VERSION_TAG: key}
    )
    event = dg.DagsterEvent(
        "ASSET_MATERIALIZATION", "long", event_specific_data=StepMaterializationData(made)
    )
    entry = dg.EventLogEntry(None, 20, "", run.run_id, time.time(), dagster_event=event)
    instance.handle_new_event(entry)


@pytest.fixture
def shared(made: Store, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    """Return a bucket in which what the tests make is old at once."""
    bucket = Bucket("memory://shared", MemoryStore())
    store = ObjectStore(bucket, ArtifactCache(settings().home / "cache"))
    monkeypatch.setattr(bucket_marks, "_TOLERANCE_S", -60 * DAY)
    monkeypatch.setattr("optikit_assets.headless.garbage.open_store", lambda url, home: store)
    monkeypatch.setattr("resources.history.open_store", lambda url, home: store)
    monkeypatch.setattr("optikit_assets.headless.garbage._A_DAY_S", 0.0)
    monkeypatch.setattr("optikit_assets.headless.garbage._STUDIES_REST_S", 0.0)
    made.store = store
    return store


def put(store: ArtifactStore, name: str, kind: str = "benchmark") -> str:
    with store.create(digest(name), kind):
        pass
    return digest(name)


def theirs(key: str, run: str, month: int) -> dict[str, object]:
    return {
        "asset": graph.BENCHMARK_SWEEP, "partition": "other@1|baseline@chat", "run_id": run,
        "content_key": key, "materialized_at": datetime(2026, month, 1, tzinfo=UTC),
    }  # fmt: skip


def gone_from(store: ArtifactStore) -> set[str]:
    found = find_garbage(0, now_s=time.time() + 60)
    return {item.key for item in remove_garbage(found)}


def test_a_store_that_others_use_keeps_all_that_any_of_them_recorded(
    shared: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, stray = (put(shared, name) for name in ("of A", "of B", "stray"))
    rows = [theirs(first, "run of A", 1), theirs(second, "run of B", 2)]
    open_history(settings()).append("materializations", rows)
    assert gone_from(shared) == {stray}
    assert shared.all_keys() == sorted([first, second])


@pytest.mark.slow
def test_what_others_may_have_measured_for_a_study_rests_for_a_month(
    shared: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(shared, "trial of A")
    old = put(shared, "result", graph.BENCHMARK_SWEEP)
    monkeypatch.setattr("optikit_assets.headless.garbage._STUDIES_REST_S", 30 * DAY)
    monkeypatch.setattr(bucket_marks, "_TOLERANCE_S", 0.0)
    now = time.time() + 8 * DAY
    assert {item.key for item in find_garbage(7 * DAY, now_s=now).items} == {old}
    assert len(find_garbage(7 * DAY, now_s=now + 30 * DAY).items) == 2


@pytest.mark.slow
def test_rows_that_could_not_be_loaded_keep_everything_until_somebody_looked(
    shared: ArtifactStore,
) -> None:
    history, key = open_history(settings()), put(shared, "of A")
    history.append("materializations", [theirs(key, "run of A", 1)])
    (file,) = (settings().history / "spool").glob("*.materializations.jsonl")
    whole = file.read_text()
    file.write_text('{"asset": "x", "materialized_at": "never"}\n' + whole)
    for _ in range(2):
        with pytest.raises(StorageError, match="spool/rejected/"):
            find_garbage(0, now_s=time.time() + 60)
    (aside,) = (settings().history / "spool" / "rejected").glob("*.jsonl")
    aside.write_text(whole)
    aside.rename(file)
    assert gone_from(shared) == set()


@pytest.mark.slow
def test_a_deployment_that_is_damaged_in_a_bucket_keeps_what_it_may_have_named(
    made: Store, shared: ArtifactStore
) -> None:
    assert isinstance(shared, ObjectStore)
    model = put(shared, "model", "source")
    bundle = digest("bundle")
    with shared.create(bundle, graph.DEPLOYABLE_CONFIG) as draft:
        DEPLOYMENT_FILE.write(draft, samples.deployment())
        draft.file("vllm.yaml").write_text(f"model: artifact:{model}\n")
    entry = shared.get(bundle).entries["vllm.yaml"]
    obstore.put(shared.bucket._store, object_of(bundle, entry), b"")
    shutil.rmtree(settings().home / "cache")
    for _ in range(2):
        assert gone_from(shared) == set()
    assert model in shared.all_keys()


@pytest.mark.slow
def test_homes_of_one_instance_keep_the_newest_of_each(
    made: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {name: made.keep(name, graph.TUNED_CONFIG) for name in ("A 1", "A 2", "B 1", "nobody's")}
    with open_instance() as instance:
        for name, key in keys.items():
            recorded_by(instance, "" if name == "nobody's" else name[0], key)
        recorded_by(instance, "A", keys["A 2"])
    template = made.world.root / "dagster.yaml"
    template.write_text(INSTANCE_TEMPLATE.read_text())
    monkeypatch.setenv("OPTIKIT_INSTANCE", str(template))
    trial = made.keep("trial of a study of A", "benchmark", days=20)
    assert made.gone() == {keys["A 1"]}
    made.age(trial, 31)
    assert made.gone() == {trial}


def test_records_that_cannot_be_read_are_told_in_a_line_and_nothing_goes(made: Store) -> None:
    stray = made.keep("stray", "benchmark")
    for file in (settings().home / "dagster").rglob("*.db"):
        file.write_bytes(b"no database" * 1000)
    with pytest.raises(OptikitError, match="what Dagster recorded cannot be read") as told:
        made.gone()
    assert "\n" not in str(told.value)
    assert made.store.look(stray) is not None
