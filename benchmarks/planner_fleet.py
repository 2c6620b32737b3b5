"""The fleet in virtual time against queueing theory, and on an hour of real traffic.

``python -m benchmarks.planner_fleet [--data DIR] [--write docs/planner.md]``
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np

from benchmarks.planner_rows import architectures
from benchmarks.tables import markdown, write_section
from optikit_assets.planner import Layout, Precision, Roofline, room, shipped_fits
from optikit_assets.planner.engine import Limits, Sequence
from optikit_assets.planner.fleet import Fleet, least_replicas
from optikit_assets.planner.step_time import StepTime
from optikit_assets.planner.traffic import Server
from optikit_assets.settings import REPOSITORY
from optikit_assets.specs import Catalog
from optikit_assets.specs.traces import TraceFile

_STEP_S = 1e-3
_MEAN_TOKENS = 400
_REQUESTS = 300_000
_TRACES = ("conv", "code")
_MODEL = "meta-llama/Llama-3.1-8B-Instruct"
_TTFT_S, _TPOT_S = 1.0, 0.05
# How many times the traces' own traffic; fewer where a size is searched, fleet by fleet.
_SCALE, _SIZED = 8, 2


def poisson(rate_rps: float, tokens: np.ndarray, seed: int) -> list[Sequence]:
    """Return requests whose work is in their answers' tokens."""
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(1 / rate_rps, len(tokens)))
    return [Sequence(at, 1, n) for at, n in zip(arrivals.tolist(), tokens.tolist(), strict=True)]


