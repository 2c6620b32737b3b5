"""How files go into a bucket."""

import os
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import MemoryStore

from optikit_assets.bucket import Bucket


@pytest.mark.parametrize(
    ("size", "parts"), [(5 * 2**30, 1024), (50_000 * 2**20, 10_000), (300 * 2**30 + 1, 10_000)]
)
def test_a_file_of_any_size_goes_in_as_many_parts_as_a_provider_takes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, size: int, parts: int
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(obstore, "put", lambda *_, **options: asked.append(options))
    file = tmp_path / "weights"
    file.touch()
    # Of its size alone: it takes no room.
    os.truncate(file, size)
    Bucket("memory://large", MemoryStore()).put_file("weights", file)
    (options,) = asked
    assert options["chunk_size"] >= 5 * 2**20
    assert -(-size // options["chunk_size"]) == parts


def test_a_file_comes_back_as_it_was_put(tmp_path: Path) -> None:
    bucket, file = Bucket("memory://small", MemoryStore()), tmp_path / "weights"
    for content in (b"", os.urandom(12 * 2**20)):
        file.write_bytes(content)
        bucket.put_file("weights", file)
        assert bucket.read("weights") is not None
        bucket.fetch("weights", len(content), tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == content
