"""State folders for the plays: one model, one recipe beside the baseline, one SLO."""

import os
import shutil
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from benchmarks.faults.stages import MODEL, RECIPE, SLO, STAGES, flow_of
from benchmarks.faults.worker import ENGINE
from optikit_assets.defs.recorded import recorded
from optikit_assets.processes import OwnedProcess
from optikit_assets.settings import REPOSITORY, configure
from optikit_assets.specs.plugins import FLOWS
from tests.definitions.world import World
from tests.servers.vllm_stand_in import install
from tests.unit.execution.devices import install_environment

LIMIT_S = 300.0
PACKAGES = "packages"
"""Folder of the entry points of the plays, below the home of the environments."""
_ROWS = 256
_NEVER = 10**9
_MOVE_IN = "from benchmarks.faults.machine import move_in\n\nmove_in()\n"
_SLO = f"""\
name: {SLO}
workload: {{input_tokens: 16, output_tokens: 4}}
objectives: [{{metric: e2e_latency, percentile: 80, max_ms: 2000}}]
budget:
  strategy: paper
  min_probe_seconds: 1
  max_probe_seconds: 3
  min_probe_requests: 10
  warmup_requests: 2
  closed_loop_requests: 3
  max_probes: 2
  max_load_seconds: 8
  tolerance: 0.5
  certification: {{candidates: 1, max_rounds: 2, max_load_seconds: 30}}
search_space: {SLO}
"""
_SEARCH_SPACE = f"""\
name: {SLO}
trials: 2
startup_trials: 1
parameters: {{max_num_seqs: {{choices: [16, 64]}}}}
economy: {{per_server: 1, priors: false}}
"""


class Room:
    """Specs and environments for all plays, and what stages need, made once.

    Parameters
    ----------
    root
        Folder of all that is kept.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environments = root / "environments"
        if not self.environments.exists():
            self._furnish()
        configure(
            recipes=root / "world" / "recipes",
            root=root / "world",
            environments_home=self.environments,
        )

    def _furnish(self) -> None:
        self._register_flows()
        with dg.DagsterInstance.ephemeral() as instance:
            world = World(self.root / "world", instance)
        row = '{"text": "one and one is two"}\n'
        world.write("calibration.jsonl", row * _ROWS)
        world.write(f"slos/{SLO}.yaml", _SLO)
        world.write(f"search_spaces/{SLO}.yaml", _SEARCH_SPACE)
        install(self.environments / ENGINE, MODEL, _NEVER)
        for name in ("compress", "serve"):
            install_environment(self.environments, name, "benchmarks.faults.worker")
        # What every Python of the control environment does first, as PYTHONPATH has it.
        (self.environments / PACKAGES / "sitecustomize.py").write_text(_MOVE_IN)

    def _register_flows(self) -> None:
        """Make what an installed package has that brings flows: its entry points."""
        package = self.environments / PACKAGES / "optikit_faults-1.0.dist-info"
        package.mkdir(parents=True)
        (package / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: optikit-faults\nVersion: 1.0\n"
        )
        flows = [f"{flow_of(s).name} = benchmarks.faults.flows:{s}\n" for s in STAGES]
        (package / "entry_points.txt").write_text(f"[{FLOWS}]\n{''.join(flows)}")

    def before(self, stage: str) -> Path:
        """Return a state folder in which all is made that a stage needs, and it is not."""
        number = list(STAGES).index(stage)
        if number == 0:
            (self.root / "empty").mkdir(exist_ok=True)
            return self.root / "empty"
        return self.after(list(STAGES)[number - 1]).folder

    def after(self, stage: str) -> "Home":
        """Return the state folder that the undisturbed stage leaves."""
        home = Home(self.root / "undisturbed" / stage / "home")
        if not (home.play / "done").exists():
            before = self.before(stage)
            shutil.rmtree(home.play, ignore_errors=True)
            shutil.copytree(before, home.folder, symlinks=True)
            with home.drive(stage) as driver:
                if driver.wait(LIMIT_S) != 0:
                    raise SystemExit(f"{stage} cannot be made:\n{driver.log_tail()}")
            (home.play / "done").touch()
        return home


@dataclass(frozen=True)
class Home:
    """The state folder of one play."""

    folder: Path

    @property
    def play(self) -> Path:
        """Folder of all that belongs to the play, its temporary files among them."""
        return self.folder.parent

    @property
    def variables(self) -> dict[str, str]:
        """Environment of its processes, by which they are known."""
        temporary = self.play / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        packages = Path(os.environ["OPTIKIT_ENVIRONMENTS_HOME"]) / PACKAGES
        return {
            **os.environ,
            "OPTIKIT_HOME": str(self.folder),
            "OPTIKIT_AUTOMATION": "stopped",
            "PYTHONPATH": f"{packages}{os.pathsep}{REPOSITORY}",
            "TMPDIR": str(temporary),
        }

    def drive(self, stage: str, number: int = 0) -> OwnedProcess:
        """Return the command that brings a stage up to date, to be started."""
        flow = flow_of(stage)
        slo = ["--slo", SLO] if flow.measures else []
        asked = ["--model", MODEL, "--recipe", RECIPE, *slo, "--flow", flow.name]
        return self.optikit("driver", self.play / f"driver-{number}.log", "optimize", *asked)

    def repair(self) -> OwnedProcess:
        """Return the command that clears away what is left, to be started."""
        return self.optikit("doctor", self.play / "doctor.log", "doctor", "--repair")

    def repaired(self) -> str:
        """Return what that command said."""
        return (self.play / "doctor.log").read_text(encoding="utf-8", errors="replace")

    def optikit(
        self, name: str, log_file: Path, *words: str, variables: dict[str, str] | None = None
    ) -> OwnedProcess:
        """Return any command of ours on this folder, to be started."""
        return OwnedProcess(
            [str(Path(sys.executable).with_name("optikit")), *words],
            log_file=log_file,
            env=variables or self.variables,
            cwd=REPOSITORY,
            name=name,
        )

    def said(self) -> str:
        """Return what all drivers have said so far."""
        logs = sorted(self.play.glob("driver-*.log"))
        return "".join(log.read_text(encoding="utf-8", errors="replace") for log in logs)

    def workers_started(self) -> int:
        """Return how many workers were ever started."""
        ledger = self.folder / "logs" / "workers.jsonl"
        return len(ledger.read_text(encoding="utf-8").splitlines()) if ledger.exists() else 0

    def versions(self, stage: str) -> dict[str, str]:
        """Return the recorded version of every partition up to a stage; "" of one without."""
        from optikit_assets.headless.materialize import open_instance

        configure(home=self.folder)
        with ExitStack() as stack:
            instance = stack.enter_context(open_instance())
            nodes = flow_of(stage).nodes(MODEL, [SLO], ["baseline", RECIPE])
            found = {str(node): recorded(instance, node) for node in nodes}
        return {name: known.version if known else "" for name, known in found.items()}
