"""What a kill does to real stages on a cluster: workers, models and a bucket are those of the demo.

``python -m benchmarks.cluster_stage_kills [--write] [STAGE:EVENT ...]`` starts the cluster of
``make demo-cluster`` (an S3 server, a head and two nodes) and materializes a stage on it, with
another recipe, suite, SLO or search space each time, so that nothing of it is there yet. In the
middle of it, with something finished, it kills one thing, looks until no process of the workers
that it took down is left, and lets the stage, or the next run of it, come to its end.

Outcomes are kept below ``OPTIKIT_HOME/stage-kills``, so that it can be run in parts; ``--write``
puts all of them into ``docs/cluster.md``.
"""

import argparse
import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from benchmarks.cluster_kills import KILLS, Kill, Scene, family_of
from benchmarks.plays import STILL_THERE, Outcomes, command_of, until, variable_of
from benchmarks.tables import markdown, write_section
from demo.cluster import NODES, node
from demo.s3 import BUCKET, s3_server
from optikit_assets.errors import OptikitError, one_line
from optikit_assets.execution.ray.guard import TOKEN_VARIABLE
from optikit_assets.execution.ray.loopback import LoopbackCluster
from optikit_assets.processes import OwnedProcess, wait_gone
from optikit_assets.settings import REPOSITORY, settings

MODEL = "demo-llama@1"


@dataclass(frozen=True)
class Play:
    """A stage as it is disturbed.

    Attributes
    ----------
    needed
        What is made of other stages first, undisturbed, in this order.
    workers
        That have to be at work when the kill comes.
    finished
        Kinds of records of which one has to have come.
    """

    asset: str
    partition: str
    needed: tuple[tuple[str, str], ...]
    workers: int
    finished: tuple[str, ...]


_RECIPE, _SLO = f"{MODEL}|int_w8a8", f"{MODEL}|baseline@demo"
_COMPRESSED = (("base_model", MODEL), ("quantized_model", _RECIPE))
_BASELINE = (
    ("base_model", MODEL),
    ("quantized_model", f"{MODEL}|baseline"),
    ("eval_scores", f"{MODEL}|baseline"),
)
_PROBED = ("probe_finished",)
STAGES = {
    "compress": Play("quantized_model", _RECIPE, _COMPRESSED[:1], 2, ("trial_finished",)),
    "evaluate": Play("eval_scores", _RECIPE, _COMPRESSED, 2, ("candidate_finished",)),
    "sweep": Play("benchmark_sweep", _SLO, _BASELINE, 1, _PROBED),
    "tune": Play("tuned_config", _SLO, (*_BASELINE, ("benchmark_sweep", _SLO)), 2, _PROBED),
}
STORE_KILLED = "S3 server killed"
NODE_EVENTS = ("raylet killed", "node stopped")
UNDISTURBED = "undisturbed"
EVENTS = (
    UNDISTURBED,
    "driver killed",
    "worker killed",
    "task killed",
    *NODE_EVENTS,
    "head killed",
    STORE_KILLED,
)
# A worker meets a store that is gone when it has something to keep, and asks it again for a while.
_CLEAN_LIMIT_S = 300.0
_MIDDLE_LIMIT_S = 240.0
_END_LIMIT_S = 400.0


# Suite, recipe, SLO and search space, each with a number that may be another one.
_FIRST = 64
_SPECS = {
    "quantization/int_w8a8.yaml": (
        "compress",
        """name: int_w8a8
backend: llmcompressor
modifiers:
  - {{type: smoothquant, smoothing_strength: 0.5{number}}}
  - {{type: gptq, scheme: W8A8}}
calibration: {{samples: 32, max_sequence_length: 256}}
trials: 4
max_attempts: 2
""",
    ),
    "evaluations/demo.yaml": (
        "evaluate",
        """name: demo
task_folder: demo
max_model_len: 256
tasks:
  - {{task: demo_safety, metrics: ["exact_match,refused-or-answered"], limit: {number}}}
gate: {{margin: 0.9, alpha: 0.05}}
""",
    ),
    "slos/demo.yaml": (
        "sweep",
        """name: demo
workload: {{input_tokens: 64, output_tokens: 16, prefix_tokens: 0, arrivals: poisson}}
objectives:
  - {{metric: e2e_latency, percentile: 95, max_ms: 500}}
search_space: demo
budget:
  tolerance: 0.2
  steady_state_tolerance: 0.1
  min_probe_seconds: 6
  max_probe_seconds: 12
  min_probe_requests: 40
  warmup_requests: 4
  closed_loop_requests: 8
  max_probes: 6
  max_load_seconds: {number}
""",
    ),
    "search_spaces/demo.yaml": (
        "tune",
        """name: demo
trials: 3
startup_trials: 2
parameters:
  max_num_seqs: {{choices: [16, 32, {number}]}}
timeout_minutes: 30
""",
    ),
}


