"""What a server on a processor does when its processes take cores from one another, or do not.

``python -m benchmarks.scheduling --serve PYTHON [--json OUT] [--write docs/engines.md]``

Clients in a closed loop ask real vLLM servers of the demo model, started in turn as the kernel
schedules by default and as batches (`optikit_assets.engines.scheduling`), and what they got is
counted in windows of two seconds. Needs the machine to itself.
"""

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.retuning import SLO, Serving
from benchmarks.tables import markdown, write_section
from optikit_assets.benchmarker.client import CompletionClient, Flight
from optikit_assets.benchmarker.endpoint import prepare
from optikit_assets.engines import Engine, EngineServer, get_engine

_WINDOW_S = 2.0
_TIMEOUT_S = 60.0
# A window is slow if it has less than this share of the median one of all servers so asked.
_SLOW = 0.5


_VLLM = get_engine("vllm")
# The same engine, scheduled as it is when nobody says how.
_BY_DEFAULT: Engine = type("ByDefault", (type(_VLLM),), {"sched_batch_on": frozenset()})()
POLICIES: dict[str, Engine] = {"by default": _BY_DEFAULT, "as a batch": _VLLM}


def windows(server: EngineServer, clients: int, seconds: float) -> list[float]:
    """Return the requests/s that clients in a closed loop got, window by window."""

    async def measure() -> list[float]:
        async with CompletionClient(server.base_url) as client:
            target = await prepare(client, "demo", SLO, 1, server.engine.requests)
            ended: list[float] = []
            begun_s = client.now()

            async def follow(first: int) -> None:
                number = first
                while client.now() - begun_s < seconds:
                    flight = Flight(client.now(), sent_s=client.now())
                    await client.complete(flight, target.body(0, number), _TIMEOUT_S)
                    ended.append(client.now() - begun_s)
                    number += clients

            await asyncio.gather(*(follow(first) for first in range(clients)))
        edges = np.arange(0.0, seconds + _WINDOW_S / 2, _WINDOW_S)
        return (np.histogram(ended, edges)[0] / _WINDOW_S).tolist()

    return asyncio.run(measure())


def rows(found: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return the table: what all servers of a policy gave so many clients."""
    table: list[dict[str, str]] = []
    for clients in sorted({run["clients"] for run in found}):
        runs = [run for run in found if run["clients"] == clients]
        usual = float(np.median([rate for run in runs for rate in run["windows"]]))
        for policy in POLICIES:
            here = [run["windows"] for run in runs if run["scheduled"] == policy]
            rates = np.concatenate(here)
            low, median, high = np.percentile(rates, [10, 50, 90])
            table.append({
                "clients": str(clients),
                "scheduled": policy,
                "servers": str(len(here)),
                "requests/s, 10th to 90th percentile of windows": f"{low:.0f} – {high:.0f}",
                "median": f"{median:.0f}",
                "slow windows": f"{np.mean(rates < _SLOW * usual):.0%}",
                "means of servers": ", ".join(f"{np.mean(one):.0f}" for one in here),
            })  # fmt: skip
    return table


def main() -> None:
    """Measure in turn, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", type=Path, required=True, help="Python with vLLM.")
    parser.add_argument("--clients", type=int, nargs="+", default=[4, 40])
    parser.add_argument("--seconds", type=float, default=30.0, help="of each server and load")
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args()
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="optikit-scheduling-") as folder:
        serving = Serving(options.serve, Path(folder))
        for _ in range(options.starts):
            for policy, engine in POLICIES.items():
                with serving.server({}, engine) as server:
                    for clients in options.clients:
                        rates = windows(server, clients, options.seconds)
                        found.append({"scheduled": policy, "clients": clients, "windows": rates})
                        print(time.strftime("%T"), policy, clients, rates, flush=True)
    text = markdown(rows(found))
    print(text)
    if options.json:
        options.json.write_text(json.dumps(found), encoding="utf-8")
    if options.write:
        write_section(options.write, "scheduling", text)


if __name__ == "__main__":
    main()
