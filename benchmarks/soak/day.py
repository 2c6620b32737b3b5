"""What people do in a day, once through: each by the way that they do it."""

import json
from dataclasses import dataclass

import dagster as dg
import httpx
import psutil

from benchmarks.faults.remains import remains
from benchmarks.faults.room import LIMIT_S
from benchmarks.faults.stages import MODEL, RECIPE, SLO
from benchmarks.plays import command_of, until
from benchmarks.soak.premises import Premises
from benchmarks.soak.samples import OTHERS, open_runs, processes
from optikit_assets.defs.sensors import OPTIMIZE_JOB
from optikit_assets.graph import DEPLOYABLE_CONFIG
from optikit_assets.processes import OwnedProcess
from tests.tiny_model import write_model

PASSES_S = 7200.0
"""What each cycle stands for: twelve are a day. Shorter than an hour `optikit gc` refuses."""
_IDLE_LIMIT_S = 180.0
_DECIDE = ("--model", MODEL, "--slo", SLO, "--flow", "tune_only")
_COMPRESS = ("--model", MODEL, "--recipe", RECIPE, "--flow", "quantize")
_QUESTION = "SELECT asset, cached, count(*) FROM materializations GROUP BY ALL"
_WORKER = "benchmarks.faults.worker"
_CLICK = """
mutation($run: ExecutionParams!) { launchRun(executionParams: $run) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
} }
"""
_TERMINATE = """
mutation($run: String!) { terminateRun(runId: $run, terminatePolicy: SAFE_TERMINATE) {
  __typename ... on PythonError { message }
} }
"""


