"""Two benchmark workers under one lease, with servers that imitate an engine, in real time."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from optikit_assets.artifacts import Reference
from optikit_assets.specs import EngineSpec, SloSpec
from optikit_assets.workers.benchmark import handle
from optikit_assets.workers.messages import BenchmarkRequest
from optikit_assets.workers.records import ProbeFinished, Progress, Record, ServerStarted
from tests.definitions.world import HARDWARE, write_model
from tests.servers.vllm_stand_in import install

pytestmark = [pytest.mark.slow, pytest.mark.serial]

MODEL = "tiny@1"
SLO = SloSpec.model_validate(
    {
        "name": "demo",
        "workload": {"input_tokens": 16, "output_tokens": 4},
        "objectives": [{"metric": "e2e_latency", "percentile": 80, "max_ms": 2000}],
        "search_space": "fine",
        "budget": {
            "min_probe_seconds": 1, "max_probe_seconds": 2, "min_probe_requests": 10,
            "warmup_requests": 2, "closed_loop_requests": 3, "max_probes": 3,
            "max_load_seconds": 20, "tolerance": 0.1,
        },
    }
)  # fmt: skip


def test_both_servers_are_up_before_either_is_measured_and_no_two_probes_overlap(
    home: Path, tmp_path: Path
) -> None:
    write_model(tmp_path / "weights", fill=1)
    python = install(tmp_path / "serve" / "python", MODEL, 10_000)
    up: dict[str, float] = {}
    probes: list[tuple[float, float, str]] = []
    said: set[str] = set()

    def listener(name: str) -> Callable[[Record], None]:
        def listen(record: Record) -> None:
            now = time.monotonic()
            if isinstance(record, ServerStarted):
                up[name] = now
            if isinstance(record, ProbeFinished):
                probes.append((now - record.probe.duration_s, now, name))
            if isinstance(record, ServerStarted | ProbeFinished | Progress):
                said.add(record.of)

        return listen

    def serve(name: str) -> None:
        request = BenchmarkRequest(
            store=(home / "artifacts").as_uri(),
            artifact_key=64 * name,
            model=Reference.to(tmp_path / "weights", "model", f"model {MODEL}"),
            served_model_name=MODEL,
            engine=EngineSpec(),
            hardware=HARDWARE,
            slo=SLO,
            seed=1,
            initial_rate_rps=20.0,
            of=name,
            beside=1,
        )
        handle(request, listener(name), python=python)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(serve, "ab"))
    assert said == set("ab")
    assert max(up.values()) < min(begun for begun, _, _ in probes)
    for (_, over, _), (begun, _, _) in pairwise(sorted(probes)):
        assert begun > over - 0.05
    order = [name for _, _, name in sorted(probes)]
    # Whoever has had its turn waits until the other one had.
    shared = 2 * min(order.count("a"), order.count("b"))
    assert order[:shared] == (shared // 2) * order[:2]
    assert set(order[:2]) == set("ab")
