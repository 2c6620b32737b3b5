"""A worker like compress: makes a few things one after the other, with processes of its own.

``python -m benchmarks.cluster_worker drive ADDRESS HOME FOLDER SECONDS`` is who asks for it: like a
stage, it has every item of a list made on the cluster, each in so many seconds, and writes down in
``FOLDER/events.jsonl`` what was asked for and what became of it.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from optikit_assets.errors import OptikitError, one_line
from optikit_assets.workers.channel import Emit, worker_main
from optikit_assets.workers.messages import Message
from optikit_assets.workers.records import Progress, Record

ITEMS = 6
PER_WORKER = 3
SELECTOR = {"optikit.pool": "slots"}


class Make(Message):
    """Items to make, each a file in a folder."""

    folder: str
    items: tuple[str, ...]
    seconds: float


class Made(Message):
    """How many were made."""

    count: int


def handle(request: Make, emit: Emit) -> Made:
    """Make the items; a child and one that has its own session, like an engine core, wait along.

    The first record names the processes, each later one the item that was made.
    """
    command = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
    own_session = os.posix_spawn(sys.executable, command, os.environ, setsid=True)
    child = os.posix_spawn(sys.executable, command, os.environ)
    total = len(request.items)
    emit(Progress(total=total, text=f"{os.getpid()} {child} {own_session}"))
    for done, item in enumerate(request.items, start=1):
        time.sleep(request.seconds)
        Path(request.folder, f"{item}.made").touch()
        emit(Progress(done=done, total=total, text=item))
    return Made(count=total)


@dataclass(frozen=True)
class Item:
    """A unit of work of `settle`."""

    artifact_key: str


def drive(address: str, home: str, folder: str, seconds: str) -> None:
    """Have every item made, as a stage does."""
    from optikit_assets.execution import Lease, settle
    from optikit_assets.execution.ray.executor import RayExecutor

    executor = RayExecutor(address, Path(home), selector=SELECTOR)
    events = Path(folder, "events.jsonl")
    writing = threading.Lock()

    def note(event: str, **values: object) -> None:
        with writing, events.open("a", encoding="utf-8") as out:
            out.write(json.dumps({"time": time.time(), "event": event, **values}) + "\n")

    def heard(record: Record) -> None:
        assert isinstance(record, Progress)
        if record.done:
            note("finished", item=record.text)
        else:
            note("started", pids=[int(pid) for pid in record.text.split()])

    def make(batch: Sequence[Item], lease: Lease) -> dict[str, str]:
        keys = tuple(item.artifact_key for item in batch)
        note("asked", items=keys)
        work = Make(folder=folder, items=keys, seconds=float(seconds))
        executor.run("compress", work, Made, lease, on_record=heard)
        return {}

    try:
        failed = settle(
            executor,
            [Item(f"item-{number}") for number in range(ITEMS)],
            make,
            is_done=lambda key: Path(folder, f"{key}.made").exists(),
            per_worker=PER_WORKER,
            max_attempts=1,
        )
        note("ended", failed=failed)
    except OptikitError as error:
        note("ended", error=f"{type(error).__name__}: {one_line(error)}")
        sys.exit(1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["drive"]:
        drive(*sys.argv[2:])
    else:
        worker_main(Make, handle)