@dataclass(frozen=True)
class Day:
    """Cycles on running premises.

    Attributes
    ----------
    instance
        Of the same state folder, to look at runs.
    """

    premises: Premises
    instance: dg.DagsterInstance

    def cycle(self, number: int) -> None:
        """Do half of it, the halves in turn, and wait until nothing goes on any more."""
        version = self._decide(number) if number % 2 else self._compress(number)
        self._click_with_nothing_changed()
        self._ends_well(self._requested(version))
        self._deliver(number)
        self.until_idle()
        self._clear_away(number)
        self.until_idle()

    def _decide(self, number: int) -> str:
        """Edit an SLO, kill a driver in its work, click; return the version that came meanwhile."""
        # Nothing that there was before, or it would be found.
        objective = {"metric": "e2e_latency", "percentile": 80, "max_ms": 2000 + number}
        self.premises.edit(f"slos/{SLO}.yaml", objectives=[objective])
        self._kill_a_driver(number)
        version = self._drop(number)
        decided = self._click()
        self._read(number)
        self._ends_well(decided)
        return version

    def _compress(self, number: int) -> str:
        """Edit a recipe, cancel a run in its work, run the command; as `_decide`."""
        smoothing = {"type": "smoothquant", "smoothing_strength": round(0.3 + number / 1000, 3)}
        modifiers = [smoothing, {"type": "gptq", "scheme": "W8A8"}]
        self.premises.edit(f"quantization/{RECIPE}.yaml", modifiers=modifiers)
        self._cancel_a_run(number)
        version = self._drop(number)
        with self._command(f"{number}-recipe", "optimize", *_COMPRESS) as beside:
            self._read(number)
            self._done(f"{number}-status", "status")
            self._is_well(beside)
        return version

    def until_idle(self) -> None:
        """Wait until every run has ended and no process is left but the long-lived ones."""
        until(lambda: not open_runs(self.instance), LIMIT_S, "runs go on")
        until(lambda: not self._passing(), _IDLE_LIMIT_S, f"still there: {self._passing()}")

    def _passing(self) -> list[str]:
        return [command_of(it)[:200] for role, it in processes(self.premises) if role == OTHERS]

    def _kill_a_driver(self, number: int) -> None:
        with self._command(f"{number}-killed", "optimize", *_DECIDE) as driver:
            until(self._works, LIMIT_S, f"no worker came up:\n{driver.log_tail()}")
            psutil.Process(driver.pid).kill()
        until(lambda: not self._works(), _IDLE_LIMIT_S, "a worker outlives its killed driver")

    def _cancel_a_run(self, number: int) -> None:
        name = f"cancelled-{number}"
        file = self.premises.home.play / f"{name}.yaml"
        job = {"name": name, "model": MODEL, "recipes": [RECIPE], "flow": "quantize"}
        file.write_text(json.dumps(job))
        self._done(f"{number}-submit", "submit", str(file))
        file.unlink()
        (run,) = self.instance.get_runs(dg.RunsFilter(tags={"optikit/job": name}))
        until(self._works, LIMIT_S, f"no worker of run {run.run_id} came up")
        told = self.premises.ask(_TERMINATE, run=run.run_id)["terminateRun"]
        if told["__typename"] != "TerminateRunSuccess":
            raise SystemExit(f"run {run.run_id} cannot be cancelled: {told}")
        self._ends(run.run_id, dg.DagsterRunStatus.CANCELED)
        self.until_idle()

    def _drop(self, number: int) -> str:
        """Put a new version into the folder of models, and return its key."""
        write_model(self.premises.room.root / "world" / "weights" / str(number + 1), fill=number)
        return f"{MODEL.partition('@')[0]}@{number + 1}"

    def _click(self) -> str:
        tags = {"dagster/partition": f"{MODEL}|{SLO}"}
        tags |= {"dagster/partition/model": MODEL, "dagster/partition/slo": SLO}
        asked = {
            "selector": {
                "repositoryLocationName": "optikit",
                "repositoryName": "__repository__",
                "jobName": "__ASSET_JOB",
                "assetSelection": [{"path": [DEPLOYABLE_CONFIG]}],
            },
            "executionMetadata": {"tags": [{"key": k, "value": v} for k, v in tags.items()]},
        }
        told = self.premises.ask(_CLICK, run=asked)["launchRun"]
        if told["__typename"] != "LaunchRunSuccess":
            raise SystemExit(f"a click is refused: {told}")
        return told["run"]["runId"]

    def _click_with_nothing_changed(self) -> None:
        before = self._workers_started()
        self._ends_well(self._click())
        if (more := self._workers_started() - before) > 0:
            raise SystemExit(f"a click with nothing changed started {more} workers")

    def _read(self, number: int) -> None:
        """Ask what people ask while others work."""
        self._done(f"{number}-sql", "sql", _QUESTION)
        for address in (self.premises.reports, f"{self.premises.metrics}/metrics"):
            httpx.get(address, timeout=LIMIT_S).raise_for_status()

    def _deliver(self, number: int) -> None:
        """Let the decision serve; after every other one the one before it again."""
        asked = ("--slo", SLO, "--reason", "the soak", "--model")
        if number % 2:
            self._done(f"{number}-promote", "promote", "--force", *asked, MODEL)
        elif number % 4 == 0:
            self._done(f"{number}-rollback", "rollback", *asked, MODEL.partition("@")[0])

    def _clear_away(self, number: int) -> None:
        self.premises.let_pass(PASSES_S)
        self._done(f"{number}-gc", "gc", "--older-than", "1h")
        with self._command(f"{number}-doctor", "doctor", "--repair") as doctor:
            doctor.wait(LIMIT_S)
        # Dagster's own servers have temporary folders as long as they live.
        left = [what for what in remains(self.premises.home) if not what.startswith("temporary")]
        if left:
            raise SystemExit(f"left behind: {', '.join(left)}")

    def _works(self) -> bool:
        return any(_WORKER in command_of(it) for _, it in processes(self.premises))

    def _workers_started(self) -> int:
        """Return how many workers the model of the decision was ever given."""
        ledger = self.premises.home.folder / "logs" / "workers.jsonl"
        lines = ledger.read_text(encoding="utf-8").splitlines()
        return sum(json.loads(line)["partition"].startswith(f"{MODEL}|") for line in lines)

    def _requested(self, version: str) -> str:
        """Wait until the sensor has requested a version, and return its run."""
        wanted = dg.RunsFilter(job_name=OPTIMIZE_JOB, tags={"optikit/model": version})
        until(lambda: bool(self.instance.get_runs(wanted)), LIMIT_S, f"no run of {version}")
        found = self.instance.get_runs(wanted)
        if len(found) != 1:
            raise SystemExit(f"{version} was requested {len(found)} times")
        return found[0].run_id

    def _ends_well(self, run_id: str) -> None:
        self._ends(run_id, dg.DagsterRunStatus.SUCCESS)

    def _ends(self, run_id: str, status: dg.DagsterRunStatus) -> None:
        def ended() -> bool:
            run = self.instance.get_run_by_id(run_id)
            return run is not None and run.is_finished

        until(ended, LIMIT_S, f"run {run_id} does not end")
        run = self.instance.get_run_by_id(run_id)
        if run is None or run.status is not status:
            raise SystemExit(f"run {run_id}: {run and run.status}, not {status}")

    def _command(self, name: str, *words: str) -> OwnedProcess:
        return self.premises.command(name, *words)

    def _done(self, name: str, *words: str) -> None:
        with self._command(name, *words) as command:
            self._is_well(command)

    def _is_well(self, command: OwnedProcess) -> None:
        if (code := command.wait(LIMIT_S)) != 0:
            raise SystemExit(f"{command.name} ended with {code}:\n{command.log_tail()}")
