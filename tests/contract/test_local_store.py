"""What is true of the store in a folder alone: its disk, its drafts, and processes that die."""

import errno
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from optikit_assets.artifacts import LocalStore
from optikit_assets.disk import check_free_space, human_bytes
from optikit_assets.errors import DamagedArtifactError, StorageError

KEY = "ab" + "0" * 62
OTHER = "cd" + "1" * 62


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "artifacts")


def write(store: LocalStore, key: str = KEY, text: str = "hello") -> None:
    with store.create(key, "checkpoint") as draft:
        draft.file("deep/er/weights.txt").write_text(text)
        draft.manifest["trial"] = 3


def fill(store: LocalStore, size: int, key: str = KEY, needed_bytes: int | None = None) -> None:
    with store.create(key, "checkpoint", needed_bytes) as draft:
        for start in range(0, size, 100_000):
            draft.file(f"part{start}").write_bytes(b"x" * min(100_000, size - start))


def staging_of(store: LocalStore) -> list[Path]:
    return sorted((store.root / "staging").glob("*"))


def _race(root: Path, number: int, start) -> None:
    start.wait()
    with LocalStore(root).create(KEY, "checkpoint") as draft:
        for part in range(20):
            draft.file(f"part{part}").write_text(str(number))


@pytest.mark.slow
def test_racing_processes_leave_one_whole_artifact(store):
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(4)
    processes = [context.Process(target=_race, args=(store.root, n, start)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    artifact = store.get(KEY)
    writers = {artifact.file(f"part{part}").read_text() for part in range(20)}
    assert len(writers) == 1
    assert staging_of(store) == []


@pytest.mark.parametrize("damage", ["no manifest", "bad manifest", "short file", "missing file"])
def test_damaged_artifact_counts_as_absent_and_is_replaced(store, damage):
    write(store, text="old")
    folder = store.folder(KEY)
    if damage == "no manifest":
        (folder / "manifest.json").unlink()
    elif damage == "bad manifest":
        (folder / "manifest.json").write_text('{"format": 1')
    elif damage == "short file":
        (folder / "deep/er/weights.txt").write_text("o")
    else:
        (folder / "deep/er/weights.txt").unlink()
    assert store.find(KEY) is None
    with pytest.raises(StorageError, match="materialize it again"):
        store.get(KEY)
    write(store, text="new")
    assert store.get(KEY).file("deep/er/weights.txt").read_text() == "new"


def test_a_number_that_became_another_is_not_read(store: LocalStore) -> None:
    with store.create(KEY, "summary") as draft:
        draft.write_json("says.json", {"rate_rps": 7.5})
    found = store.get(KEY)
    file = found.file("says.json")
    file.write_text(file.read_text().replace("7.5", "9.5"))
    # Its size and its manifest are as they were.
    assert store.find(KEY) is not None
    with pytest.raises(DamagedArtifactError, match=r"summary .* was damaged .*says\.json"):
        found.read_json("says.json")
    assert store.find(KEY) is None
    (aside,) = store.quarantined()
    assert aside.key == KEY
    with pytest.raises(StorageError, match=r"says\.json is gone; run again, it is made anew"):
        found.read_json("says.json")


_MAKER = """
import sys, time
from pathlib import Path
from optikit_assets.artifacts import LocalStore
with LocalStore(Path(sys.argv[1])).create(sys.argv[2], "checkpoint") as draft:
    draft.file("half.bin").write_bytes(b"x" * 1000)
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
def test_sweep_removes_drafts_of_killed_makers_and_keeps_those_of_living_ones(store):
    with (
        store.create(OTHER, "checkpoint"),
        subprocess.Popen(
            [sys.executable, "-c", _MAKER, str(store.root), KEY], stdout=subprocess.PIPE, text=True
        ) as maker,
    ):
        try:
            assert maker.stdout is not None
            assert maker.stdout.readline() == "writing\n"
            assert store.sweep_staging(older_than_s=0) == []
            os.kill(maker.pid, signal.SIGKILL)
            maker.wait(10)
            assert store.sweep_staging(older_than_s=3600) == []
            (name,) = store.sweep_staging(older_than_s=0)
            assert str(maker.pid) in name.split(".")
        finally:
            maker.kill()
    assert store.find(KEY) is None
    assert store.find(OTHER) is not None


def test_wrapped_disk_full_error_becomes_one_storage_error_line(store):
    def library_call() -> None:
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise RuntimeError("serialization failed") from error

    with pytest.raises(StorageError) as caught, store.create(KEY, "checkpoint"):
        library_call()
    message = str(caught.value)
    assert "disk full" in message
    assert str(store.root) in message
    assert "OPTIKIT_HOME" in message
    assert "\n" not in message


def test_disk_full_text_without_errno_is_recognized(store):
    with pytest.raises(StorageError, match="disk full"), store.create(KEY, "checkpoint"):
        raise ValueError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )


def test_file_size_limit_is_a_storage_error(store):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        with pytest.raises(StorageError, match="size limit"):
            fill(store, 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert store.find(KEY) is None
    assert staging_of(store) == []


@pytest.fixture
def small_disk(tmp_path: Path):
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs privileges")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_really_full_disk_is_reported_and_space_is_given_back(small_disk):
    store = LocalStore(small_disk / "artifacts")
    write(store, OTHER)
    with pytest.raises(StorageError, match="disk full while writing"):
        fill(store, 10_000_000)
    assert store.find(KEY) is None
    assert store.find(OTHER) is not None
    fill(store, 500_000)
    assert store.find(KEY) is not None


def test_a_store_that_can_only_be_read_is_read(small_disk):
    store = LocalStore(small_disk / "artifacts")
    write(store)
    (store.root / "uses.lock").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert store.get(KEY).file("deep/er/weights.txt").read_text() == "hello"
    with pytest.raises(StorageError, match="not writable"):
        store.expire(KEY, unused_since=2e9)
    assert store.find(KEY) is not None


def test_expected_size_is_checked_before_anything_is_written(small_disk):
    store = LocalStore(small_disk / "artifacts")
    with pytest.raises(StorageError, match=r"5\.0 GiB needed, .* free; free some space"):
        fill(store, 1, needed_bytes=5 * 2**30)
    assert not store.root.exists()
    check_free_space(small_disk / "not" / "there" / "yet", 1000)


def test_store_below_a_file_is_reported_as_not_writable(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="not writable"):
        fill(LocalStore(tmp_path / "file" / "artifacts"), 1)


def test_unrelated_permission_error_passes_through(store):
    with pytest.raises(PermissionError), store.create(KEY, "checkpoint"):
        raise PermissionError(errno.EACCES, "denied", "/elsewhere")


@pytest.mark.slow
def test_the_store_imports_what_every_stage_environment_has(tmp_path):
    code = (
        "import sys, json; import optikit_assets.artifacts; "
        "print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(json.loads(out.stdout))
    heavy = {"aiohttp", "dagster", "duckdb", "obstore", "pandas", "pydantic_settings", "torch"}
    assert modules & heavy == set()


def test_sizes_are_written_for_people():
    assert [human_bytes(n) for n in (0, 1536, 5 * 2**30, 3 * 2**40)] == [
        "0 B",
        "1.5 KiB",
        "5.0 GiB",
        "3.0 TiB",
    ]
