"""What an object store stands: many makers of one key at once, and a server that is killed.

``python -m benchmarks.store [--write]`` runs a real S3 server on loopback (`demo.s3`). First 20
machines make the same 50 artifacts at once. Then the server is killed (SIGKILL) in the middle of an
upload or a fetch of `FILES` files, and comes back on the same disk and address: soon, or only after
whoever used it gave up. The exit code is 1 if an artifact has no or several winners, if anything is
seen of one before it is whole, or if one is not whole at the end; ``--write`` puts both tables into
``docs/store.md``.
"""

import argparse
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tables import markdown, write_section
from demo.s3 import BUCKET, S3Server, s3_server
from optikit_assets.artifacts import ArtifactStore
from optikit_assets.artifacts.bucket_layout import place_of
from optikit_assets.artifacts.cache import ArtifactCache
from optikit_assets.artifacts.objects import ObjectStore
from optikit_assets.bucket import Bucket
from optikit_assets.errors import StorageError
from optikit_assets.locations import REPOSITORY

MACHINES, KEYS, PROCESSES = 20, 50, 4
FILES, FILE_BYTES = 12, 8 * 2**20
_BACK_AFTER_S = 5.0
_LIMIT_S = 240.0
_DOC = REPOSITORY / "docs" / "store.md"


@dataclass(frozen=True)
class Ended:
    """How a use of the store ended."""

    seconds: float
    error: str = ""


def store_of(url: str, home: Path) -> ObjectStore:
    """Return the store as one machine has it."""
    return ObjectStore(Bucket(url), ArtifactCache(home))


def key_of(number: int | str) -> str:
    """Return a key."""
    return hashlib.sha256(str(number).encode()).hexdigest()


# --- many makers of one key -----------------------------------------------------------------------


def put_all(url: str, folder: Path, machines: Sequence[int]) -> dict[str, float]:
    """Make every artifact on each of these machines, all at once; return the time of each."""

    def put(item: tuple[int, int]) -> float:
        machine, number = item
        began = time.perf_counter()
        store = store_of(url, folder / str(machine))
        with store.create(key_of(number), "result") as draft:
            draft.file("by").write_text(f"{machine}")
        return time.perf_counter() - began

    items = [(machine, number) for machine in machines for number in range(KEYS)]
    random.Random(machines[0]).shuffle(items)
    with ThreadPoolExecutor(len(items)) as pool:
        took = sorted(pool.map(put, items))
    return {"median_s": took[len(took) // 2], "longest_s": took[-1]}


def puts(folder: Path) -> tuple[list[dict[str, str]], bool]:
    """Return the table of winners, and whether each key has one."""
    with ExitStack() as stack:
        server = stack.enter_context(s3_server(folder / "s3"))
        url = f"s3://{BUCKET}/puts"
        began = time.perf_counter()
        makers = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.store", "--put", url, str(folder), str(first)],
                env={**os.environ, **server.environment},
                stdout=subprocess.PIPE,
            )
            for first in range(PROCESSES)
        ]
        said = [json.loads(maker.communicate(timeout=_LIMIT_S)[0]) for maker in makers]
        seconds = time.perf_counter() - began
        os.environ.update(server.environment)
        store = store_of(url, folder / "reader")
        found = [store.verify(key_of(number), remembered=False) for number in range(KEYS)]
        winners = Counter(artifact.file("by").read_text() for artifact in found)
        objects = [item.name for item in store.bucket.list("")]
        leftover = len(objects) - 2 * KEYS
    row = {
        "puts": f"{MACHINES * KEYS} of {KEYS} keys by {MACHINES} machines",
        "whole, with one winner": f"{len(found)} of {KEYS}",
        "winners by machine": f"{min(winners.values())} to {max(winners.values())}, "
        f"{len(winners)} machines",
        "objects beside the winners'": f"{leftover}",
        "seconds for all": f"{seconds:.1f}",
        "one put, median and longest": f"{max(s['median_s'] for s in said):.1f}, "
        f"{max(s['longest_s'] for s in said):.1f} s",
    }
    return [row], len(found) == KEYS and leftover == 0


# --- a server that is killed ----------------------------------------------------------------------


def make(store: ObjectStore, key: str) -> None:
    """Upload an artifact."""
    with store.create(key, "checkpoint") as draft:
        for number in range(FILES):
            content = random.Random(f"{key}{number}").randbytes(FILE_BYTES)
            draft.file(f"weights-{number}.bin").write_bytes(content)


