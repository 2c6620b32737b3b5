"""What is proven of an artifact before it is used, and what becomes of one that is damaged."""

import json
import os
from pathlib import Path

import pytest

from optikit_assets.artifacts import LocalStore, file_digests
from optikit_assets.errors import DamagedArtifactError, MachineError, StorageError

KEY = "ab" + "0" * 62
OTHER = "cd" + "1" * 62


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "artifacts")


def write(store: LocalStore, key: str = KEY, text: str = "hello", **references: str) -> None:
    with store.create(key, "checkpoint") as draft:
        draft.file("deep/weights.bin").write_text(text)
        draft.file("config.json").write_text("{}")
        draft.references.update(references)
        # Numbers and fractions as keys and values come back otherwise from JSON.
        draft.manifest.update(rows={1: "a", 10: "b", 2: (1.5, None)})


def damage(store: LocalStore, text: str = "hallo") -> None:
    """Change the content of a file and leave its size and times as they were."""
    file = store.folder(KEY) / "deep/weights.bin"
    before = file.stat()
    file.write_text(text)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_change_that_keeps_the_size_is_found_and_the_artifact_is_put_aside(store):
    write(store)
    assert store.verify(KEY).verified
    damage(store)
    # A glance does not see it.
    assert store.find(KEY) is not None
    with pytest.raises(DamagedArtifactError) as refused:
        store.verify(KEY)
    assert isinstance(refused.value, StorageError)
    assert isinstance(refused.value, MachineError)
    message = str(refused.value)
    assert f"checkpoint artifact {KEY[:12]}… was damaged (deep/weights.bin: its digest" in message
    assert "run again" in message
    assert store.find(KEY) is None

    (aside,) = store.quarantined()
    assert aside.where in message
    place = Path(aside.where)
    assert place.parent == store.root / "quarantine"
    assert place.name.startswith(f"{KEY}.")
    assert (aside.key, aside.kind) == (KEY, "checkpoint")
    assert aside.damage[0].startswith("deep/weights.bin: its digest was ")
    assert (place / "deep/weights.bin").read_text() == "hallo"

    write(store)
    assert store.verify(KEY).verified
    assert [artifact.key for artifact in store.all()] == [KEY]
    damage(store)
    with pytest.raises(DamagedArtifactError):
        store.verify(KEY)
    assert len(store.quarantined()) == 2


def test_the_second_look_reads_nothing_unless_told_to(store, monkeypatch):
    monkeypatch.setattr(file_digests, "_SETTLED_S", 0.0)
    write(store)
    store.verify(KEY)
    read: list[str] = []
    real = file_digests.hashlib.file_digest

    def counted(stream, name):
        read.append(stream.name)
        return real(stream, name)

    monkeypatch.setattr(file_digests.hashlib, "file_digest", counted)
    assert store.verify(KEY).verified
    assert read == []
    assert store.verify(KEY, remembered=False).verified
    assert len(read) == 2


def test_an_artifact_of_an_earlier_release_is_read_and_stays_unproven(store):
    write(store)
    file = store.folder(KEY) / "manifest.json"
    content = json.loads(file.read_text())
    content["format"] = 1
    content["files"] = {name: entry["bytes"] for name, entry in content["files"].items()}
    del content["seal"], content["references"]
    file.write_text(json.dumps(content))
    artifact = store.verify(KEY)
    assert (artifact.verified, artifact.digest, artifact.references) == (False, None, {})
    assert artifact.total_bytes == len("hello") + len("{}")

    (store.folder(KEY) / "config.json").write_text("{ }")
    with pytest.raises(DamagedArtifactError, match=r"config\.json is missing or has another size"):
        store.verify(KEY)


# --- links --------------------------------------------------------------------------------------


def test_a_link_within_the_artifact_is_kept_and_proven_by_its_target(store):
    with store.create(KEY, "checkpoint") as draft:
        draft.file("a").write_text("a")
        draft.file("b").write_text("b")
        draft.file("latest").symlink_to("a")
    assert store.verify(KEY).verified
    link = store.folder(KEY) / "latest"
    link.unlink()
    link.symlink_to("b")
    assert store.find(KEY) is None
    with pytest.raises(DamagedArtifactError, match="latest is missing or has another"):
        store.verify(KEY)


@pytest.mark.parametrize("target", ["../../outside", "/etc/hostname", "nothing"])
def test_a_link_out_of_the_artifact_is_refused(store, target):
    def make() -> None:
        with store.create(KEY, "checkpoint") as draft:
            (store.root / "staging" / "outside").write_text("x")
            draft.file("linked").symlink_to(target)

    with pytest.raises(StorageError, match="outside of the artifact or to nothing; copy the file"):
        make()
    assert store.find(KEY) is None


# --- references ---------------------------------------------------------------------------------


def test_an_artifact_is_complete_only_with_what_it_refers_to(store):
    write(store)
    digest = store.get(KEY).digest
    with store.create(OTHER, "summary") as draft:
        draft.references[KEY] = digest
    assert store.get(OTHER).references == {KEY: digest}
    assert store.find_complete(OTHER) is not None

    damage(store)
    with pytest.raises(DamagedArtifactError):
        store.verify(KEY)
    assert store.find(OTHER) is not None
    assert store.find_complete(OTHER) is None

    # Made anew with another content, it is not what the summary is about.
    write(store, text="other")
    assert store.find_complete(OTHER) is None
    store.remove(KEY)
    write(store)
    assert store.find_complete(OTHER) is not None
