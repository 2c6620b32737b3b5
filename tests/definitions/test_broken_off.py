"""A server that dies under load: what was measured by then is kept, with the reason."""

from pathlib import Path
from typing import Any

import pytest

from optikit_assets.artifacts import open_store
from optikit_assets.environments.layout import environment_path
from optikit_assets.execution import Lease
from optikit_assets.graph import FAILED, Node
from optikit_assets.headless.materialize import materialize_node
from optikit_assets.history import History
from optikit_assets.settings import settings
from optikit_assets.workers.benchmark import LEFT_REQUESTS, handle
from optikit_assets.workers.channel import Emit
from optikit_assets.workers.inputs import ENVIRONMENT_VARIABLE
from optikit_assets.workers.messages import Message
from tests.definitions.test_candidates import BASE, Workers
from tests.definitions.world import MODEL, World, in_process
from tests.executors import execute_with
from tests.servers.vllm_stand_in import install

pytestmark = pytest.mark.slow

SWEEP = Node.of("benchmark_sweep", f"{MODEL}|baseline@demo")
# The closed loop is over by then, the first open-loop probe is not.
AFTER = 24
SLO = """\
name: demo
workload: {input_tokens: 16, output_tokens: 4}
objectives: [{metric: e2e_latency, percentile: 80, max_ms: 2000}]
budget:
  strategy: paper
  min_probe_seconds: 1
  max_probe_seconds: 5
  min_probe_requests: 10
  warmup_requests: 2
  closed_loop_requests: 3
  max_probes: 2
  max_load_seconds: 16
  tolerance: 0.5
search_space: fine
"""


@pytest.fixture
def dying(real: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    """A world in which the benchmark worker is real and its engine dies under load."""
    workers = Workers({})
    python = install(tmp_path / "serve" / "python", MODEL, AFTER)

    def work(worker: str, request: Any, lease: Lease, emit: Emit) -> Message:
        if worker != "benchmark":
            return workers.work(worker, request, lease, emit)
        # A node has a state folder of its own.
        with monkeypatch.context() as node:
            node.setenv("OPTIKIT_HOME", str(tmp_path / "node"))
            return handle(request, emit, python=python)

    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(environment_path(settings().envs_home, "serve")))
    execute_with(monkeypatch, in_process(work))
    real.write("slos/demo.yaml", SLO)
    for node in (
        BASE,
        Node.of("quantized_model", f"{MODEL}|baseline"),
        Node.of("eval_scores", f"{MODEL}|baseline"),
    ):
        assert materialize_node(node) == "ok"
    return real


def ask(sql: str) -> list[dict[str, Any]]:
    return [
        {str(key): value for key, value in row.items()}
        for row in History(settings().history).query(sql).to_dict("records")
    ]


@pytest.mark.usefixtures("dying")
def test_probes_and_requests_of_a_sweep_that_broke_off_are_in_the_history(tmp_path: Path) -> None:
    assert materialize_node(SWEEP) == FAILED
    (sweep,) = ask("SELECT content_key, status, reason, load_seconds, probes FROM sweeps")
    assert (sweep["status"], sweep["probes"]) == ("failed", 2)
    assert "the server died during the probe at" in sweep["reason"]
    assert sweep["load_seconds"] > 0
    probes = ask("SELECT content_key, kind, verdict FROM probes ORDER BY probe")
    assert [(p["kind"], p["verdict"]) for p in probes] == [("closed", "pass"), ("open", "fail")]
    for probe in probes:
        assert probe["content_key"].startswith(sweep["content_key"] + "-failed-")
    phases = ask("SELECT phase, count(*) AS n, count(*) FILTER (ok) AS ok FROM requests GROUP BY 1")
    counted = {row["phase"]: row for row in phases}
    assert counted["closed"]["ok"] == 3
    assert sum(row["ok"] for row in phases) < sum(row["n"] for row in phases)
    # Nothing but the log is left of it, on either machine.
    assert [file.suffix for file in (tmp_path / "node" / "logs" / "servers").iterdir()] == [".log"]
    store = open_store(settings().store, settings().home)
    assert LEFT_REQUESTS not in {store.get(key).kind for key in store.all_keys()}


@pytest.mark.usefixtures("dying")
def test_the_next_attempt_does_not_mix_with_one_that_broke_off(tmp_path: Path) -> None:
    for _ in range(2):
        assert materialize_node(SWEEP) == FAILED
    (counted,) = ask("SELECT count(*) AS n, count(DISTINCT content_key) AS keys FROM probes")
    assert (counted["n"], counted["keys"]) == (4, 2)
    (closed,) = ask("SELECT count(*) AS n FROM requests WHERE phase = 'closed'")
    assert closed["n"] == 6
    # Whoever reads why the first one broke off finds its log.
    assert len(list((tmp_path / "node" / "logs" / "servers").glob("*.log"))) == 2
