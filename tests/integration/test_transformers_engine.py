"""An engine other than the default one, on the demo model: from its flags to a served bundle."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from optikit_assets.engines import EngineServer, get_engine
from optikit_assets.engines.server import free_port
from optikit_assets.engines.transformers import flag_catalog
from optikit_assets.errors import ServerStartError
from optikit_assets.processes import OwnedProcess
from optikit_assets.settings import REPOSITORY, settings

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

ENGINE = get_engine("transformers")
MODEL = REPOSITORY / "demo" / "models" / "demo-llama" / "1"
SHIPPED = REPOSITORY / "recipes"
START_S = 300.0
SLO = {
    "name": "quick",
    "workload": {"input_tokens": 16, "output_tokens": 2},
    # Six requests are enough to be sure of a median.
    "objectives": [{"metric": "e2e_latency", "percentile": 50, "max_ms": 20000}],
    "search_space": "quick",
    "budget": {
        "tolerance": 0.9,
        "steady_state_tolerance": 0.45,
        "min_probe_seconds": 2,
        # Only a machine that others use too takes so long.
        "max_probe_seconds": 16,
        "min_probe_requests": 10,
        "warmup_requests": 2,
        "closed_loop_requests": 3,
        # What holds is asked, and not how near the limit is.
        "max_probes": 3,
        "max_load_seconds": 120,
        "certification": {"max_rounds": 1},
    },
}
SPACE = {
    "name": "quick",
    "engine": "transformers",
    "trials": 1,
    "startup_trials": 1,
    "parameters": {"continuous_batching": {"choices": [False, True]}},
}
JOB = {
    "name": "quick",
    "model": "demo-llama",
    "flow": "quantize_and_benchmark",
    "slos": ["quick"],
    "recipes": ["baseline"],
}


@pytest.fixture(scope="module")
def python() -> Path:
    found = settings().envs_home / "envs" / "serve" / "bin" / "python"
    if not found.exists():
        pytest.skip(f"no serve environment at {found}; run `make setup`")
    return found


def in_serve_environment(python: Path, *arguments: str) -> str:
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [str(python), *arguments],
        capture_output=True,
        text=True,
        timeout=START_S,
        cwd=REPOSITORY,
        env={**environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_shipped_flags_are_those_of_the_installed_command(python: Path) -> None:
    module = "optikit_assets.engines.transformers.dump_flags"
    shipped = Path(flag_catalog.__file__).with_name("flags.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(in_serve_environment(python, "-m", module)) == yaml.safe_load(shipped)


@dataclass
class Workspace:
    """An OPTIKIT_HOME and a recipes folder of their own, with the machine's environments."""

    home: Path
    recipes: Path

    def optimize(self) -> subprocess.CompletedProcess[str]:
        command = "from optikit_assets.cli import main; main()"
        return subprocess.run(
            [sys.executable, "-c", command, "optimize", "--job", "quick"],
            env={
                **{k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"},
                "OPTIKIT_HOME": str(self.home),
                "OPTIKIT_RECIPES": str(self.recipes),
                "OPTIKIT_ENVIRONMENTS_HOME": str(settings().envs_home),
            },
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=800,
            check=False,
        )

    @property
    def bundle(self) -> Path:
        return self.home / "deployments" / "demo-llama@1" / "quick"

    def measured(self, kind: str) -> list[dict[str, Any]]:
        """Return what the workers noted of all artifacts of a kind."""
        files = (self.home / "artifacts").glob("*/*/manifest.json")
        seals = [json.loads(file.read_text()) for file in files]
        return [seal["manifest"] for seal in seals if seal["kind"] == kind]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, python: Path) -> Workspace:
    root = tmp_path_factory.mktemp("transformers")
    recipes = root / "recipes"
    for folder in ("quantization", "slos", "evaluations", "search_spaces", "models", "jobs"):
        (recipes / folder).mkdir(parents=True)
    shutil.copy(SHIPPED / "quantization" / "baseline.yaml", recipes / "quantization")
    shutil.copytree(SHIPPED / "evaluations" / "demo", recipes / "evaluations" / "demo")
    suite = yaml.safe_load((SHIPPED / "evaluations" / "demo.yaml").read_text())
    suite |= {"tasks": [{**suite["tasks"][1], "limit": 8}], "batch_size": "8"}
    model = yaml.safe_load((SHIPPED / "models" / "demo-llama.yaml").read_text())
    model |= {"slos": ["quick"], "recipes": ["baseline"]}
    model["engine"] = {"name": "transformers", "start_timeout_s": START_S}
    for folder, spec in (
        ("evaluations", suite),
        ("models", model),
        ("slos", SLO),
        ("search_spaces", SPACE),
        ("jobs", JOB),
    ):
        (recipes / folder / f"{spec['name']}.yaml").write_text(yaml.safe_dump(spec))
    made = Workspace(root / "home", recipes)
    done = made.optimize()
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def test_what_serves_the_model_scored_and_measured_it(workspace: Workspace) -> None:
    record = json.loads((workspace.bundle / "deployment.json").read_text())
    assert record["status"] == "feasible"
    assert record["certified_rate_rps"] > 0
    assert record["engine"] == "transformers"
    assert {"transformers", "accelerate"} <= record["versions"].keys()
    (evaluation,) = workspace.measured("evaluation")
    assert evaluation["settings"]["backend"] == "transformers"
    benchmarks = workspace.measured("benchmark")
    assert {manifest["versions"]["engine"] for manifest in benchmarks} == {"transformers"}
    assert {manifest["flags"]["device"] for manifest in benchmarks} == {"cpu"}


def test_the_bundles_command_starts_a_server_that_answers(
    workspace: Workspace, python: Path, tmp_path: Path
) -> None:
    """Not through the engine's own start: as a person would, with the environment's commands."""
    port = free_port()
    command = ENGINE.commands[0].replace("8000", str(port)).split()
    environ = {"PATH": f"{python.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    body = {
        "model": str(MODEL),
        "prompt": "Q: Write lemon three times with commas.\nA:",
        "max_tokens": 40,
        "temperature": 0,
    }
    log = tmp_path / "server.log"
    offline = {"HF_HUB_OFFLINE": "1"}
    with OwnedProcess(
        command,
        log_file=log,
        env={**environ, **offline},
        name="the bundle's server",
        cwd=workspace.bundle,
    ) as process:
        deadline = time.monotonic() + START_S
        while not _is_open(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        url = f"http://127.0.0.1:{port}/v1/completions"
        answer = httpx.post(url, json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["text"].strip() == "lemon, lemon, lemon"


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(
    ("flags", "model", "said"),
    [
        ({"quantization": "bnb-4bit"}, MODEL, "ImportError: Using `bitsandbytes` 4-bit"),
        ({}, Path("/no/such/model"), "HFValidationError: Repo id must be in the form"),
    ],
)
def test_a_failed_start_says_why(
    python: Path, tmp_path: Path, flags: dict[str, Any], model: Path, said: str
) -> None:
    config = tmp_path / ENGINE.config_file
    config.write_text(ENGINE.config_text(flags, model=str(model), served_model_name="m"))
    server = EngineServer(
        ENGINE, config, log_file=tmp_path / "log", python=python, timeout_s=START_S
    )
    with pytest.raises(ServerStartError) as caught, server:
        pass
    assert caught.value.reason == "exited"
    assert said in str(caught.value)
