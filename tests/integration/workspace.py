"""A state folder and spec files of their own, in which the demo's whole pipeline takes minutes."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from optikit_assets.settings import REPOSITORY, settings

MODEL = "demo-llama@1"
SLO: dict[str, Any] = {
    "name": "quick",
    "workload": {"input_tokens": 32, "output_tokens": 8},
    "objectives": [{"metric": "e2e_latency", "percentile": 95, "max_ms": 2000}],
    "search_space": "quick",
    "budget": {
        "tolerance": 0.9,
        "min_probe_seconds": 4,
        "max_probe_seconds": 8,
        "min_probe_requests": 20,
        "warmup_requests": 2,
        "closed_loop_requests": 5,
        "max_probes": 6,
        "max_load_seconds": 60,
        "certification": {"max_rounds": 2},
    },
}
SPACE = {
    "name": "quick",
    "trials": 1,
    "startup_trials": 1,
    "parameters": {"max_num_seqs": {"choices": [16, 32]}},
}
JOB = {"name": "quick", "model": "demo-llama", "slos": ["quick"]}


@dataclass
class Workspace:
    """An OPTIKIT_HOME and a recipes folder of their own, with the machine's environments."""

    home: Path
    recipes: Path

    @property
    def env(self) -> dict[str, str]:
        return {
            **{k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"},
            "OPTIKIT_HOME": str(self.home),
            "OPTIKIT_RECIPES": str(self.recipes),
            "OPTIKIT_ENVIRONMENTS_HOME": str(settings().envs_home),
        }

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", "from optikit_assets.cli import main; main()", *arguments]

    def optimize(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command("optimize", "--job", "quick"),
            env=self.env,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )

    def started(self) -> Counter[tuple[str, str]]:
        """Count the workers started so far by kind and partition."""
        ledger = self.home / "logs" / "workers.jsonl"
        lines = ledger.read_text().splitlines() if ledger.exists() else []
        entries = [json.loads(line) for line in lines]
        return Counter((entry["worker"], entry["partition"]) for entry in entries)

    def edit(self, file: str, **changes: object) -> None:
        path = self.recipes / file
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))

    @property
    def bundle(self) -> Path:
        return self.home / "deployments" / MODEL / "quick"


def answers(address: str) -> bool:
    """Whether a server says at once that all is well."""
    try:
        return httpx.get(address, timeout=5).is_success
    except httpx.HTTPError:
        return False


def quick_workspace(root: Path) -> Workspace:
    """Return the demo model with one recipe, few items and an SLO that is searched in seconds."""
    recipes = root / "recipes"
    for folder in ("quantization", "slos", "evaluations", "search_spaces", "models", "jobs"):
        (recipes / folder).mkdir(parents=True)
    shipped = REPOSITORY / "recipes"
    for name in ("baseline", "int_w8a8"):
        shutil.copy(shipped / "quantization" / f"{name}.yaml", recipes / "quantization")
    shutil.copy(shipped / "models" / "demo-llama.yaml", recipes / "models")
    shutil.copytree(shipped / "evaluations" / "demo", recipes / "evaluations" / "demo")
    suite = yaml.safe_load((shipped / "evaluations" / "demo.yaml").read_text())
    # Few items cannot prove anything, and the gate is not what is tested here.
    suite["tasks"] = [{**task, "limit": 20} for task in suite["tasks"]]
    suite["gate"] = {"margin": 0.95}
    for folder, spec in (
        ("evaluations", suite),
        ("slos", SLO),
        ("search_spaces", SPACE),
        ("jobs", JOB),
    ):
        (recipes / folder / f"{spec['name']}.yaml").write_text(yaml.safe_dump(spec))
    made = Workspace(root / "home", recipes)
    made.edit("models/demo-llama.yaml", slos=["quick"])
    made.edit(
        "quantization/int_w8a8.yaml",
        trials=2,
        calibration={"samples": 16, "max_sequence_length": 128},
    )
    return made
