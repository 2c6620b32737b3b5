"""The ledger of started workers, which answers "what did this run really do, and where?".

A line each in ``logs/workers.jsonl``. Who adds one and who removes old ones lock a file beside it,
since what is removed is left out of a new file that takes its place; readers need no lock.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from optikit_assets.execution.base import Origin
from optikit_assets.locks import alone


def note_start(home: Path, worker: str, node: str, log_file: str, origin: Origin) -> None:
    """Append a worker that has started to ``logs/workers.jsonl``, and tell who asked for it."""
    entry = {
        "time": time.time(),
        "worker": worker,
        "asset": origin.asset,
        "partition": origin.partition,
        "run_id": origin.run_id,
        "node": node,
        "log": log_file,
    }
    with _alone(home) as ledger, ledger.open("a") as out:
        out.write(json.dumps(entry) + "\n")
    origin.log.info(f"started the {worker} worker on {node}; log: {log_file}")


class OldStarts(NamedTuple):
    """Lines that may go: how many, their size, and when the last of them was written."""

    lines: int
    bytes: int
    last_s: float


def old_starts(home: Path, before: float) -> OldStarts | None:
    """Return what there is of workers started before a moment, in seconds since the epoch."""
    old = [line for line in _lines(home) if _started(line) < before]
    return OldStarts(len(old), sum(map(len, old)), max(map(_started, old))) if old else None


def forget_starts(home: Path, before: float) -> bool:
    """Remove those lines; say whether there were any."""
    with _alone(home) as ledger:
        lines = _lines(home)
        kept = [line for line in lines if _started(line) >= before]
        if len(kept) < len(lines):
            part = ledger.with_name(f"{ledger.name}.part")
            part.write_text("".join(kept))
            part.replace(ledger)
    return len(kept) < len(lines)


def _lines(home: Path) -> list[str]:
    ledger = _ledger(home)
    return ledger.read_text().splitlines(keepends=True) if ledger.exists() else []


def _started(line: str) -> float:
    try:
        return float(json.loads(line)["time"])
    except (ValueError, KeyError, TypeError):
        # A power cut left it: nobody can read it.
        return 0.0


def _ledger(home: Path) -> Path:
    return home / "logs" / "workers.jsonl"


@contextmanager
def _alone(home: Path) -> Iterator[Path]:
    ledger = _ledger(home)
    ledger.parent.mkdir(parents=True, exist_ok=True)
    lock = ledger.with_suffix(".lock")
    lock.touch()
    with alone(lock):
        yield ledger
