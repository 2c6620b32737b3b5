"""Several configurations of one real vLLM server, and what is kept when it is killed in between."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from optikit_assets.artifacts import open_store
from optikit_assets.engines import detect
from optikit_assets.environments.status import python_of
from optikit_assets.errors import EndpointError, EnvironmentMissingError, MachineError
from optikit_assets.schemas import BENCHMARK_FILE
from optikit_assets.settings import REPOSITORY, Settings
from optikit_assets.specs import EngineSpec, SloSpec
from optikit_assets.workers.explore import handle
from optikit_assets.workers.messages import ExploreRequest, Variant
from optikit_assets.workers.records import ProbeFinished, Record, ServerStarted
from tests.references import refer

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

MODEL = REPOSITORY / "demo" / "models" / "demo-llama" / "1"
# Read before the test gets an OPTIKIT_HOME of its own.
ENVIRONMENTS = Settings().envs_home  # pyright: ignore[reportCallIssue]
SLO = SloSpec.model_validate(
    {
        "name": "quick",
        "workload": {"input_tokens": 32, "output_tokens": 8},
        "objectives": [{"metric": "e2e_latency", "percentile": 80, "max_ms": 4000}],
        "budget": {
            "strategy": "paper",
            "min_probe_seconds": 1,
            "max_probe_seconds": 2,
            "min_probe_requests": 10,
            "warmup_requests": 2,
            "closed_loop_requests": 4,
            "max_probes": 1,
            "max_load_seconds": 20,
        },
    }
)


@pytest.fixture
def serve_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("OPTIKIT_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    try:
        return python_of(ENVIRONMENTS, "serve")
    except EnvironmentMissingError as error:
        pytest.skip(str(error))


def children() -> set[psutil.Process]:
    """Return what this process started, and what is left of that to it."""
    return set(psutil.Process().children())


def test_a_server_goes_on_with_other_limits_and_what_it_measured_outlives_it(
    serve_python: Path, tmp_path: Path
) -> None:
    sizes = {"a" * 64: 4, "b" * 64: 16, "c" * 64: 64}
    request = ExploreRequest(
        store=f"file://{tmp_path / 'artifacts'}",
        model=refer(MODEL),
        served_model_name="demo",
        engine=EngineSpec(flags={"enforce_eager": True}),
        variants=tuple(
            Variant(artifact_key=k, flags={"max_num_seqs": n}) for k, n in sizes.items()
        ),
        hardware=detect(),
        slo=SLO,
        seed=1,
    )
    store = open_store(request.store, tmp_path)
    started: list[ServerStarted] = []
    marked: list[bool] = []
    killing = [True]
    # Of other tests, e.g. a cluster that several of them use.
    before = children()

    def emit(record: Record) -> None:
        if isinstance(record, ServerStarted):
            started.append(record)
            # By which what is left of a server whose owner was killed is known.
            engine = [p for c in children() - before for p in c.children(recursive=True)]
            marked.extend("OPTIKIT_OWNERS" in p.environ() for p in engine)
        # The first is in the store, the second under load.
        done = store.find("a" * 64) is not None
        probed = isinstance(record, ProbeFinished) and done
        if probed and killing and len(started) == 1:
            killing.clear()
            for process in children() - before:
                if "api_server" in " ".join(process.cmdline()):
                    os.kill(process.pid, signal.SIGKILL)

    with pytest.raises((EndpointError, MachineError)):
        handle(request, emit, python=serve_python)
    first = store.get("a" * 64)
    assert store.find("b" * 64) is None
    assert children() <= before
    result = handle(request, emit, python=serve_python)
    assert result.artifact_keys == tuple(sizes)
    assert len(started) == 2
    assert marked
    assert all(marked)
    assert store.get("a" * 64).created_at == first.created_at
    for key, size in sizes.items():
        artifact = store.get(key)
        assert artifact.manifest["retuned"] is True
        assert artifact.manifest["flags"]["max_num_seqs"] == size
        assert BENCHMARK_FILE.read(artifact).probes
    # Each server's start is the cost of the first configuration that it measured.
    assert [store.get(k).manifest["server_start_s"] > 0 for k in sizes] == [True, True, False]
