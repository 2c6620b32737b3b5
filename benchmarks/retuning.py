"""Whether configurations of one running vLLM rank as those of servers started with their flags.

``python -m benchmarks.retuning --json OUT --serve PYTHON [--part retuned|fresh] [--most N]``

Measures the demo model's throughput in a climb of closed-loop clients (`benchmarker.ladder`) under
twelve pairs of batch limits: on one server that goes on with each in turn, and on a server of its
own for each. What OUT has already is not measured again, so that it can be done in pieces. Needs
the machine to itself.
"""

import argparse
import asyncio
import json
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

from scipy import stats

from optikit_assets.benchmarker.client import CompletionClient
from optikit_assets.benchmarker.endpoint import prepare
from optikit_assets.benchmarker.ladder import climb
from optikit_assets.engines import (
    Engine,
    EngineServer,
    Flags,
    HotReconfiguration,
    ModelFacts,
    detect,
    get_engine,
)
from optikit_assets.settings import REPOSITORY
from optikit_assets.specs import EngineSpec, SloSpec

MODEL = REPOSITORY / "demo" / "models" / "demo-llama" / "1"
SPEC = EngineSpec(flags={"enforce_eager": True})
# No objectives: the climb goes on until more clients bring no more.
SLO = SloSpec.model_validate(
    {"name": "retuning", "workload": {"input_tokens": 64, "output_tokens": 16}}
)
CONFIGURATIONS: list[Flags] = [
    {"max_num_seqs": seqs, "max_num_batched_tokens": tokens}
    for seqs, tokens in product((2, 4, 8, 16, 32, 64), (128, 2048))
]
_CLIMB_S = 14.0
# A climb ends where more clients bring no more, which noise may say too early.
_CLIMBS = 3
_NAME = "demo"


def throughput_rps(server: EngineServer) -> float:
    """Return the most requests/s that closed-loop clients were seen to get."""

    async def measure() -> float:
        async with CompletionClient(server.base_url) as client:
            target = await prepare(client, _NAME, SLO, 1, server.engine.requests)
            best = 0.0
            for number in range(_CLIMBS):
                rungs = await climb(
                    target,
                    SLO,
                    # Prompts of its own for each.
                    number=1000 * number,
                    latency_s=target.quiet_latency_s,
                    timeout_s=60.0,
                    max_seconds=_CLIMB_S,
                    keep=lambda records: None,
                )
                best = max(best, *(rung.throughput_rps for rung in rungs))
            return best

    return asyncio.run(measure())


class Serving:
    """Starts servers of the demo model; counts them."""

    def __init__(self, python: Path, folder: Path) -> None:
        self.starts = 0
        self._python, self._folder = python, folder

    def server(self, tuned: Flags, engine: Engine | None = None) -> EngineServer:
        """Return a server with these flags, not yet started; of vLLM unless told otherwise."""
        engine, hardware = engine or get_engine("vllm"), detect()
        facts = ModelFacts.read(MODEL)
        flags = engine.flags(SPEC, SLO, tuned, hardware=hardware, facts=facts)
        config = self._folder / f"{self.starts}.yaml"
        config.write_text(engine.config_text(flags, model=str(MODEL), served_model_name=_NAME))
        self.starts += 1
        return EngineServer(
            engine,
            config,
            log_file=self._folder / f"{self.starts}.log",
            python=self._python,
            cache_dir=self._folder / "cache",
            env={"PYTHONPATH": str(REPOSITORY)},
        )


def retuned(serving: Serving, missing: list[Flags], keep: Any) -> None:
    """Measure configurations on one server."""
    engine = get_engine("vllm")
    assert isinstance(engine, HotReconfiguration)
    with serving.server(engine.retunable(CONFIGURATIONS)) as server:
        keep(None, server.start_s)
        for flags in missing:
            assert server.place is not None
            engine.reconfigure(server.place, flags, served_model_name=_NAME)
            keep(flags, throughput_rps(server))


def fresh(serving: Serving, missing: list[Flags], keep: Any) -> None:
    """Measure each configuration on a server of its own."""
    for flags in missing:
        with serving.server(flags) as server:
            keep(None, server.start_s)
            keep(flags, throughput_rps(server))


def _spread(missing: list[Flags], most: int) -> list[Flags]:
    """Return at most so many of them, from all over."""
    return missing[:: max(1, len(missing) // most)][:most]


def main() -> None:
    """Measure what is missing, then compare the rankings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--serve", type=Path, required=True, help="Python with vLLM.")
    parser.add_argument("--part", choices=["retuned", "fresh"])
    parser.add_argument("--most", type=int, default=len(CONFIGURATIONS))
    options = parser.parse_args()
    found: dict[str, Any] = {"retuned": {}, "fresh": {}, "starts": {"retuned": [], "fresh": []}}
    if options.json.exists():
        found = json.loads(options.json.read_text(encoding="utf-8"))
    for part, measure in (("retuned", retuned), ("fresh", fresh)):
        missing = [c for c in CONFIGURATIONS if json.dumps(c) not in found[part]]
        if options.part not in (None, part) or not missing:
            continue

        def keep(flags: Flags | None, value: float, part: str = part) -> None:
            if flags is None:
                found["starts"][part].append(round(value, 1))
            else:
                found[part][json.dumps(flags)] = value
                print(part, flags, f"{value:.1f} requests/s", time.strftime("%T"), flush=True)
            options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")

        with tempfile.TemporaryDirectory(prefix="optikit-retuning-") as folder:
            measure(Serving(options.serve, Path(folder)), _spread(missing, options.most), keep)
    both = [key for key in found["retuned"] if key in found["fresh"]]
    if len(both) > 2:
        hot, own = ([found[part][key] for key in both] for part in ("retuned", "fresh"))
        agreement = stats.spearmanr(hot, own).statistic
        print(f"{len(both)} configurations, Spearman {agreement:.3f}; starts {found['starts']}")


if __name__ == "__main__":
    main()
