"""The workers of the plays: ``python -m benchmarks.faults.worker -m optikit_assets.workers.NAME``.

Each is the real one (its channel, its store, its drafts and turns), without the libraries that
compute: a checkpoint is the model with a few more bytes, scores are numbers, and the engine is
`tests.servers.vllm_stand_in`. So a stage takes seconds, and what a fault does to it is the same.
"""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.faults.machine import move_in
from benchmarks.faults.stages import QUANTIZED
from optikit_assets.benchmarker import process_pool
from optikit_assets.optimizer.backends import CompressedModel
from optikit_assets.optimizer.backends.base import _BACKENDS
from optikit_assets.optimizer.calibration import load_calibration
from optikit_assets.optimizer.compression import Compression
from optikit_assets.stateval.scores import EvaluatedCandidate
from optikit_assets.workers import benchmark, compress, evaluate
from optikit_assets.workers.channel import worker_main
from optikit_assets.workers.inputs import calibration_location
from optikit_assets.workers.messages import (
    BenchmarkRequest,
    Candidate,
    CompressRequest,
    EvaluateRequest,
)
from tests.unit.stateval.builders import outcome

ENGINE = Path("engine", "python")
"""Interpreter that starts the stand-in of the engine, below the home of the environments."""
PARTS = 10
"""Each checkpoint and each evaluation is made in so many steps."""
_PART_S = 0.1
_PART_BYTES = 2**16
_ITEMS = 300
# One process sends this share of a second per second, so that even a low rate takes several.
_MOST_BUSY = 1e-4


class Copies:
    """A compression backend whose checkpoints are the model itself."""

    def versions(self) -> dict[str, str]:
        return {"copies": "1"}

    def compress(self, compression: Compression) -> CompressedModel:
        begin = time.monotonic()
        shutil.copytree(compression.model_path, compression.destination, dirs_exist_ok=True)
        with (compression.destination / QUANTIZED).open("wb") as out:
            for _ in _parts():
                out.write(bytes([compression.seed % 256]) * _PART_BYTES)
                out.flush()
        return CompressedModel.saved(compression.destination, time.monotonic() - begin)


class Answers:
    """A harness to which every candidate has the right answers."""

    def load(self, request: EvaluateRequest, folder: Path | None, files: Any) -> list[Any]:
        return [SimpleNamespace(eval_docs=[]) for _ in request.suite.tasks]

    def score(
        self,
        request: EvaluateRequest,
        candidate: Candidate,
        suite_tasks: list[Any],
        opened: Any,
        parts: Any,
    ) -> EvaluatedCandidate:
        for _ in _parts():
            pass
        return EvaluatedCandidate(
            trial=candidate.trial,
            suite=request.suite.name,
            tasks=tuple(outcome(task.title, [1.0] * _ITEMS) for task in request.suite.tasks),
            seed=request.seed,
        )


def _parts() -> Iterator[None]:
    """Take a while, and some more memory at every step of it."""
    held: list[bytearray] = []
    for _ in range(PARTS):
        held.append(bytearray(2**20))
        time.sleep(_PART_S)
        yield


def _rows(request: CompressRequest) -> Any:
    """Read the calibration rows; the tokenizer is none of the control environment's."""
    assert request.calibration_data is not None
    rows = load_calibration(calibration_location(request, request.calibration_data))
    return rows, [[1]] * len(rows.rows)


def main(module: str) -> None:
    """Be a worker."""
    match module.rpartition(".")[2]:
        case "compress":
            _BACKENDS.own["llmcompressor"] = Copies
            compress._load_rows = _rows
            worker_main(CompressRequest, compress.handle)
        case "evaluate":
            worker_main(EvaluateRequest, partial(evaluate.handle, harness=Answers()))
        case "benchmark":
            process_pool._MOST_BUSY = _MOST_BUSY
            engine = Path(os.environ["OPTIKIT_ENVIRONMENTS_HOME"]) / ENGINE
            worker_main(BenchmarkRequest, partial(benchmark.handle, python=engine))
        case other:
            raise SystemExit(f"no play has a worker {other}")


if __name__ == "__main__":
    move_in(hidden=False)
    main(sys.argv[-1])
