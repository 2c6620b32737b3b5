"""Two real vLLM servers behind a real router on loopback, against the fleet in virtual time.

``python -m benchmarks.planner_cpu --replicas --json FILE [--serve PYTHON --router HAPROXY]``

Each server has one core to itself; HAProxy and the load client are where the kernel puts them, and
take from both. So both servers are first measured at once, each by itself: alone, one would have
the other's core for its clients. What these closed loops say is all that the prediction knows of
the servers. HAProxy routes to the server with the fewest requests (``leastconn``), then at random
(``random(1)``).
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.planner_cpu_fit import architecture, fit_of
from benchmarks.planner_cpu_runs import (
    CARD,
    ENGINE,
    SPEC,
    Serving,
    measured,
    pinned,
    shown,
    slo_of,
)
from benchmarks.tables import markdown
from optikit_assets.benchmarker.long_run import highest_rate, met_objectives
from optikit_assets.engines import EngineServer
from optikit_assets.engines.server import HOST, free_port
from optikit_assets.planner import Layout, Precision, Roofline
from optikit_assets.planner.fleet import Fleet, Routing
from optikit_assets.planner.memory import hardware_of
from optikit_assets.planner.server_flags import limits
from optikit_assets.planner.step_time import StepTime
from optikit_assets.planner.traffic import Requests, Server
from optikit_assets.processes import OwnedProcess
from optikit_assets.specs import SloSpec

MODEL = "wide"
REPLICAS = 2
ROUTES: dict[str, Routing] = {"leastconn": "least_loaded", "random(1)": "random"}
BESIDE = "one server, beside the other"
# One thread, wherever the server was put: it must not bind itself to a core of its own choice.
_ONE_THREAD = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
_CONFIG = """\
global
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 300s
  timeout server 300s
frontend router
  bind {host}:{port}
  default_backend replicas
backend replicas
  balance {balance}
{servers}
"""
_READY_S = 1.0
_LOAD_S = 180.0
_WARM_UP = 0.1


def measure(serving: Serving, router: str) -> Iterator[dict[str, Any]]:
    """Measure both servers, each by itself, then behind the router in each way to route."""
    slo = _patient(slo_of(MODEL, prefixed=False))
    with ExitStack() as stack:

        def run(what: str, base_url: str, seed: int) -> dict[str, Any]:
            print(time.strftime("%T"), what, flush=True)
            found = measured(base_url, MODEL, slo, seed, serving.folder / f"fleet-{seed}.jsonl.gz")
            return {
                "what": what,
                "model": MODEL,
                "slo": slo.name,
                "input_tokens": slo.workload.mean_input_tokens,
                "output_tokens": slo.workload.mean_output_tokens,
                "flags": {},
                "versions": serving.version,
                **found,
            }

        started: list[EngineServer] = []
        for core in range(REPLICAS):
            with pinned(core):
                started.append(stack.enter_context(serving.server(MODEL, slo, {}, _ONE_THREAD)))
        with ThreadPoolExecutor(REPLICAS) as at_once:
            both = [
                at_once.submit(run, BESIDE, server.base_url, seed)
                for seed, server in enumerate(started, start=1)
            ]
        yield from (found.result() for found in both)
        urls = [server.root_url.removeprefix("http://") for server in started]
        for number, balance in enumerate(ROUTES):
            with _routed(router, balance, urls, serving.folder) as base_url:
                yield run(balance, base_url, seed=1 + REPLICAS + number)


def _patient(slo: SloSpec) -> SloSpec:
    """Return the SLO with a budget of load in which its searches come to an end."""
    budget = slo.budget.model_copy(update={"max_load_seconds": _LOAD_S, "max_probes": 16})
    return slo.model_copy(update={"budget": budget})


@contextmanager
def _routed(router: str, balance: str, servers: Sequence[str], folder: Path) -> Iterator[str]:
    """Run HAProxy before some servers; yield its base URL."""
    port = free_port()
    listed = "\n".join(f"  server s{n} {address}" for n, address in enumerate(servers))
    config = folder / "haproxy.cfg"
    config.write_text(_CONFIG.format(host=HOST, port=port, balance=balance, servers=listed))
    command = [router, "-db", "-f", str(config)]
    log = folder / "haproxy.log"
    with OwnedProcess(command, log_file=log, name="HAProxy") as process:
        time.sleep(_READY_S)
        if process.poll() is not None:
            raise SystemExit(f"HAProxy did not start:\n{log.read_text()}")
        yield f"http://{HOST}:{port}/v1"


def predicted(slo: SloSpec, server: Server, replicas: int, routing: Routing) -> float:
    """Return the highest rate in requests/s at which a fleet meets an SLO."""
    requests = Requests.of(slo)

    def holds(rate: float) -> bool:
        values = Fleet(server, replicas, routing).serve(requests.sequences(rate))
        first = int(_WARM_UP * requests.count)
        return met_objectives({name: v[first:] for name, v in values.items()}, slo)

    return highest_rate(holds, replicas * server.capacity_rps(requests), tolerance=0.01)


def servers(runs: Sequence[Mapping[str, Any]]) -> list[Server]:
    """Return a server as its closed loops have it: as fast as likely, and the interval's ends."""
    fit = fit_of(runs, MODEL)
    roofline = Roofline.of(architecture(MODEL), Precision(), CARD, Layout())
    flags = {**ENGINE.defaults(hardware_of(CARD, 1)), **SPEC.flags}
    bounds = limits(ENGINE, flags, cache_tokens=math.inf, prefix_tokens=0)
    return [Server(StepTime.of(roofline, fit, f), bounds) for f in (1.0, fit.high, fit.low)]


def report(known: Mapping[str, Any]) -> str:
    """Return the table: one server, and the fleet in each way to route."""
    runs = known["replicas"]
    slo = slo_of(MODEL, prefixed=False)
    some = servers([run for run in runs if run["what"] == BESIDE])
    table: list[dict[str, str]] = []
    for run in runs:
        what = run["what"]
        replicas = 1 if what == BESIDE else REPLICAS
        routing = ROUTES.get(what, "least_loaded")
        rate, low, high = (predicted(slo, server, replicas, routing) for server in some)
        table.append({
            "servers": what if what == BESIDE else f"two, {what}",
            "predicted": f"{rate:.1f} ({low:.1f}–{high:.1f})",
            **shown(rate, run),
        })  # fmt: skip
    return markdown(table)
