"""The demo on a machine that is disturbed: what ships is a proven gain, or the plain baseline.

``python -m benchmarks.disturbed_demo [--runs 3] [--home FOLDER] [--seed 0]``

Every run has a state folder of its own, so that it searches, tunes and certifies anew; the stage
environments are shared, and so are the checkpoints and evaluations of the first run, on which load
has no influence. Two busy loops start and end at random moments while sweeps and studies run, none
while certification does: what the searches found is wrong by tens of per cent then, and the
certification has to say so. Exits with 1 if a run ships what was not proven.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from optikit_assets import graph
from optikit_assets.artifacts import LocalStore
from optikit_assets.processes import OwnedProcess
from optikit_assets.schemas import DEPLOYMENT_FILE, Deployment
from optikit_assets.settings import REPOSITORY, settings

_JOB = "demo"
_BUNDLE = Path("deployments") / "demo-llama@1" / "demo"
_DISTURBED = (graph.BENCHMARK_SWEEP, graph.TUNED_CONFIG)
# Results of load; everything else of a first run is as good as new.
_LOADED = {"benchmark", *_DISTURBED, graph.DEPLOYABLE_CONFIG}
_LOOPS = 2
_BUSY_S, _IDLE_S = 20.0, 25.0
_POLL_S = 0.25
_LIMIT_S = 3600.0
_GRACE_S = 60.0


class BusyLoops:
    """Processes that do nothing but take processor time; all end with the context."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._loops: list[OwnedProcess | None] = [None] * _LOOPS
        self._until = [0.0] * _LOOPS
        self.busy_s = 0.0
        self._seen_s: float | None = None

    def __enter__(self) -> "BusyLoops":
        return self

    def __exit__(self, *_: object) -> None:
        self.rest()

    def rest(self) -> None:
        """End all of them."""
        for place in range(_LOOPS):
            self._end(place)
            self._until[place] = 0.0

    def disturb(self, now_s: float) -> None:
        """Start and end them as their random moments come."""
        if self._seen_s is not None:
            self.busy_s += (now_s - self._seen_s) * any(self._loops)
        self._seen_s = now_s
        for place, loop in enumerate(self._loops):
            if now_s < self._until[place]:
                continue
            if loop is None:
                command = [sys.executable, "-S", "-c", "while True: pass"]
                busy = OwnedProcess(command, log_file=Path(os.devnull), name="busy loop")
                self._loops[place] = busy.__enter__()
                mean_s = _BUSY_S
            else:
                self._end(place)
                mean_s = _IDLE_S
            self._until[place] = now_s + self._rng.exponential(mean_s)

    def _end(self, place: int) -> None:
        loop = self._loops[place]
        if loop is not None:
            self._loops[place] = None
            loop.terminate()


def stage_of(home: Path) -> str | None:
    """Return the asset that started the latest worker."""
    ledger = home / "logs" / "workers.jsonl"
    if not ledger.exists():
        return None
    lines = ledger.read_text(encoding="utf-8").splitlines()
    return json.loads(lines[-1])["asset"] if lines else None


def optimizing(home: Path) -> OwnedProcess:
    """Return the job with this state folder, ended with its context."""
    return OwnedProcess(
        [
            sys.executable,
            "-c",
            "from optikit_assets.cli import main; main()",
            *("optimize", "--job", _JOB),
        ],
        log_file=home / "optimize.log",
        env={
            **os.environ,
            "OPTIKIT_HOME": str(home),
            "OPTIKIT_ENVIRONMENTS_HOME": str(settings().envs_home),
        },
        cwd=REPOSITORY,
        name="the demo",
        grace_s=_GRACE_S,
    )


def share_artifacts(first: Path, home: Path) -> int:
    """Link what load has no influence on into a fresh state folder; return how many artifacts."""
    source = LocalStore(first / "artifacts")
    shared = [artifact for artifact in source.all() if artifact.kind not in _LOADED]
    for artifact in shared:
        place = home / "artifacts" / artifact.folder().relative_to(first / "artifacts")
        shutil.copytree(artifact.folder(), place, copy_function=os.link)
    return len(shared)


