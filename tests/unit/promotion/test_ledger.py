import shutil
import sys
import threading
import time
from contextlib import nullcontext

import pytest

from optikit_assets.artifacts import LocalStore, open_store
from optikit_assets.errors import OptikitError, StorageError
from optikit_assets.history import History
from optikit_assets.promotion import Candidate, GateResult, Ledger, Slot
from tests.unit.deployment import samples

SLOT = Slot("production", "qwen", "chat")
PASS = (GateResult("cost", "pass", "4 cards, deployed 8"),)
FAIL = (GateResult("cost", "fail", "8 cards, deployed 4"),)
DEPLOYMENT = samples.deployment()


class Office:
    """A ledger, and what people do with it."""

    def __init__(self, root):
        self.history = History(root / "history")
        self.store = open_store((root / "artifacts").as_uri(), root)
        self.ledger = Ledger(SLOT, self.history, self.store)

    def promote(self, key, gates=PASS, force=None):
        with self.ledger.turn():
            candidate = Candidate(key, f"digest {key}", DEPLOYMENT)
            return self.ledger.promote(
                candidate, gates, who="somebody", force=force, target_rps=None
            )

    def roll_back(self):
        with self.ledger.turn():
            to = self.ledger.before()
            return self.ledger.roll_back(to, gates=PASS, who="somebody", reason="slow")

    @property
    def current(self):
        found = self.ledger.current
        return found and found.bundle_key


@pytest.fixture(autouse=True)
def migrated(tmp_path, empty_database):
    (tmp_path / "history" / "private").mkdir(parents=True)
    shutil.copy(empty_database, tmp_path / "history" / "private")


@pytest.fixture
def office(tmp_path):
    return Office(tmp_path)


@pytest.mark.slow
def test_rollbacks_go_further_back_and_never_to_what_was_left(office):
    for key in "abc":
        office.promote(key)
    assert [office.roll_back().bundle_key, office.roll_back().bundle_key] == ["b", "a"]
    with pytest.raises(OptikitError, match="nothing was deployed before"):
        office.roll_back()
    assert office.current == "a"
    office.promote("d")
    assert office.roll_back().bundle_key == "a"
    told = office.history.query(
        "SELECT number, decision, bundle_key, reason FROM promotions ORDER BY number"
    )
    assert told["number"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert told["decision"].tolist() == [
        *["promoted"] * 3, *["rolled_back"] * 2, "promoted", "rolled_back"
    ]  # fmt: skip
    assert told["bundle_key"].tolist() == ["a", "b", "c", "b", "a", "d", "a"]


@pytest.mark.slow
def test_a_refusal_is_kept_and_changes_nothing_and_force_says_why(office):
    office.promote("a")
    assert office.promote("b", FAIL).decision == "refused"
    assert office.current == "a"
    assert office.promote("b", FAIL, force="a fire").decision == "forced"
    assert office.current == "b"
    assert office.promote("c", PASS, force="a fire").decision == "promoted"
    told = office.history.query(
        "SELECT decision, reason, gates->0->>'text' AS text FROM promotions ORDER BY number"
    )
    assert told["text"].tolist() == [PASS[0].text, FAIL[0].text, FAIL[0].text, PASS[0].text]
    assert told["reason"].tolist()[2] == "a fire"
    assert told["reason"].isna().tolist() == [True, True, False, True]
    now = office.history.query("SELECT bundle_key, decision FROM current_promotions")
    assert now.to_dict("records") == [{"bundle_key": "c", "decision": "promoted"}]


@pytest.mark.slow
def test_two_at_once_decide_one_after_the_other(tmp_path):
    Office(tmp_path).promote("a")
    seen = {}

    def decide(key):
        office = Office(tmp_path)
        with office.ledger.turn():
            seen[key] = office.ledger.current.bundle_key
            office.ledger.promote(
                Candidate(key, None, DEPLOYMENT), PASS, who=key, force=None, target_rps=1.0
            )

    threads = [threading.Thread(target=decide, args=(key,)) for key in "bc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    office = Office(tmp_path)
    first, second = (d.bundle_key for d in office.ledger.decisions()[1:])
    # Who came second was judged against what the first one left.
    assert seen == {first: "a", second: first}
    assert [d.number for d in office.ledger.decisions()] == [1, 2, 3]


@pytest.mark.slow
def test_slots_do_not_know_of_each_other(office):
    office.promote("a")
    other = Ledger(Slot("staging", "qwen", "chat"), office.history, office.store)
    with other.turn():
        assert other.current is None
        with pytest.raises(OptikitError, match="nothing is deployed"):
            other.before()


@pytest.mark.slow
def test_who_lost_the_turn_without_noticing_decides_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(LocalStore, "turn", lambda *args, **how: nullcontext())
    first, second = Office(tmp_path), Office(tmp_path)
    with first.ledger.turn():
        second.promote("b")
        with pytest.raises(StorageError, match="somebody else decided meanwhile"):
            first.ledger.promote(
                Candidate("a", None, DEPLOYMENT), PASS, who="a", force=None, target_rps=None
            )
    assert [(d.number, d.bundle_key) for d in first.ledger.decisions()] == [(1, "b")]


@pytest.mark.slow
@pytest.mark.parametrize("looks", [False, True])
def test_a_decision_that_was_claimed_counts_whatever_became_of_who_made_it(
    office, monkeypatch, looks
):
    with monkeypatch.context() as killed:
        killed.setattr(office.history, "append", lambda *args: sys.exit())
        with pytest.raises(SystemExit):
            office.promote("a")
    if looks:
        assert office.ledger.look().bundle_key == "a"
    else:
        with office.ledger.turn():
            assert office.current == "a"
    assert office.promote("b").number == 2
    assert [decision.number for decision in office.ledger.decisions()] == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("version", [99, 1])
def test_nobody_decides_who_cannot_read_all_decisions_and_other_tables_do_not_matter(
    office, version
):
    def receive(table):
        spool = office.history.root / "spool"
        spool.mkdir(parents=True, exist_ok=True)
        name = f"{time.time_ns():020d}-1-ab.v{version}.{table}.jsonl"
        (spool / name).write_text('{"colour": 1}\n')

    receive("sweeps")
    office.promote("a")
    receive("promotions")
    why = {99: "decisions written by a newer release", 1: "decisions not to be loaded"}
    with pytest.raises(StorageError, match=why[version]):
        office.promote("b")
    assert [decision.bundle_key for decision in office.ledger.decisions()] == ["a"]
