"""Of several makers of one artifact one makes it, and the others find it."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from optikit_assets.artifacts import LocalStore
from optikit_assets.artifacts.turns import turn
from optikit_assets.errors import StorageError

KEY = "a" * 64
HOLDER = """
import sys, time
from pathlib import Path
from optikit_assets.artifacts.turns import turn
with turn(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_threads_make_an_artifact_once(tmp_path: Path):
    store = LocalStore(tmp_path)
    made: list[int] = []

    def make(number: int) -> None:
        with turn(tmp_path, KEY):
            if store.find(KEY) is None:
                time.sleep(0.02)
                with store.create(KEY, "result") as draft:
                    draft.write_json("by.json", number)
                made.append(number)

    threads = [threading.Thread(target=make, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(made) == 1
    assert store.get(KEY).read_json("by.json") == made[0]
    assert list((tmp_path / "turns").iterdir()) == []


def test_turns_of_different_artifacts_do_not_wait(tmp_path: Path):
    with turn(tmp_path, KEY), turn(tmp_path, "b" * 64, timeout_s=0.1):
        assert len(list((tmp_path / "turns").iterdir())) == 2


def test_a_killed_holder_gives_its_turn_back_and_a_living_one_is_named(tmp_path: Path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path), KEY], stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        waited: list[str] = []
        with (
            pytest.raises(StorageError, match="another process has been making aaaaaaaaaaaa…"),
            turn(tmp_path, KEY, on_wait=lambda: waited.append("waits"), timeout_s=0.2),
        ):
            pass
        assert waited == ["waits"]
    finally:
        holder.kill()
        holder.wait(10)
        holder.stdout.close()  # type: ignore[union-attr]
    with turn(tmp_path, KEY, timeout_s=5):
        pass
