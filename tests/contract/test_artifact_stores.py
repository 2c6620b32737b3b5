"""The stores that ship: a folder, a bucket in this process's memory, and a real S3 server."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from obstore.exceptions import GenericError
from obstore.store import MemoryStore

from demo.s3 import S3Server
from optikit_assets.artifacts import (
    ArtifactStore,
    LocalStore,
    ObjectStore,
    Reference,
    open_store,
)
from optikit_assets.artifacts import bucket_marks as marks
from optikit_assets.artifacts import bucket_turns as turns
from optikit_assets.artifacts import bucket_uploads as uploads
from optikit_assets.artifacts.bucket_damage import put_aside
from optikit_assets.artifacts.bucket_layout import manifest_of, object_of
from optikit_assets.artifacts.cache import ArtifactCache
from optikit_assets.artifacts.manifest import Entry, Manifest, parse_manifest
from optikit_assets.bucket import Bucket, Listed
from optikit_assets.errors import (
    ChangedInputError,
    DamagedArtifactError,
    StorageError,
    UnknownNameError,
)
from tests.contract.artifact_store import (
    KEY,
    OTHER,
    ArtifactStoreContract,
    SharesByCopy,
    write,
)

_BUCKETS: dict[Path, MemoryStore] = {}


def objects_of(key: str, store: ObjectStore) -> list[str]:
    return sorted(item.name for item in store.bucket.list(f"artifacts/{key[:2]}/{key}/"))


def all_objects(store: ObjectStore) -> list[str]:
    return sorted(item.name for folder in ("artifacts", "uploads", "turns") for item in
                  store.bucket.list(f"{folder}/"))  # fmt: skip


class TestLocalStore(ArtifactStoreContract):
    def make(self, place: Path, machine: str = "one") -> LocalStore:
        return LocalStore(place / "artifacts")

    def test_what_is_found_while_a_removal_decides_stays(
        self, store: LocalStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(store)
        unused_since = self.later()
        gone: list[bool] = []
        removal = threading.Thread(target=lambda: gone.append(store.expire(KEY, unused_since)))
        real = LocalStore._mark

        def mark(finder: LocalStore, key: str) -> None:
            # It was looked at and is about to be handed out.
            removal.start()
            removal.join(0.2)
            assert gone == []
            real(finder, key)

        monkeypatch.setattr(LocalStore, "_mark", mark)
        found = store.find(KEY)
        removal.join(30)
        assert gone == [False]
        assert found is not None
        assert found.file("deep/er/weights.txt").read_text() == "hello"

    def test_a_removal_that_was_killed_leaves_a_draft_that_is_swept(
        self, store: LocalStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(store)
        with monkeypatch.context() as patched:
            patched.setattr(shutil, "rmtree", lambda *_, **__: None)
            assert store.expire(KEY, self.later()) is True
        assert store.find(KEY) is None
        assert store.all_keys() == []
        assert len(store.sweep_staging(older_than_s=-5.0)) == 1
        assert list((store.root / "staging").iterdir()) == []

    def damage(self, store: ArtifactStore, key: str, name: str, content: bytes | None) -> None:
        file = store.get(key).file(name)
        before = file.stat()
        if content is None:
            file.unlink()
            return
        file.write_bytes(content)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


class InBucket(SharesByCopy):
    """What every bucket has."""

    @pytest.fixture(autouse=True)
    def each_use_is_marked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(marks, "MARK_S", 0.0)
        monkeypatch.setattr(marks, "_TOLERANCE_S", 0.0)
        monkeypatch.setattr(uploads, "_POLL_S", 0.05)

    def interrupted(self, monkeypatch: pytest.MonkeyPatch, do: Callable[[str], object]) -> None:
        """Do something once while an artifact is removed, before the first of its objects goes."""
        real = Bucket.delete
        done: list[str] = []

        def delete(bucket: Bucket, *names: str) -> None:
            if names[0].startswith("artifacts/") and not done:
                done.append(names[0])
                do(names[0])
            real(bucket, *names)

        monkeypatch.setattr(Bucket, "delete", delete)

    def test_what_is_found_while_a_removal_decides_stays(
        self, store: ObjectStore, elsewhere: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(store)
        unused_since = self.later()
        real = Bucket.replace

        def replace(bucket: Bucket, name: str, content: bytes, tag: str) -> str | None:
            if content == b"":
                monkeypatch.setattr(Bucket, "replace", real)
                assert elsewhere.find(KEY) is not None
            return real(bucket, name, content, tag)

        monkeypatch.setattr(Bucket, "replace", replace)
        assert store.expire(KEY, unused_since) is False
        assert elsewhere.verify(KEY, remembered=False).verified
        assert all_objects(store) == objects_of(KEY, store)

    def test_what_is_put_again_while_it_is_removed_is_whole(
        self, store: ObjectStore, elsewhere: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(store)
        maker = threading.Thread(target=write, args=(elsewhere,))
        begun: list[bool] = []

        def begin(name: str) -> None:
            assert elsewhere.find(KEY) is None
            maker.start()
            maker.join(0.3)
            begun.append(maker.is_alive())

        self.interrupted(monkeypatch, begin)
        assert store.expire(KEY, self.later()) is True
        maker.join(30)
        assert begun == [True]
        assert store.verify(KEY, remembered=False).verified
        assert all_objects(store) == objects_of(KEY, store)

    def test_a_delete_that_comes_late_hits_nothing_that_is_found_afterwards(
        self, store: ObjectStore, elsewhere: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(uploads, "EXPIRED_S", 0.2)
        write(store)
        file = object_of(KEY, store.get(KEY).entries["config.json"])
        unused_since = self.later()
        real = Bucket.delete
        late: list[str] = []

        def delete(bucket: Bucket, *names: str) -> None:
            if names == (file,) and not late:
                late.append(file)
                # The request hangs, until somebody else has made the artifact anew.
                write(elsewhere)
                assert elsewhere.verify(KEY, remembered=False).verified
            real(bucket, *names)

        monkeypatch.setattr(Bucket, "delete", delete)
        with pytest.raises(DamagedArtifactError, match=r"config\.json is missing"):
            store.expire(KEY, unused_since)
        assert late
        assert elsewhere.find(KEY) is None
        write(elsewhere, text="anew")
        assert store.verify(KEY, remembered=False).verified

    def test_who_took_over_mends_what_a_late_delete_took_before_the_end(
        self, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(uploads, "EXPIRED_S", 0.0)
        store.bucket.create(f"uploads/{KEY}.removal-1", b"{}")
        real = Bucket.create

        def create(bucket: Bucket, name: str, content: bytes) -> str | None:
            tag = real(bucket, name, content)
            if name == manifest_of(KEY):
                entries = parse_manifest(content.decode(), KEY).entries  # type: ignore[union-attr]
                bucket.delete(object_of(KEY, entries["config.json"]))
            return tag

        monkeypatch.setattr(Bucket, "create", create)
        write(store)
        assert store.verify(KEY, remembered=False).verified

    def test_a_removal_gives_way_to_an_upload(self, store: ObjectStore) -> None:
        write(store)
        assert store.bucket.create(f"uploads/{KEY}.0123", b"{}") is not None
        assert store.expire(KEY, self.later()) is False
        assert store.verify(KEY, remembered=False).verified
        assert all_objects(store)[-1] == f"uploads/{KEY}.0123"

    def test_a_removal_that_was_killed_leaves_nothing_to_be_found_and_is_swept(
        self, store: ObjectStore, elsewhere: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(store)

        def die(name: str) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            self.interrupted(patched, die)
            with pytest.raises(KeyboardInterrupt):
                store.expire(KEY, self.later())
        for seen in (store, elsewhere):
            assert seen.find(KEY) is None
            assert seen.all_keys() == []
        # Who makes it anew waits for the dead no longer than a minute.
        monkeypatch.setattr(uploads, "EXPIRED_S", 0.2)
        write(elsewhere)
        assert store.verify(KEY, remembered=False).verified
        assert all_objects(store) == objects_of(KEY, store)

    def test_what_a_killed_removal_left_is_swept_after_a_day(
        self, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(store)

        def die(name: str) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            self.interrupted(patched, die)
            with pytest.raises(KeyboardInterrupt):
                store.expire(KEY, self.later())
        monkeypatch.setattr("optikit_assets.artifacts.objects._ABANDONED_S", -5.0)
        assert len(store.sweep_staging(older_than_s=-5.0)) == 1
        # An empty object in the place of the manifest stays, for whoever makes it anew.
        (left,) = all_objects(store)
        assert store.bucket.size(left) == 0

    def test_a_use_is_marked_without_a_change_of_the_artifact(self, store: ObjectStore) -> None:
        write(store)
        before = store.get(KEY)
        for _ in range(3):
            assert store.get(KEY).digest == before.digest
        assert store.get(KEY).manifest == before.manifest

    @pytest.mark.parametrize(
        "said", ["403 Forbidden", "405 Not Allowed", "507 Insufficient Storage"]
    )
    def test_who_cannot_write_finds_what_is_there_and_does_not_ask_each_time(
        self,
        store: ObjectStore,
        elsewhere: ObjectStore,
        monkeypatch: pytest.MonkeyPatch,
        said: str,
    ) -> None:
        write(store)
        asked: list[str] = []
        real = Bucket.replace

        def refused(bucket: Bucket, name: str, content: bytes, tag: str) -> str | None:
            asked.append(name)
            raise StorageError("cannot write") from GenericError(said)

        monkeypatch.setattr(Bucket, "replace", refused)
        assert all(elsewhere.find(KEY) is not None for _ in range(5))
        assert len(asked) == 1
        # Another one may, and after a while it is tried again.
        monkeypatch.setattr(Bucket, "replace", real)
        monkeypatch.setattr(marks, "_REFUSED_S", 0.0)
        used = self.later()
        assert elsewhere.find(KEY) is not None
        assert store.expire(KEY, used) is False

    def damage(self, store: ArtifactStore, key: str, name: str, content: bytes | None) -> None:
        assert isinstance(store, ObjectStore)
        entry: Entry = store.get(key).entries[name]
        place = f"artifacts/{key[:2]}/{key}/files/{entry.sha256}"
        store.bucket.delete(place)
        if content is not None:
            assert store.bucket.create(place, content) is not None

    @pytest.mark.parametrize("content", [None, b"short", b"hallo"])
    def test_damage_is_found_where_it_is_read(
        self, store: ObjectStore, elsewhere: ObjectStore, content: bytes | None
    ) -> None:
        write(store)
        self.damage(store, KEY, "deep/er/weights.txt", content)
        with pytest.raises(DamagedArtifactError, match=r"deep/er/weights\.txt.*put aside to"):
            elsewhere.get(KEY).folder()
        assert elsewhere.find(KEY) is None
        assert elsewhere.all_keys() == []
        write(elsewhere, text="anew")
        # Whoever saw the damage as well, and comes late, takes nothing away.
        with pytest.raises(DamagedArtifactError, match="by another machine"):
            raise put_aside(store.bucket, KEY, None, b"an older manifest", {"weights": "gone"})
        assert store.get(KEY).file("deep/er/weights.txt").read_text() == "anew"
        assert len(store.quarantined()) == 1

    def test_a_source_that_changes_while_it_is_read_where_it_lies_is_refused(
        self, store: ObjectStore, elsewhere: ObjectStore, tmp_path: Path
    ) -> None:
        file = tmp_path / "rows.jsonl"
        file.write_text("{}\n")
        reference = store.share(Reference.to(file, "file", "calibration data"))
        assert store.local(reference) == file
        assert elsewhere.local(reference) != file
        store.check([reference])
        file.write_text("[]\n")
        with pytest.raises(ChangedInputError, match=r"calibration data .* changed"):
            store.check([reference])
        # Who read a copy read what was shared.
        elsewhere.check([reference])

    def test_the_same_content_under_another_name_is_found_under_that(
        self, store: ObjectStore, elsewhere: ObjectStore, tmp_path: Path
    ) -> None:
        for name in ("rows.jsonl", "other.jsonl"):
            (tmp_path / name).write_text("{}\n")
            reference = store.share(Reference.to(tmp_path / name, "file", "rows"))
            assert elsewhere.local(reference).name == name
            assert elsewhere.local(reference).read_text() == "{}\n"

    def test_an_upload_leaves_its_artifact_alone(self, store: ObjectStore) -> None:
        write(store)
        assert [name.split("/")[3] for name in objects_of(KEY, store)] == [
            *("files", "files"),
            "manifest.json",
        ]
        assert all_objects(store) == objects_of(KEY, store)

    def test_what_a_loser_sent_is_removed(
        self, store: ObjectStore, elsewhere: ArtifactStore
    ) -> None:
        with store.create(KEY, "checkpoint") as slow:
            slow.file("weights.txt").write_text("second")
            with elsewhere.create(KEY, "checkpoint") as fast:
                fast.file("weights.txt").write_text("first")
        assert len(objects_of(KEY, store)) == 2

    def test_an_upload_that_broke_off_is_not_seen_goes_on_and_is_swept(
        self, store: ObjectStore, elsewhere: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent: list[str] = []
        real = Bucket.put_file

        def send(bucket: Bucket, name: str, path: Path) -> None:
            if len(sent) == 2:
                raise StorageError("the connection broke")
            sent.append(name)
            real(bucket, name, path)

        def make(text: str = "same") -> None:
            with store.create(KEY, "checkpoint") as draft:
                for number in range(6):
                    draft.file(f"part{number}").write_text(f"{text} {number}")

        monkeypatch.setattr(Bucket, "put_file", send)
        with pytest.raises(StorageError, match="broke"):
            make()
        assert elsewhere.find(KEY) is None
        assert elsewhere.all_keys() == []
        assert elsewhere.sweep_staging(older_than_s=0) == []
        first = set(sent)

        def send_rest(bucket: Bucket, name: str, path: Path) -> None:
            sent.append(name)
            real(bucket, name, path)

        monkeypatch.setattr(Bucket, "put_file", send_rest)
        make()
        # What was there was not sent again.
        assert len(sent) == len(set(sent)) == 6
        assert first < set(sent)
        assert elsewhere.verify(KEY).verified

    def test_what_nobody_goes_on_with_is_swept_after_a_day(
        self, store: ObjectStore, elsewhere: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(store)

        def die(bucket: Bucket, name: str, content: bytes) -> str | None:
            if name.endswith("manifest.json"):
                raise StorageError("killed")
            return real(bucket, name, content)

        real = Bucket.create
        monkeypatch.setattr(Bucket, "create", die)
        with pytest.raises(StorageError, match="killed"):
            write(store, OTHER)
        monkeypatch.undo()
        assert len(objects_of(OTHER, store)) == 2
        assert elsewhere.sweep_staging(older_than_s=0) == []
        monkeypatch.setattr("optikit_assets.artifacts.objects._ABANDONED_S", -5.0)
        (swept,) = elsewhere.sweep_staging(older_than_s=-5.0)
        assert swept.startswith(f"uploads/{OTHER}.")
        assert all_objects(store) == objects_of(KEY, store)
        assert store.verify(KEY).verified

    def leave_broken(self, store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
        """Begin an upload that dies, and let the day pass after which it is swept."""
        with monkeypatch.context() as patched:
            patched.setattr(uploads.Uploads, "_commit", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                write(store)
        self.later()
        monkeypatch.setattr("optikit_assets.artifacts.objects._ABANDONED_S", 0.0)

    def test_a_sweep_gives_way_to_an_upload_that_goes_on_after_it_has_listed(
        self, store: ObjectStore, elsewhere: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.leave_broken(store, monkeypatch)
        maker = threading.Thread(target=write, args=(store,))
        sent, swept = threading.Event(), threading.Event()
        listed, commit = elsewhere.bucket.list, uploads.Uploads._commit

        def commit_after_the_sweep(upload: uploads.Uploads, manifest: Manifest) -> bool:
            sent.set()
            assert swept.wait(30)
            return commit(upload, manifest)

        def list_before(prefix: str, after: str | None = None) -> Iterator[Listed]:
            found = list(listed(prefix, after))
            # When the sweep asks for the time, it has looked at what there is.
            if any(".now." in item.name for item in found) and not sent.is_set():
                self.later()
                maker.start()
                assert sent.wait(30)
            return iter(found)

        monkeypatch.setattr(uploads.Uploads, "_commit", commit_after_the_sweep)
        monkeypatch.setattr(elsewhere.bucket, "list", list_before)
        gone = elsewhere.sweep_staging(older_than_s=0)
        swept.set()
        maker.join(30)
        assert elsewhere.verify(KEY, remembered=False).verified
        assert gone == []
        monkeypatch.undo()
        # What died is swept the next time, and nothing of what was made.
        monkeypatch.setattr("optikit_assets.artifacts.objects._ABANDONED_S", -5.0)
        assert len(elsewhere.sweep_staging(older_than_s=-5.0)) == 1
        assert elsewhere.verify(KEY, remembered=False).verified
        assert all_objects(store) == objects_of(KEY, store)

    def test_an_upload_waits_for_a_sweep_and_counts_on_nothing_that_it_takes(
        self, store: ObjectStore, elsewhere: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.leave_broken(store, monkeypatch)
        maker = threading.Thread(target=write, args=(store,))
        waited: list[bool] = []

        def begin(name: str) -> None:
            maker.start()
            maker.join(0.3)
            waited.append(maker.is_alive())

        self.interrupted(monkeypatch, begin)
        assert len(elsewhere.sweep_staging(older_than_s=0)) == 1
        maker.join(30)
        assert waited == [True]
        assert elsewhere.verify(KEY, remembered=False).verified
        assert all_objects(store) == objects_of(KEY, store)

    def test_a_turn_whose_holder_died_is_taken_over_by_one(self, store: ObjectStore) -> None:
        assert store.bucket.create("turns/dead", b'{"owner": "gone"}') is not None
        inside: list[int] = []
        most = 0

        def wait() -> None:
            nonlocal most
            with turns.bucket_turn(
                store.bucket, "turns/dead", on_wait=lambda: None, timeout_s=60, renew_s=0.2,
                expired_s=1.5,
            ):  # fmt: skip
                inside.append(1)
                most = max(most, len(inside))
                threading.Event().wait(0.1)
                inside.pop()

        threads = [threading.Thread(target=wait) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert most == 1
        assert all_objects(store) == []

    def test_a_turn_of_a_living_holder_is_never_taken_over(self, store: ObjectStore) -> None:
        how = {"on_wait": lambda: None, "renew_s": 0.2, "expired_s": 1.0}
        with turns.bucket_turn(store.bucket, "turns/held", timeout_s=10, **how):
            refused = pytest.raises(StorageError, match="another process has been making")
            with refused, turns.bucket_turn(store.bucket, "turns/held", timeout_s=3, **how):
                pass


class TestMemory(InBucket):
    def make(self, place: Path, machine: str = "one") -> ObjectStore:
        bucket = Bucket(f"memory://{place.name}", _BUCKETS.setdefault(place, MemoryStore()))
        return ObjectStore(bucket, ArtifactCache(place / machine / "cache"))

    # --- the cache --------------------------------------------------------------------------------

    def test_an_artifact_is_fetched_once(
        self, store: ObjectStore, elsewhere: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(store)
        fetched: list[str] = []
        real = Bucket.fetch

        def fetch(bucket: Bucket, name: str, size: int, to: Path) -> str:
            fetched.append(name)
            return real(bucket, name, size, to)

        monkeypatch.setattr(Bucket, "fetch", fetch)
        folders = {elsewhere.get(KEY).folder() for _ in range(3)}
        assert len(folders) == 1
        assert len(fetched) == 2
        # Who made it has it.
        assert store.get(KEY).folder().is_dir()
        assert len(fetched) == 2

    def test_what_a_disk_changed_in_the_cache_is_fetched_again(
        self, store: ObjectStore, elsewhere: ObjectStore
    ) -> None:
        write(store)
        (elsewhere.get(KEY).folder() / "config.json").write_text("[]")
        assert elsewhere.get(KEY).file("config.json").read_text() == "{}"
        assert store.quarantined() == []

    def test_an_artifact_that_was_made_anew_replaces_its_copies(
        self, store: ObjectStore, elsewhere: ObjectStore
    ) -> None:
        write(store)
        assert elsewhere.get(KEY).file("deep/er/weights.txt").read_text() == "hello"
        store.remove(KEY)
        write(store, text="anew")
        assert elsewhere.get(KEY).file("deep/er/weights.txt").read_text() == "anew"

    def test_one_small_file_of_a_large_artifact_is_fetched_alone(
        self, store: ObjectStore, elsewhere: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write(store)
        monkeypatch.setattr("optikit_assets.artifacts.cache._SMALL", 0)
        assert elsewhere.get(KEY).file("config.json").read_text() == "{}"
        assert elsewhere.cache.store.find(KEY) is None
        assert elsewhere.get(KEY).file("config.json").read_text() == "{}"

    def test_a_source_is_read_where_it_lies_on_its_own_machine(
        self, store: ObjectStore, tmp_path: Path
    ) -> None:
        file = tmp_path / "rows.jsonl"
        file.write_text("{}\n")
        reference = store.share(Reference.to(file, "file", "rows"))
        assert store.local(reference) == file
        file.write_text("[]\n")
        assert store.local(reference) != file

    def test_the_cache_lets_go_of_what_was_not_used_for_longest(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("optikit_assets.artifacts.cache._SMALL", 0)
        bucket = Bucket("memory://bounded", MemoryStore())
        maker = ObjectStore(bucket, ArtifactCache(tmp_path / "maker"))
        keys = [f"{number:02x}" + "0" * 62 for number in range(5)]
        for key in keys:
            with maker.create(key, "checkpoint") as draft:
                draft.file("weights").write_bytes(b"x" * 1000)
        cache = ArtifactCache(tmp_path / "node", limit_bytes=3000)
        node = ObjectStore(bucket, cache)
        node.keep_here("served", [keys[0]])
        # Each use was that of a process that has ended.
        for key in keys:
            node.get(key).folder()
            os.close(cache._uses.pop(key))
        here = {artifact.key for artifact in cache.store.all()}
        assert here == {keys[0], keys[3], keys[4]}
        # What is in use stays, over the limit if it must.
        for key in keys[:4]:
            node.get(key).folder()
        assert {keys[1], keys[2], keys[3]} <= {artifact.key for artifact in cache.store.all()}

    def test_what_was_just_made_is_not_the_first_that_the_cache_lets_go_of(
        self, tmp_path: Path
    ) -> None:
        maker = ObjectStore(
            Bucket("memory://made", MemoryStore()),
            ArtifactCache(tmp_path / "maker", limit_bytes=3000),
        )
        used, *made = (f"{number:02x}" + "0" * 62 for number in range(4))
        for key in (used, *made):
            with maker.create(key, "checkpoint", 1000) as draft:
                draft.file("weights").write_bytes(b"x" * 1000)
            if key == used:
                maker.get(key).folder()
        assert {artifact.key for artifact in maker.cache.store.all()} == set(made)

    # --- the bucket -------------------------------------------------------------------------------

    def test_a_url_that_nobody_serves_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UnknownNameError, match="ftp"):
            open_store("ftp://host/place", tmp_path)
        with pytest.raises(StorageError, match="is no URL of an artifact store"):
            open_store("artifacts", tmp_path)
        with pytest.raises(StorageError, match="three slashes"):
            open_store("file://artifacts", tmp_path)


_MAKER = """
import sys
from pathlib import Path
from optikit_assets.artifacts import open_store
store = open_store(sys.argv[1], Path(sys.argv[2]))
for number in range(int(sys.argv[3])):
    key = f"{number:02x}" + "e" * 62
    with store.create(key, "result") as draft:
        draft.file("by").write_text(sys.argv[2])