@dataclass(frozen=True)
class StageScene(Scene):
    """A stage of the demo in the middle of its work."""

    def workers(self) -> list[psutil.Process]:
        """Return the workers' leading processes."""
        guarded = [p for p in self.processes() if variable_of(p, TOKEN_VARIABLE)]
        return [p for p in guarded if "optikit_assets.workers" in command_of(p)]

    def busy_node(self) -> str:
        """Return a node that a worker's guard runs on."""
        raylets = {str(self.cluster.pid(name)): name for name in NODES}
        guarded = [p for p in self.processes() if variable_of(p, TOKEN_VARIABLE)]
        return next(
            raylets[raylet]
            for process in guarded
            if (raylet := variable_of(process, "RAY_RAYLET_PID")) in raylets
        )


class Demo:
    """The demo's cluster, and a state folder in which stages are made again and again."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        self._environments = settings().envs_home
        shutil.rmtree(home / "recipes", ignore_errors=True)
        shutil.copytree(settings().recipes, home / "recipes")
        os.environ.update(
            OPTIKIT_HOME=str(home),
            OPTIKIT_RECIPES=str(home / "recipes"),
            OPTIKIT_STORE=f"s3://{BUCKET}/kills",
            OPTIKIT_ENVIRONMENTS_HOME=str(self._environments),
        )
        self.nodes = {name: node(name, home) for name in NODES}
        self._store, self._running = ExitStack(), ExitStack()
        self.cluster = LoopbackCluster((), home=home)

    def start(self) -> None:
        """Start the S3 server and the cluster, on what there is of an earlier time."""
        server = self._store.enter_context(s3_server(self.home / "s3"))
        os.environ.update(server.environment)
        self.cluster = LoopbackCluster(
            list(self.nodes.values()), home=self.home, environments_home=self._environments
        )
        self._running.enter_context(self.cluster)

    def stop_store(self) -> None:
        """End the S3 server."""
        self._store.close()

    def stop(self) -> None:
        """End all that was started."""
        self._running.close()
        self.stop_store()

    def specify(self, stage: str, number: int) -> None:
        """Write what the stages are made from, with something else for one of them."""
        for name, (owner, text) in _SPECS.items():
            file = self.home / "recipes" / name
            file.write_text(text.format(number=_FIRST + (number if stage == owner else 0)))

    def drive(self, asset: str, partition: str, folder: Path) -> OwnedProcess:
        """Start the materialization of a partition, which notes in `folder` what it hears."""
        folder.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-m", "benchmarks.cluster_stage_kills", "drive", asset, partition]
        return OwnedProcess(
            [*argv, str(folder / "events.jsonl")],
            log_file=folder / "driver.log",
            env={**os.environ, **self.cluster.variables},
            cwd=REPOSITORY,
            name="driver",
        )

    def make(self, asset: str, partition: str) -> None:
        """Materialize a partition that is needed, undisturbed."""
        with self.drive(asset, partition, self.home / "upstream") as driver:
            if driver.wait(_END_LIMIT_S) != 0:
                raise SystemExit(f"{asset}[{partition}] cannot be made:\n{driver.log_tail()}")

    def workers_started(self) -> int:
        """Return how many workers were ever started."""
        ledger = self.home / "logs" / "workers.jsonl"
        return len(ledger.read_text().splitlines()) if ledger.exists() else 0


def play(demo: Demo, stage: str, event: str, number: int) -> dict[str, str]:
    """Set the scene, kill, look, and let the stage or the next run of it come to its end."""
    disturbed = STAGES[stage]
    demo.specify(stage, number)
    for asset, partition in disturbed.needed:
        demo.make(asset, partition)
    before, began_at = demo.workers_started(), time.monotonic()
    folder = demo.home / "plays" / f"{number}"
    with demo.drive(disturbed.asset, disturbed.partition, folder) as driver:
        scene = StageScene(demo.cluster, driver, folder)
        until(
            lambda: _in_the_middle(scene, disturbed, demo.workers_started() - before),
            _MIDDLE_LIMIT_S,
            f"{stage} did not get to its middle",
        )
        scene = replace(scene, node=scene.busy_node())
        clean = _kill(demo, scene, event)
        finished = len(_finished(scene))
        code = driver.wait(_END_LIMIT_S)
    said = _said(scene)
    _mend(demo, event, scene.node)
    if code != 0:
        with demo.drive(disturbed.asset, disturbed.partition, folder) as driver:
            driver.wait(_END_LIMIT_S)
    made = _finished(scene)
    return {
        "stage": stage,
        "event": event,
        "the running stage": said,
        "seconds until clean": clean,
        "finished before": str(finished) if made else "",
        "after": str(len(made) - finished) if made else "",
        "twice": str(len(made) - len(set(made))) if made else "",
        "workers": str(demo.workers_started() - before),
        "seconds in all": f"{time.monotonic() - began_at:.0f}",
        "in the end": _said(scene),
    }


def _kill(demo: Demo, scene: Scene, event: str) -> str:
    """Do it, and return after how many seconds nothing was left of what it took down."""
    if event == UNDISTURBED:
        return ""
    kill: Kill = KILLS.get(event, lambda _: demo.stop_store())
    family = family_of(scene, event)
    killed_at = time.monotonic()
    kill(scene)
    left = wait_gone(family, _CLEAN_LIMIT_S)
    return STILL_THERE if left else f"{time.monotonic() - killed_at:.1f}"


def _mend(demo: Demo, event: str, hit: str) -> None:
    """Start again what was killed, as an operator would."""
    if event in NODE_EVENTS:
        demo.cluster.stop(hit)
        demo.cluster.start(demo.nodes[hit])
    elif event in ("head killed", STORE_KILLED):
        demo.stop()
        demo.start()


def _in_the_middle(scene: Scene, disturbed: Play, workers: int) -> bool:
    if scene.driver.poll() is not None:
        raise SystemExit(f"the driver ended too early:\n{scene.driver.log_tail()}")
    finished = any(event["event"] in disturbed.finished for event in scene.events())
    return finished and workers >= disturbed.workers


def _finished(scene: Scene) -> list[object]:
    """Return the numbers of the trials that were finished, as often as they were."""
    kinds = ("trial_finished", "candidate_finished")
    return [e["trial"] for e in scene.events() if e["event"] in kinds and not e["reused"]]


def _said(scene: Scene) -> str:
    last = scene.events()[-1]
    if last["event"] != "ended":
        return "ended at once"
    said = re.sub(r"[0-9a-f]{64}[.0-9a-f]*", "KEY", str(last["said"]).partition(" (")[0])
    return re.sub(r"[\w.]+:\d+", "HOST:PORT", said)


def drive(asset: str, partition: str, events: str) -> None:
    """Materialize a partition, and write down what its workers say."""
    from optikit_assets.graph import Node
    from optikit_assets.headless.materialize import materialize_node, open_instance, register_model
    from optikit_assets.workers.records import CandidateFinished, Record, TrialFinished

    writing = threading.Lock()

    def note(event: str, **values: object) -> None:
        with writing, Path(events).open("a", encoding="utf-8") as out:
            out.write(json.dumps({"time": time.time(), "event": event, **values}) + "\n")

    def heard(worker: str, record: Record) -> None:
        match record:
            case TrialFinished(trial=ended, reused=reused):
                note(record.kind, trial=ended.trial, reused=reused)
            case CandidateFinished(trial=trial, reused=reused):
                note(record.kind, trial=trial, reused=reused)
            case _:
                note(record.kind)

    with open_instance() as instance:
        register_model(instance, MODEL)
    try:
        note("ended", said=materialize_node(Node.of(asset, partition), heard))
    except OptikitError as error:
        note("ended", said=f"{type(error).__name__}: {one_line(error)}")
        sys.exit(1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play what is asked for, keep and print the outcomes; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster_stage_kills")
    every = [f"{stage}:{event}" for stage in STAGES for event in EVENTS]
    parser.add_argument("plays", nargs="*", help=f"some of: {', '.join(every)} (default: all)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/cluster.md")
    chosen = parser.parse_args(arguments)
    home = settings().home / "stage-kills"
    outcomes = Outcomes(home / "outcomes.json")
    demo = Demo(home)
    try:
        demo.start()
        for name in chosen.plays or every:
            stage, _, event = name.partition(":")
            number = len(list(home.glob("plays/*")))
            outcomes.keep(name, play(demo, stage, event, number))
            print(outcomes.by_play[name], file=sys.stderr, flush=True)
    finally:
        demo.stop()
    found = outcomes.of(every)
    table = markdown(found)
    print(table)
    if chosen.write:
        write_section(REPOSITORY / "docs" / "cluster.md", "cluster-stage-kills", table)
    return int(any(outcome["seconds until clean"] == STILL_THERE for outcome in found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["drive"]:
        drive(*sys.argv[2:])
    else:
        sys.exit(main())