def get(store: ObjectStore, key: str) -> None:
    """Fetch an artifact."""
    store.get(key).files.folder()


def ends(do: Callable[[], None]) -> Ended:
    """Do something with the store; return how it ended."""
    began = time.monotonic()
    try:
        do()
    except StorageError as error:
        return Ended(time.monotonic() - began, str(error))
    return Ended(time.monotonic() - began)


def kill_in(what: str, back: bool, folder: Path) -> tuple[dict[str, str], bool]:
    """Kill the server in the middle of an upload or a fetch; return the row, and if all is well."""
    key = key_of(f"{what}{back}")
    url = f"s3://{BUCKET}/kills"
    use = make if what == "upload" else get
    sent: list[str] = []
    with ExitStack() as stack:
        server = stack.enter_context(s3_server(folder / "s3"))
        os.environ.update(server.environment)
        maker, user = store_of(url, folder / "maker"), store_of(url, folder / f"{what}-{back}")
        if what == "fetch":
            make(maker, key)
        found: list[Ended] = []
        thread = threading.Thread(target=lambda: found.append(ends(lambda: use(user, key))))
        thread.start()
        _middle(what, user, maker, key)
        _kill(server)
        killed = time.monotonic()
        thread.join(_BACK_AFTER_S if back else _LIMIT_S)
        gave_up = time.monotonic() - killed
        stack.close()
        with s3_server(folder / "s3"):
            if back:
                thread.join(_LIMIT_S)
                gave_up = time.monotonic() - killed
            first = found[0]
            half = what == "upload" and bool(first.error) and user.find(key) is not None
            again = _counting(user, sent, lambda: ends(lambda: use(user, key)))
            whole = store_of(url, folder / "reader").verify(key, remembered=False).verified
    row = {
        "killed in": what,
        "server back": f"after {_BACK_AFTER_S:.0f} s" if back else "after it was given up",
        "whoever used it": _told(first.error, url) if first.error else "went on, and finished",
        "seconds from the kill": f"{gave_up:.0f}",
        "seen before it was whole": "yes" if half else "no",
        "the next run": (
            _told(again.error, url) if again.error else f"whole after {again.seconds:.0f} s"
        )
        + (f", {len(sent)} of {FILES} files sent" if what == "upload" and first.error else ""),
    }
    return row, whole and not half and not again.error


def _middle(what: str, user: ObjectStore, maker: ArtifactStore, key: str) -> None:
    """Wait until a part of the work is done."""
    deadline = time.monotonic() + _LIMIT_S
    while time.monotonic() < deadline:
        if what == "upload":
            there = list(user.bucket.list(place_of(key)))
        else:
            there = [f for f in user.cache.store.root.rglob("weights-*") if f.stat().st_size]
        if len(there) >= 2:
            return
        time.sleep(0.01)
    raise TimeoutError(f"the {what} did not come to its middle")


def _kill(server: S3Server) -> None:
    os.kill(server.process.pid, signal.SIGKILL)


def _counting(store: ObjectStore, sent: list[str], do: Callable[[], Ended]) -> Ended:
    real = store.bucket.put_file

    def put_file(name: str, path: Path) -> None:
        sent.append(name)
        real(name, path)

    store.bucket.put_file = put_file  # pyright: ignore[reportAttributeAccessIssue]
    return do()


def _told(error: str, url: str) -> str:
    said = error.replace(url, "s3://BUCKET/PREFIX").partition(" (")[0]
    return f"gave up: {re.sub('[0-9a-f]{64}', '…', said)} …"


def main() -> int:
    """Run both; return the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.store", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/store.md")
    parser.add_argument("--put", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.put:
        url, folder, first = asked.put
        print(json.dumps(put_all(url, Path(folder), range(int(first), MACHINES, PROCESSES))))
        return 0
    with tempfile.TemporaryDirectory() as name:
        table, well = puts(Path(name) / "puts")
        print(markdown(table), flush=True)
        rows: list[dict[str, str]] = []
        for what in ("upload", "fetch"):
            for back in (True, False):
                row, good = kill_in(what, back, Path(name) / f"{what}-{back}")
                rows.append(row)
                well = well and good
                print(markdown([row]), flush=True)
    if asked.write:
        write_section(_DOC, "store-puts", markdown(table))
        write_section(_DOC, "store-kills", markdown(rows))
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
