"""Promotion on real bundles, stored answers and a real ledger; only who made them is left out."""

import json
import shutil
import sys
import time
from contextlib import contextmanager

import pytest

from optikit_assets.artifacts import open_store
from optikit_assets.cli.promotion import run_promote, run_rollback
from optikit_assets.errors import OptikitError, StorageError
from optikit_assets.headless import channels, promotion
from optikit_assets.headless.links import broken_links
from optikit_assets.headless.needed import Needed
from optikit_assets.headless.promotion import current_decisions, deployed_in, deployed_now
from optikit_assets.history import History
from optikit_assets.promotion import Ledger, Slot
from optikit_assets.publishing import Bundle
from optikit_assets.schemas import CHECKPOINTS_FILE, COMPARISON_FILE, DEPLOYMENT_FILE, Checkpoints
from optikit_assets.settings import settings
from optikit_assets.specs import Catalog, digest
from optikit_assets.stateval.comparison import compare
from optikit_assets.stateval.scores import (
    EvaluatedCandidate,
    EvaluatedTask,
    Item,
    TaskScore,
    write_candidate,
)
from tests.unit.deployment import samples

ITEMS = 400
SUITE = "demo"


def answers(lost):
    """Return a candidate that got all items of every task but `lost` of them."""
    tasks = []
    for task in Catalog.load(settings().recipes).suite(SUITE).tasks:
        items = tuple(
            Item(
                doc_id=n, doc_hash=f"d{n}", prompt_hash=f"p{n}", target="x", response="y",
                score=float(n >= lost), metrics={"m": float(n >= lost)},
            )
            for n in range(ITEMS)
        )  # fmt: skip
        score = 1.0 - lost / ITEMS
        summary = TaskScore(
            task=task.title, title=task.title, score=score, stderr=0.01, n=ITEMS,
            metrics={"m": score}, num_fewshot=0, seconds=1.0,
        )  # fmt: skip
        tasks.append(EvaluatedTask(summary=summary, items=items))
    return EvaluatedCandidate(trial=0, suite=SUITE, tasks=tuple(tasks), seed=1)


class Bench:
    """Makes bundles that are the newest of the model and SLO."""

    def __init__(self, monkeypatch):
        self.store = open_store(settings().store, settings().home)
        self.newest = None
        monkeypatch.setattr(promotion, "newest_bundle", lambda model, slo: self.newest)
        monkeypatch.setattr("optikit_assets.cli.promotion.resolve_model", lambda model: model)

    def keep(self, name, kind, fill):
        key = digest(["test", name])
        with self.store.create(key, kind) as draft:
            fill(draft)
        return self.store.get(key)

    def make(self, name, *, lost, rate=7.5):
        candidate = answers(lost)
        kept = self.keep(
            f"answers {name}", "evaluation", lambda draft: write_candidate(draft.path, candidate)
        )
        named = candidate.model_copy(update={"artifact_key": kept.key})
        suite = Catalog.load(settings().recipes).suite(SUITE)
        comparison = compare(suite, answers(0), [named], seed=1)
        checkpoint = self.keep(
            f"weights {name}", "checkpoint", lambda draft: draft.write_json("w.json", name)
        )

        def evaluation(draft):
            COMPARISON_FILE.write(draft, comparison)
            CHECKPOINTS_FILE.write(draft, Checkpoints(checkpoints={0: checkpoint.key}))

        scores = self.keep(f"scores {name}", "eval_scores", evaluation)
        plain = samples.deployment()
        deployment = plain.model_copy(
            update={
                "checkpoint_digest": checkpoint.digest,
                "certified_rate_rps": rate,
                "certified_rate_per_gpu": rate,
                "content_keys": {f"eval_scores[{plain.model_key}|{plain.recipe}]": scores.key},
            }
        )

        def bundle(draft):
            DEPLOYMENT_FILE.write(draft, deployment)
            draft.references[checkpoint.key] = checkpoint.digest

        artifact = self.keep(f"bundle {name}", "deployable_config", bundle)
        self.newest = (artifact, deployment)
        return artifact