def run_demo(home: Path, seed: int) -> tuple[Deployment, float, float]:
    """Run the job once; return its record, its seconds, and those with a busy loop."""
    home.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    with (
        BusyLoops(np.random.default_rng(seed)) as loops,
        optimizing(home) as process,
    ):
        while process.poll() is None:
            now_s = time.monotonic()
            if now_s - begun > _LIMIT_S:
                raise SystemExit(f"no end within {_LIMIT_S:g} s: see {process.log_file}")
            if stage_of(home) in _DISTURBED:
                loops.disturb(now_s)
            else:
                loops.rest()
            time.sleep(_POLL_S)
    record = home / _BUNDLE / "deployment.json"
    if not record.exists():
        raise SystemExit(f"the job left no bundle: see {process.log_file}")
    found = DEPLOYMENT_FILE.load(json.loads(record.read_text(encoding="utf-8")), str(record))
    return found, time.monotonic() - begun, loops.busy_s


def shown(found: Deployment) -> list[str]:
    """Return the four arms and what ships, one line each."""
    lines = []
    for arm in found.arms.rows():
        rate = "–" if arm.rate_rps is None else f"{arm.rate_rps:.1f} requests/s"
        claim = "" if arm.claimed_rps is None else f", search {arm.claimed_rps:.1f}"
        gain = "" if arm.gain is None else f", gain {arm.gain:.2f}"
        if arm.gain_low is not None and arm.gain_high is not None:
            gain += f" ({arm.gain_low:.2f} to {arm.gain_high:.2f})"
        mark = "→" if arm.deployed else " "
        lines.append(
            f"{mark} {arm.title:<22} {arm.recipe or '–':<10} {arm.evidence:<10} {rate}{claim}{gain}"
        )
    gain = None if found.gain is None else found.gain.model_dump()
    lines.append(f"  ships {found.recipe or 'nothing'}, tuned: {found.tuned}, gain: {gain}")
    lines.append(f"  {found.summary}")
    return lines


def is_honest(found: Deployment) -> bool:
    """Whether what ships is a proven gain, or the plain baseline."""
    if found.recipe == "baseline" and not found.tuned:
        return True
    return found.gain is not None and found.gain.low >= 1.0


def summary(number: int, found: Deployment, seconds: float, busy_s: float) -> dict[str, Any]:
    """Return one row of what was found, for comparing runs."""
    baseline = found.arms.baseline
    return {
        "run": number,
        "ships": f"{found.recipe}{' tuned' if found.tuned else ''}",
        "gain_low": found.gain and round(found.gain.low, 3),
        "certified_rps": found.certified_rate_rps,
        "baseline_evidence": baseline.evidence,
        "baseline_rps": baseline.rate_rps,
        "baseline_search_rps": baseline.claimed_rps,
        "seconds": round(seconds),
        "disturbed_seconds": round(busy_s),
        "honest": is_honest(found),
    }


def main() -> None:
    """Run the demo several times and say whether each told the truth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--home", type=Path, help="kept afterwards; default: a temporary folder")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    # Ended from outside, the contexts below still end what they started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with contextlib.ExitStack() as stack:
        root = options.home
        if root is None:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="disturbed-demo-")))
        root = root.absolute()
        rows: list[dict[str, Any]] = []
        for number in range(options.runs):
            home = root / f"run-{number}"
            if number:
                share_artifacts(root / "run-0", home)
            found, seconds, busy_s = run_demo(home, options.seed + number)
            rows.append(summary(number, found, seconds, busy_s))
            print(f"run {number}: {seconds:.0f} s, {busy_s:.0f} s of them disturbed")
            print("\n".join(shown(found)), flush=True)
        print("\n".join(json.dumps(row) for row in rows))
    if not all(row["honest"] for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