"""


@pytest.mark.slow
class TestS3(InBucket):
    # Its times have whole seconds.
    tick_s = 1.1

    @pytest.fixture(autouse=True)
    def environment(self, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        open_store.cache_clear()

    def make(self, place: Path, machine: str = "one") -> ObjectStore:
        # Bucket names may not hold everything that names of tests do.
        prefix = f"{place.parent.name}-{place.name}"
        store = open_store(f"s3://optikit/{prefix}", place / machine)
        assert isinstance(store, ObjectStore)
        return store

    def test_large_files_go_in_parts_and_come_back_whole(
        self, store: ObjectStore, elsewhere: ObjectStore
    ) -> None:
        content = os.urandom(12 * 2**20)
        with store.create(KEY, "checkpoint") as draft:
            draft.file("weights.bin").write_bytes(content)
        assert elsewhere.get(KEY).file("weights.bin").read_bytes() == content

    def test_makers_on_many_machines_leave_one_winner_each(
        self, store: ObjectStore, place: Path
    ) -> None:
        keys = 10
        makers = [
            subprocess.Popen(
                [sys.executable, "-c", _MAKER, store.url, str(place / f"m{number}"), str(keys)]
            )
            for number in range(4)
        ]
        assert [maker.wait(120) for maker in makers] == [0] * len(makers)
        found = list(store.all())
        assert len(found) == keys
        assert all(store.verify(artifact.key, remembered=False).verified for artifact in found)
        assert len(all_objects(store)) == 2 * keys

    def test_wrong_credentials_are_told_in_a_line(
        self, store: ObjectStore, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        stranger = ObjectStore(Bucket(store.url), ArtifactCache(place / "stranger"))
        with pytest.raises(StorageError, match=r"no permission to .*check the credentials") as told:
            stranger.find(KEY)
        assert "\n" not in str(told.value)
