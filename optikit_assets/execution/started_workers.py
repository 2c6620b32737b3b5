"""The ledger of started workers, which answers "what did this run really do, and where?"."""

import json
import time
from pathlib import Path

from optikit_assets.execution.base import Origin


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
    ledger = home / "logs" / "workers.jsonl"
    ledger.parent.mkdir(parents=True, exist_ok=True)
    with ledger.open("a") as out:
        out.write(json.dumps(entry) + "\n")
    origin.log.info(f"started the {worker} worker on {node}; log: {log_file}")