@pytest.fixture
def bench(with_history, monkeypatch):
    return Bench(monkeypatch)


def promote(force=None):
    return run_promote("qwen@1", "chat", "production", None, force is not None, force)


def current():
    link = settings().home / "channels" / "production" / "qwen" / "chat"
    return json.loads((link / "deployment.json").read_text())["checkpoint_digest"]


@pytest.mark.slow
def test_a_link_whose_copy_is_gone_is_broken_and_follows_the_ledger_again(bench):
    bench.make("first", lost=0)
    promote()
    link = settings().home / "channels" / "production" / "qwen" / "chat"
    assert list(broken_links()) == []
    shutil.rmtree(link.resolve())
    (broken,) = broken_links()
    assert str(link) in broken.found
    assert broken.mend().endswith("as the ledger says")
    assert current()
    assert list(broken_links()) == []
    # Neither here nor in the store.
    bench.store.remove(link.resolve().name)
    shutil.rmtree(link.resolve())
    with pytest.raises(StorageError, match="optikit rollback"):
        next(broken_links()).mend()
    assert link.is_symlink()


@pytest.mark.slow
def test_a_worse_bundle_is_refused_with_numbers_forced_and_rolled_back_twice(bench, capsys):
    good = bench.make("good", lost=0)
    assert promote() == 0
    first = current()
    bench.make("better", lost=0, rate=8.5)
    assert promote() == 0
    better = current()
    assert better != first
    bench.make("worse", lost=120, rate=9.0)
    capsys.readouterr()
    with pytest.raises(OptikitError, match="quality does not pass"):
        promote()
    told = capsys.readouterr().out
    assert "0.700 against 1.000 (gained 0, lost 120 of 400" in told
    assert current() == better
    assert promote(force="the old one crashes") == 0
    assert current() not in (first, better)
    run_rollback("qwen", "chat", "production", "it answers worse")
    assert current() == better
    run_rollback("qwen", "chat", "production", None)
    assert current() == first
    assert (settings().home / "channels/production/qwen/chat").resolve().name == good.key
    with pytest.raises(OptikitError, match="nothing was deployed before"):
        run_rollback("qwen", "chat", "production", None)
    ledger = History(settings().history).query(
        "SELECT decision, reason FROM promotions ORDER BY number"
    )
    assert ledger["decision"].tolist() == [
        "promoted", "promoted", "refused", "forced", "rolled_back", "rolled_back"
    ]  # fmt: skip
    assert "the old one crashes" in ledger["reason"].tolist()


@pytest.mark.slow
def test_a_decision_whose_maker_was_killed_is_what_is_deployed(bench, monkeypatch):
    bench.make("good", lost=0)
    promote()
    better = bench.make("better", lost=0, rate=8.5)
    with monkeypatch.context() as killed:
        killed.setattr(History, "append", lambda *args: sys.exit())
        with pytest.raises(SystemExit):
            promote()
    assert [here.bundle_key for here in deployed_now(None)] == [better.key]
    assert deployed_in("qwen@1", "chat", "production")[0] == better.key


@pytest.mark.slow
def test_a_first_decision_whose_maker_was_killed_is_known_of_at_once(bench, monkeypatch):
    good = bench.make("good", lost=0)
    for channel in ("canary", "production"):
        with monkeypatch.context() as killed:
            killed.setattr(History, "append", lambda *args: sys.exit())
            with pytest.raises(SystemExit):
                run_promote("qwen@1", "chat", channel, None, False, None)
    assert deployed_in("qwen@1", "chat", "canary")[0] == good.key
    assert [here.channel for here in current_decisions("production")] == ["production"]
    assert sorted(here.channel for here in current_decisions()) == ["canary", "production"]


@pytest.mark.slow
def test_nothing_is_said_of_what_is_deployed_while_decisions_cannot_be_read(bench):
    """Else a canary is set up beside what was deployed before."""
    bench.make("good", lost=0)
    promote()
    name = f"{time.time_ns():020d}-1-ab.v99.promotions.jsonl"
    (History(settings().history).root / "spool" / name).write_text('{"colour": 1}\n')
    for ask in (lambda: deployed_now(None), lambda: deployed_in("qwen@1", "chat", "production")):
        with pytest.raises(StorageError, match="decisions written by a newer release"):
            ask()


