"""A benchmark worker without a server, on a machine that fails as ``OPTIKIT_TEST_MACHINE`` says."""

import errno
import os
from pathlib import Path

from optikit_assets.artifacts import open_store
from optikit_assets.schemas import BENCHMARK_FILE
from optikit_assets.workers.benchmark import BENCHMARK
from optikit_assets.workers.channel import Emit, worker_main
from optikit_assets.workers.messages import BenchmarkRequest, BenchmarkWorkerResult
from tests.unit.schemas.samples import benchmark


def handle(request: BenchmarkRequest, emit: Emit) -> BenchmarkWorkerResult:
    machine = os.environ["OPTIKIT_TEST_MACHINE"]
    if machine == "full disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    rate = 5.0 - abs(float(request.flags.get("max_num_seqs", 128)) - 32) / 100
    with open_store(request.store, Path()).create(request.artifact_key, BENCHMARK) as draft:
        BENCHMARK_FILE.write(draft, benchmark(rate, seed=request.seed))
        draft.manifest.update(
            versions={}, server_start_s=1.0, flags={}, provenance=request.provenance
        )
    if machine == "loses the result":
        os._exit(0)
    return BenchmarkWorkerResult(artifact_key=request.artifact_key)


if __name__ == "__main__":
    worker_main(BenchmarkRequest, handle)