def mean_latency_s(fleet: Fleet, sequences: list[Sequence]) -> float:
    """Return the mean time of a request, less the first tenth."""
    return float(fleet.serve(sequences)["e2e_latency"][len(sequences) // 10 :].mean())


def theory() -> list[dict[str, str]]:
    """Return the mean latency of queues whose theory is exact, simulated and in theory.

    M/M/c: Erlang's C formula; M/G/1: Pollaczek and Khinchine; processor sharing: its mean depends
    on the mean of the work alone. Poisson arrivals that are routed at random stay Poisson.
    """
    rng = np.random.default_rng(7)
    geometric = rng.geometric(1 / _MEAN_TOKENS, _REQUESTS)
    two = np.where(rng.random(_REQUESTS) < 0.1, 10 * 200, 200)
    service = _STEP_S * _MEAN_TOKENS
    slot = Server(StepTime(step_s=_STEP_S), Limits(max_num_seqs=1))
    sharing = Server(StepTime(sequence_s=_STEP_S), Limits(max_num_seqs=10**6))
    found: list[tuple[str, float, float]] = []
    for c, load in ((1, 0.5), (4, 0.7), (16, 0.8)):
        several = Server(StepTime(step_s=_STEP_S), Limits(max_num_seqs=c))
        requests = poisson(load * c / service, geometric, c)
        wait = _erlang_c(c, load) * service / (c * (1 - load))
        name = f"M/M/{c}, load {load:.0%}"
        found.append((name, mean_latency_s(Fleet(several, 1), requests), service + wait))
    load, mean, square = 0.6, float(two.mean()) * _STEP_S, float((two**2).mean()) * _STEP_S**2
    wait = load / mean * square / (2 * (1 - load))
    requests = poisson(load / mean, two, 11)
    found.append(("M/G/1, load 60 %", mean_latency_s(Fleet(slot, 1), requests), mean + wait))
    requests = poisson(load / mean, two, 12)
    shared = mean_latency_s(Fleet(sharing, 1), requests)
    found.append(("M/G/1 processor sharing, load 60 %", shared, mean / (1 - load)))
    requests = poisson(4 * 0.5 / service, geometric, 13)
    routed = mean_latency_s(Fleet(slot, 4, "random"), requests)
    found.append(("4 × M/M/1 routed at random, load 50 %", routed, service / 0.5))
    return [
        {
            "queue": name,
            "simulated mean, s": f"{simulated:.4f}",
            "theory, s": f"{exact:.4f}",
            "error": f"{simulated / exact - 1:+.2%}",
        }
        for name, simulated, exact in found
    ]


def _erlang_c(servers: int, load: float) -> float:
    """Return the probability that a request of an M/M/c waits."""
    offered = servers * load
    last = offered**servers / math.factorial(servers) / (1 - load)
    return last / (sum(offered**k / math.factorial(k) for k in range(servers)) + last)


def server(card: str = "h100", recipe: str = "fp8_dynamic") -> tuple[Server, float]:
    """Return a server of a model as it is predicted, and the bytes of a cached token."""
    catalog = Catalog.load(REPOSITORY / "recipes")
    model, sheet = architectures()[_MODEL], catalog.card(card)
    precision = Precision.of(catalog.recipe(recipe), model)
    space = room(model, precision, sheet, Layout(), 8192)
    fit = shipped_fits("vllm")["dense"]
    step = StepTime.of(Roofline.of(model, precision, sheet, Layout()), fit)
    return Server(step, Limits(cache_tokens=space.cache_tokens)), model.facts.kv_bytes_per_token()


def traffic(data: Path, name: str, scale: float) -> list[Sequence]:
    """Return a trace's hour with `scale` times its requests: each repeated at a shifted time."""
    file = data / "azure_traces" / f"AzureLLMInferenceTrace_{name}.csv"
    trace = TraceFile.model_validate(str(file)).trace()
    span, whole = float(trace.times_s[-1]), round(scale)
    rng = np.random.default_rng(0)
    found: list[Sequence] = []
    for shift in rng.uniform(0, span, whole).tolist():
        times = ((trace.times_s + shift) % span).tolist()
        found += [
            Sequence(at, max(1, i), max(1, o))
            for at, i, o in zip(
                times, trace.input_tokens.tolist(), trace.output_tokens.tolist(), strict=True
            )
        ]
    return sorted(found, key=lambda s: s.arrival_s)


def in_time(fleet: Fleet, sequences: list[Sequence]) -> bool:
    """Return whether 95 % have their first token within a second and 50 ms per further one."""
    fresh = [Sequence(s.arrival_s, s.input_tokens, s.output_tokens) for s in sequences]
    values = fleet.serve(fresh)
    return bool(
        np.quantile(values["ttft"], 0.95) <= _TTFT_S
        and np.quantile(values["tpot"], 0.95) <= _TPOT_S
    )


def hour(data: Path, name: str, scale: float, replicas: int) -> list[dict[str, str]]:
    """Return what ways to route and to split show in an hour of a trace on so many replicas."""
    alike, cached_bytes = server()
    transfer_s = cached_bytes / 50e9
    prefill = max(1, replicas // 4)
    fleets = {
        "random": Fleet(alike, replicas, "random"),
        "least loaded": Fleet(alike, replicas),
        "one lost": Fleet(alike, replicas - 1),
        f"{prefill} for prompts, the others decode": Fleet(
            alike, replicas - prefill, "least_loaded", alike, prefill, transfer_s
        ),
    }
    table: list[dict[str, str]] = []
    for how, fleet in fleets.items():
        sequences = traffic(data, name, scale)
        begun = time.process_time()
        values = fleet.serve(sequences)
        took = time.process_time() - begun
        table.append({
            "trace": f"{name} × {scale:g}",
            "replicas": str(replicas),
            "routing": how,
            "requests": str(len(sequences)),
            "TTFT p95, ms": f"{1e3 * np.quantile(values['ttft'], 0.95):.0f}",
            "TPOT p95, ms": f"{1e3 * np.quantile(values['tpot'], 0.95):.1f}",
            "processor seconds": f"{took:.1f}",
        })  # fmt: skip
    return table


def main() -> None:
    """Print the tables, and write them into the documentation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, metavar="DIR")
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    tables = {"theory": markdown(theory())}
    print(tables["theory"])
    if options.data:
        rows = [row for name in _TRACES for row in hour(options.data, name, _SCALE, 64)]
        alike, _ = server()
        needed = []
        for name in _TRACES:
            sequences = traffic(options.data, name, _SIZED)
            least = least_replicas(
                lambda n, some=sequences: in_time(Fleet(alike, n), some), most=256
            )
            needed.append(f"{name}: {least}")
        text = markdown(rows) + (
            f"\n\nLeast replicas at {_SIZED:g} times the traffic, with 95 % of first tokens within "
            f"1 s and of further ones within 50 ms each: {', '.join(needed)}."
        )
        tables["hour"] = text
        print(text)
    for name, table in tables.items():
        if options.write:
            write_section(options.write, name, table)


if __name__ == "__main__":
    main()