@pytest.mark.slow
def test_what_is_deployed_already_is_no_new_decision(bench):
    bench.make("good", lost=0)
    promote()
    promote()
    assert len(History(settings().history).query("SELECT * FROM promotions")) == 1


@pytest.mark.slow
def test_a_bundle_whose_weights_changed_is_refused(bench):
    artifact = bench.make("good", lost=0)
    (weights,) = artifact.references
    file = bench.store.get(weights).file("w.json")
    file.chmod(0o644)
    file.write_text(file.read_text().replace("good", "bad!"))
    with pytest.raises(OptikitError, match="integrity"):
        promote()
    with pytest.raises(OptikitError, match="integrity"):
        promote(force="never mind")
    assert deployed_now(None) == []


def test_force_wants_a_reason(bench):
    with pytest.raises(OptikitError, match="--reason go together"):
        run_promote("qwen@1", "chat", "production", None, True, None)


def test_a_channel_that_is_no_name_is_one_line(bench):
    bench.make("good", lost=0)
    with pytest.raises(OptikitError, match="channel"):
        run_promote("qwen@1", "chat", "pro/d", None, False, None)


def rows():
    return len(History(settings().history).query("SELECT * FROM promotions"))


@pytest.mark.slow
def test_a_rollback_that_cannot_be_served_is_none(bench, monkeypatch):
    bench.make("good", lost=0)
    promote()
    first = current()
    bench.make("better", lost=0, rate=8.5)
    promote()

    def unreachable(*args):
        raise StorageError("the bucket cannot be reached")

    with monkeypatch.context() as away:
        away.setattr(channels, "promoted_bundle", unreachable)
        with pytest.raises(StorageError, match="cannot be reached"):
            run_rollback("qwen", "chat", "production", None)
    assert rows() == 2
    run_rollback("qwen", "chat", "production", None)
    assert current() == first


@pytest.mark.slow
def test_a_link_that_lags_follows_the_ledger(bench):
    good = bench.make("good", lost=0)
    promote()
    bench.make("better", lost=0, rate=8.5)
    promote()
    better = current()
    slot = Slot("production", "qwen", "chat")
    # As on a machine that another one decided without.
    channels.point(bench.store, slot, Bundle(good.key, good.folder()))
    assert current() != better
    deployed_now("production")
    assert current() == better
    assert rows() == 2
    # What it led to is gone.
    link = settings().home / "channels" / "production" / "qwen" / "chat"
    link.unlink()
    link.symlink_to("nowhere")
    deployed_now("production")
    assert current() == better


@pytest.mark.slow
def test_a_machine_without_a_link_fetches_when_it_is_asked_to_and_nobody_waits_for_it(
    bench, monkeypatch
):
    bench.make("good", lost=0)
    promote()
    link = settings().home / "channels" / "production" / "qwen" / "chat"
    link.unlink()
    # As on a machine that somebody else's decision comes to.
    turns, fetched_in = [], []

    @contextmanager
    def watched(ledger):
        turns.append(ledger.slot)
        with turn(ledger):
            yield
        turns.pop()

    def watch(*args):
        fetched_in.append(len(turns))
        return promoted_bundle(*args)

    turn, promoted_bundle = Ledger.turn, channels.promoted_bundle
    monkeypatch.setattr(Ledger, "turn", watched)
    monkeypatch.setattr(channels, "promoted_bundle", watch)
    assert len(deployed_now(None)) == 1
    assert not link.is_symlink()
    assert fetched_in == []
    assert len(deployed_now(None, follow=True)) == 1
    assert link.exists()
    # First while nobody waits; inside, it is here.
    assert fetched_in == [0, 1]


