"""What the rest of the system relies on from every artifact store; subclass it for one of yours."""

import abc
import threading
import time
from pathlib import Path

import pytest

from optikit_assets.artifacts import ArtifactStore, Reference
from optikit_assets.errors import ChangedInputError, DamagedArtifactError, StorageError

KEY = "ab" + "0" * 62
OTHER = "cd" + "1" * 62


def write(store: ArtifactStore, key: str = KEY, text: str = "hello", **references: str) -> None:
    with store.create(key, "checkpoint") as draft:
        draft.file("deep/er/weights.txt").write_text(text)
        draft.file("config.json").write_text("{}")
        draft.references.update(references)
        # Numbers and fractions as keys and values come back otherwise from JSON.
        draft.manifest.update(trial=3, rows={1: "a", 10: "b", 2: (1.5, None)})


class ArtifactStoreContract(abc.ABC):
    """The tests."""

    @abc.abstractmethod
    def make(self, place: Path, machine: str = "one") -> ArtifactStore:
        """Return a store as a machine sees it; all machines of one place see the same artifacts."""

    @abc.abstractmethod
    def damage(self, store: ArtifactStore, key: str, name: str, content: bytes | None) -> None:
        """Change a file of an artifact where the store keeps it; None: delete it."""

    tick_s = 0.02
    """Two things that are so far apart have different times in the store."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        return tmp_path

    @pytest.fixture
    def store(self, place: Path) -> ArtifactStore:
        return self.make(place)

    @pytest.fixture
    def elsewhere(self, place: Path) -> ArtifactStore:
        return self.make(place, "two")

    # --- one maker --------------------------------------------------------------------------------

    def test_nothing_is_there_before_the_end_and_all_after_it(
        self, store: ArtifactStore, elsewhere: ArtifactStore
    ) -> None:
        assert store.find(KEY) is None
        with store.create(KEY, "checkpoint") as draft:
            draft.write_json("scores.json", {"gsm8k": 0.5, "name": "größe"})
            draft.file("empty").touch()
            draft.manifest["trial"] = 3
            assert store.find(KEY) is None
            assert elsewhere.find(KEY) is None
        for seen in (store, elsewhere):
            artifact = seen.get(KEY)
            assert (artifact.key, artifact.kind) == (KEY, "checkpoint")
            assert artifact.manifest == {"trial": 3}
            assert artifact.read_json("scores.json") == {"gsm8k": 0.5, "name": "größe"}
            size = artifact.file("scores.json").stat().st_size
            assert artifact.total_bytes == size
            assert artifact.file("empty").read_bytes() == b""
            assert artifact.created_at.tzinfo is not None
            assert (artifact.has("empty"), artifact.has("other")) == (True, False)

    def test_what_its_maker_noted_comes_back_as_json_has_it(self, store: ArtifactStore) -> None:
        write(store)
        rows = {"1": "a", "10": "b", "2": [1.5, None]}
        assert store.get(KEY).manifest == {"trial": 3, "rows": rows}

    def test_all_lists_complete_artifacts_by_kind(self, store: ArtifactStore) -> None:
        write(store)
        with store.create(OTHER, "scores"):
            pass
        assert [artifact.key for artifact in store.all()] == [KEY, OTHER]
        assert [artifact.key for artifact in store.all("scores")] == [OTHER]
        assert store.all_keys() == [KEY, OTHER]

    def test_an_exception_in_the_block_leaves_nothing_to_be_found(
        self, store: ArtifactStore
    ) -> None:
        def die_half_way() -> None:
            with store.create(KEY, "checkpoint") as draft:
                draft.file("half.bin").write_bytes(b"x" * 1000)
                raise RuntimeError("worker died")

        with pytest.raises(RuntimeError, match="worker died"):
            die_half_way()
        assert store.find(KEY) is None
        assert store.all_keys() == []

    def test_remove_deletes_and_says_whether_there_was_something(
        self, store: ArtifactStore, elsewhere: ArtifactStore
    ) -> None:
        write(store)
        assert elsewhere.get(KEY).folder().is_dir()
        assert store.remove(KEY) is True
        assert store.find(KEY) is None
        assert elsewhere.find(KEY) is None
        assert store.remove(KEY) is False

    # --- removal of what nobody uses --------------------------------------------------------------

    def later(self) -> float:
        """Return a moment after all that was done and before all that will be."""
        time.sleep(self.tick_s)
        moment = time.time()
        time.sleep(self.tick_s)
        return moment

    def test_what_nobody_used_since_expires(
        self, store: ArtifactStore, elsewhere: ArtifactStore
    ) -> None:
        before = self.later()
        write(store)
        made = store.last_use(KEY)
        assert made is not None
        assert elsewhere.expire(KEY, before) is False
        after = self.later()
        # To look is no use.
        assert store.look(KEY) is not None
        assert [artifact.key for artifact in store.all()] == [KEY]
        assert store.verify(KEY, in_use=False).key == KEY
        assert store.last_use(KEY) == made
        assert elsewhere.expire(KEY, after) is True
        for seen in (store, elsewhere):
            assert seen.find(KEY) is None
            assert seen.last_use(KEY) is None
            assert seen.all_keys() == []
        assert store.expire(KEY, self.later()) is False
        write(store, text="anew")
        assert elsewhere.get(KEY).file("deep/er/weights.txt").read_text() == "anew"

    @pytest.mark.parametrize("use", ["find", "verify", "find_complete", "create"])
    def test_what_is_found_or_put_again_stays(
        self, store: ArtifactStore, elsewhere: ArtifactStore, use: str
    ) -> None:
        write(store)
        unused_since = self.later()
        if use == "create":
            write(elsewhere, text="again")
        else:
            getattr(elsewhere, use)(KEY)
        assert store.expire(KEY, unused_since) is False
        assert elsewhere.get(KEY).file("deep/er/weights.txt").read_text() == "hello"
        assert store.verify(KEY, remembered=False).verified

    def test_what_an_artifact_refers_to_is_used_with_it(self, store: ArtifactStore) -> None:
        write(store)
        with store.create(OTHER, "summary") as draft:
            draft.references[KEY] = store.get(KEY).digest
        unused_since = self.later()
        assert store.find_complete(OTHER) is not None
        assert store.expire(KEY, unused_since) is False

    def test_a_missing_file_is_named_with_what_is_there(self, store: ArtifactStore) -> None:
        write(store)
        said = r"no 'scores\.json'; it has: config\.json, deep/er/weights\.txt"
        with pytest.raises(StorageError, match=said):
            store.get(KEY).read_json("scores.json")

    def test_a_missing_artifact_is_told_with_the_next_step(self, store: ArtifactStore) -> None:
        with pytest.raises(StorageError, match="materialize it again"):
            store.get(KEY)
        with pytest.raises(StorageError, match="materialize it again") as refused:
            store.verify(KEY)
        assert not isinstance(refused.value, DamagedArtifactError)

    @pytest.mark.parametrize("key", ["", "abc", "../" + "a" * 61, "AB" + "0" * 62])
    def test_a_key_is_a_sha256(self, store: ArtifactStore, key: str) -> None:
        with pytest.raises(ValueError, match="sha256"):
            store.find(key)

    def test_links_within_an_artifact_stay_links(
        self, store: ArtifactStore, elsewhere: ArtifactStore
    ) -> None:
        with store.create(KEY, "checkpoint") as draft:
            draft.file("a").write_text("a")
            draft.file("latest").symlink_to("a")
        folder = elsewhere.get(KEY).folder()
        assert (folder / "latest").is_symlink()
        assert (folder / "latest").read_text() == "a"

    # --- several ----------------------------------------------------------------------------------

    def test_the_second_maker_of_a_key_is_dropped_silently(
        self, store: ArtifactStore, elsewhere: ArtifactStore
    ) -> None:
        with store.create(KEY, "checkpoint") as slow:
            slow.file("weights.txt").write_text("second")
            with elsewhere.create(KEY, "checkpoint") as fast:
                fast.file("weights.txt").write_text("first")
        for seen in (store, elsewhere):
            assert seen.get(KEY).file("weights.txt").read_text() == "first"

    def test_of_racing_makers_one_wins_with_all_its_files(self, place: Path) -> None:
        stores = [self.make(place, f"machine-{number}") for number in range(4)]
        start = threading.Barrier(len(stores))

        def make(number: int) -> None:
            with stores[number].create(KEY, "checkpoint") as draft:
                for part in range(5):
                    draft.file(f"part{part}").write_text(str(number))
                start.wait(30)

        threads = [threading.Thread(target=make, args=(n,)) for n in range(len(stores))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        seen = [store.get(KEY) for store in stores]
        texts = {a.file(f"part{part}").read_text() for a in seen for part in range(5)}
        assert len(texts) == 1
        assert all(store.verify(KEY).verified for store in stores)

    def test_a_turn_is_held_by_one_among_all_machines(
        self, store: ArtifactStore, elsewhere: ArtifactStore
    ) -> None:
        waited: list[str] = []
        order: list[str] = []

        def second() -> None:
            with elsewhere.turn(KEY, on_wait=lambda: waited.append("second"), timeout_s=60):
                order.append("second")

        with store.turn(KEY):
            thread = threading.Thread(target=second)
            thread.start()
            thread.join(3)
            with elsewhere.turn(OTHER, timeout_s=10):
                order.append("another key")
            order.append("first")
        thread.join(60)
        assert order == ["another key", "first", "second"]
        assert waited == ["second"]

    def test_a_turn_that_does_not_come_is_an_error(
        self, store: ArtifactStore, elsewhere: ArtifactStore
    ) -> None:
        refused = pytest.raises(StorageError, match="has been making")
        with store.turn(KEY), refused, elsewhere.turn(KEY, timeout_s=0.2):
            pass

    # --- damage -----------------------------------------------------------------------------------

    def test_a_whole_artifact_is_verified(self, store: ArtifactStore) -> None:
        write(store)
        assert store.get(KEY).verified is False
        assert store.verify(KEY).verified is True
        assert store.verify(KEY, remembered=False).verified is True

    def test_the_digest_is_that_of_the_files_whatever_the_key(self, store: ArtifactStore) -> None:
        write(store)
        write(store, OTHER)
        assert store.get(KEY).digest == store.get(OTHER).digest is not None
        store.remove(OTHER)
        write(store, OTHER, text="other")
        assert store.get(KEY).digest != store.get(OTHER).digest

    @pytest.mark.parametrize("content", [None, b"longer than before", b"hallo"])
    def test_what_is_damaged_is_put_aside_and_made_anew(
        self, store: ArtifactStore, content: bytes | None
    ) -> None:
        write(store)
        self.damage(store, KEY, "deep/er/weights.txt", content)
        said = r"checkpoint artifact ab0000000000… .*deep/er/weights\.txt.*run again"
        with pytest.raises(DamagedArtifactError, match=said):
            store.verify(KEY, remembered=False)
        assert store.find(KEY) is None
        (aside,) = store.quarantined()
        assert (aside.key, aside.kind) == (KEY, "checkpoint")
        assert "deep/er/weights.txt" in aside.damage[0]
        write(store, text="new")
        assert store.get(KEY).file("deep/er/weights.txt").read_text() == "new"
        assert store.verify(KEY).verified

    def test_what_is_damaged_goes_on_naming_what_it_named(self, store: ArtifactStore) -> None:
        write(store, **{OTHER: "its digest"})
        self.damage(store, KEY, "deep/er/weights.txt", b"longer than before")
        for _ in range(2):
            (left,) = store.remains(KEY)
            assert left.kind == "checkpoint"
            assert OTHER in left.text
            # Put aside.
            with pytest.raises(StorageError):
                store.verify(KEY)
        assert store.remains(OTHER) == []

    def test_no_other_machine_reads_what_is_damaged(
        self, store: ArtifactStore, elsewhere: ArtifactStore
    ) -> None:
        write(store)
        self.damage(store, KEY, "deep/er/weights.txt", b"hallo")
        with pytest.raises(DamagedArtifactError):
            elsewhere.verify(KEY, remembered=False).folder()
        assert elsewhere.find(KEY) is None

    # --- references -------------------------------------------------------------------------------

    def test_an_artifact_is_complete_only_with_what_it_refers_to(
        self, store: ArtifactStore
    ) -> None:
        write(store)
        digest = store.get(KEY).digest
        with store.create(OTHER, "summary") as draft:
            draft.references[KEY] = digest
        assert store.get(OTHER).references == {KEY: digest}
        assert store.find_complete(OTHER) is not None
        store.remove(KEY)
        assert store.find(OTHER) is not None
        assert store.find_complete(OTHER) is None
        # Made anew with another content, it is not what the summary is about.
        write(store, text="other")
        assert store.find_complete(OTHER) is None

    def test_an_artifact_that_lacks_what_it_refers_to_is_replaced(
        self, store: ArtifactStore, elsewhere: ArtifactStore
    ) -> None:
        with store.create(OTHER, "summary") as draft:
            draft.references[KEY] = None
            draft.write_json("says", "old")
        assert elsewhere.get(OTHER).read_json("says") == "old"
        with store.create(OTHER, "summary") as draft:
            draft.write_json("says", "new")
        for seen in (store, elsewhere):
            assert seen.get(OTHER).read_json("says") == "new"

    def test_a_reference_leads_to_the_files_on_every_machine(
        self, store: ArtifactStore, elsewhere: ArtifactStore
    ) -> None:
        write(store)
        reference = Reference.model_validate_json(store.get(KEY).reference.model_dump_json())
        folder = elsewhere.local(reference)
        assert (folder / "deep/er/weights.txt").read_text() == "hello"

    def test_what_lies_beside_the_store_is_shared_with_every_machine(
        self, store: ArtifactStore, elsewhere: ArtifactStore, tmp_path: Path
    ) -> None:
        tree = tmp_path / "tasks"
        (tree / "sub").mkdir(parents=True)
        (tree / "sub" / "task.yaml").write_text("task: a")
        (tree / "rows.jsonl").write_text("{}\n")
        folder = store.share(Reference.to(tree, "tree", "tasks"))
        file = store.share(Reference.to(tree / "rows.jsonl", "file", "rows"))
        # However often.
        assert store.share(Reference.to(tree, "tree", "tasks")) == folder
        assert (store.local(folder) / "sub" / "task.yaml").read_text() == "task: a"
        assert (elsewhere.local(folder) / "sub" / "task.yaml").read_text() == "task: a"
        assert elsewhere.local(file).read_text() == "{}\n"
        assert (folder.what, file.what) == ("tasks", "rows")


class SharesByCopy(ArtifactStoreContract):
    """For stores that copy what they share, so that it cannot change any more."""

    def test_what_changed_before_it_is_shared_is_refused(
        self, store: ArtifactStore, tmp_path: Path
    ) -> None:
        file = tmp_path / "rows.jsonl"
        file.write_text("{}\n")
        reference = Reference.to(file, "file", "calibration data")
        file.write_text("[]\n")
        with pytest.raises(ChangedInputError, match=r"calibration data .* changed"):
            store.share(reference)
        assert store.all_keys() == []

    def test_what_is_shared_stays_as_it_was(
        self, store: ArtifactStore, elsewhere: ArtifactStore, tmp_path: Path
    ) -> None:
        file = tmp_path / "rows.jsonl"
        file.write_text("{}\n")
        reference = store.share(Reference.to(file, "file", "calibration data"))
        file.write_text("[]\n")
        assert store.local(reference).read_text() == "{}\n"
        assert elsewhere.local(reference).read_text() == "{}\n"
