"""Fetching a model from a bucket in memory that changes meanwhile."""

from pathlib import Path

import obstore
import pytest
from obstore.store import MemoryStore

from optikit_assets.bucket import Bucket
from optikit_assets.errors import ModelError
from optikit_assets.sources import objects
from tests.on_disk import Watched

PLACE = "s3://bucket/qwen/v1"
FILES = ("config.json", "model.safetensors")


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    memory = MemoryStore()
    for name in FILES:
        obstore.put(memory, name, b"one")
    monkeypatch.setattr(objects, "Bucket", lambda url, patience_s: Bucket(url, memory))
    return memory


def revision(home: Path) -> str:
    found = objects.ObjectSource().revision(PLACE, home)
    assert found is not None
    return found


def fetch(home: Path, wanted: str) -> Path:
    return objects.ObjectSource().fetch(PLACE, wanted, home)


def test_an_object_that_is_replaced_while_it_is_fetched_leaves_nothing(
    tmp_path: Path, memory: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, fetched = revision(tmp_path), Bucket.fetch

    def replaced(bucket: Bucket, name: str, *how) -> str:
        obstore.put(memory, "model.safetensors", b"two")
        return fetched(bucket, name, *how)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Bucket, "fetch", replaced)
        with pytest.raises(ModelError, match="changed while it was fetched"):
            fetch(tmp_path, wanted)
    assert not list((tmp_path / "sources").glob("*.part"))
    folder = fetch(tmp_path, revision(tmp_path))
    assert (folder / "model.safetensors").read_bytes() == b"two"


def test_a_model_that_was_fetched_outlasts_a_loss_of_power(
    tmp_path: Path, memory: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch)
    assert watched.lasts(fetch(tmp_path, revision(tmp_path)))


def test_what_a_broken_fetch_left_is_looked_at_before_it_is_used(
    tmp_path: Path, memory: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, fetched = revision(tmp_path), Bucket.fetch

    def broken(bucket: Bucket, name: str, *how) -> str:
        if name == "model.safetensors":
            raise KeyboardInterrupt
        return fetched(bucket, name, *how)

    with monkeypatch.context() as first:
        first.setattr(Bucket, "fetch", broken)
        with pytest.raises(KeyboardInterrupt):
            fetch(tmp_path, wanted)
    (part,) = (tmp_path / "sources").glob("*.part")
    (part / "config.json").write_bytes(b"ons")
    assert (fetch(tmp_path, wanted) / "config.json").read_bytes() == b"one"


def test_hidden_objects_are_no_part_of_a_model(tmp_path: Path, memory: MemoryStore) -> None:
    before = revision(tmp_path)
    obstore.put(memory, ".digests.json", b"{}")
    assert revision(tmp_path) == before


def test_a_reference_with_credentials_is_refused_without_showing_them() -> None:
    with pytest.raises(ValueError, match="has no credentials") as refused:
        objects.ObjectSource().parse("s3://me:secret@bucket/qwen/v1")
    assert "secret" not in str(refused.value)