@pytest.mark.slow
def test_a_rollback_fetches_nothing_of_what_it_leaves(bench, monkeypatch):
    good = bench.make("good", lost=0)
    promote()
    bench.make("better", lost=0, rate=8.5)
    promote()
    slot = Slot("production", "qwen", "chat")
    channels.point(bench.store, slot, Bundle(good.key, good.folder()))
    promoted_bundle, fetched = channels.promoted_bundle, []

    def watch(store, engine, artifact, *rest):
        fetched.append(artifact.key)
        return promoted_bundle(store, engine, artifact, *rest)

    monkeypatch.setattr(channels, "promoted_bundle", watch)
    run_rollback("qwen", "chat", "production", None)
    assert set(fetched) == {good.key}


@pytest.mark.slow
def test_who_is_overtaken_is_judged_against_what_the_other_left(bench, monkeypatch):
    bench.make("good", lost=0)
    promote()
    make_ready, overtaken = channels.make_ready, []

    def while_another_decides(*args):
        if not overtaken:
            overtaken.append(True)
            bench.make("better", lost=0, rate=9.5)
            promote()
        return make_ready(*args)

    bench.make("good enough", lost=0, rate=8.5)
    monkeypatch.setattr(channels, "make_ready", while_another_decides)
    with pytest.raises(OptikitError, match="cost does not pass"):
        promote()
    told = History(settings().history).query("SELECT decision FROM promotions ORDER BY number")
    assert told["decision"].tolist() == ["promoted", "promoted", "refused"]


@pytest.mark.slow
def test_what_was_made_anew_under_the_key_of_what_is_deployed_passes_no_gate(bench):
    good = bench.make("good", lost=0)
    promote()
    bench.store.remove(good.key)
    # The same key, and another rate in it.
    bench.make("good", lost=0, rate=99.0)
    with pytest.raises(OptikitError, match="slo, quality, cost does not pass"):
        promote()
    with pytest.raises(StorageError, match="made anew with another content"):
        promotion.deployed_in("qwen", "chat", "production")
    assert promote(force="it is the same but for its rate") == 0
    assert rows() == 3
    with pytest.raises(StorageError, match="was made anew, with another content"):
        run_rollback("qwen", "chat", "production", None)


@pytest.mark.slow
def test_a_link_serves_what_was_promoted_though_it_was_made_anew_under_its_key(bench, monkeypatch):
    good = bench.make("good", lost=0)
    promote()
    link = settings().home / "channels" / "production" / "qwen" / "chat"

    def served():
        return [(link / name).read_bytes() for name in ("deployment.json", "weights/w.json")]

    first = served()
    (checkpoint,) = good.references
    for key in (good.key, checkpoint):
        bench.store.remove(key)
    # Other weights and another rate under the same keys.
    with monkeypatch.context() as other:
        keep = bench.keep
        other.setattr(
            bench, "keep",
            lambda name, kind, fill: keep(name, kind, fill if kind != "checkpoint" else (
                lambda draft: draft.write_json("w.json", "other"))),
        )  # fmt: skip
        again = bench.make("good", lost=0, rate=99.0)
    assert (again.key, list(again.references)) == (good.key, [checkpoint])
    assert served() == first
    deployed_now("production")
    assert served() == first
    assert promote(force="it is faster") == 0
    assert all(now != then for now, then in zip(served(), first, strict=True))


@pytest.mark.slow
def test_what_is_deployed_and_gone_is_replaced_by_force_alone(bench):
    good = bench.make("good", lost=0)
    promote()
    bench.make("better", lost=0, rate=8.5)
    bench.store.remove(good.key)
    with pytest.raises(OptikitError, match="slo, quality, cost does not pass"):
        promote()
    assert promote(force="it is gone") == 0


def test_a_user_without_a_name_is_one_line(bench, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: {}["pw_name"])
    with pytest.raises(OptikitError, match="set the variable USER"):
        promote()


def test_what_a_deployment_is_compared_by_is_kept_with_it_and_what_it_left_is_not(bench):
    bundle = bench.make("good", lost=0)
    lost = bench.keep("lost", "checkpoint", lambda draft: draft.write_json("w.json", "lost"))
    needed = Needed.of(bench.store)
    needed.keep([bundle.key])
    assert {key for key in needed.there if key not in needed} == {lost.key}
