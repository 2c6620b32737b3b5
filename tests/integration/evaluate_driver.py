"""Starts the evaluate worker in the serve environment, as the stage runner does."""

import hashlib
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from dagster_pipes import encode_param

from optikit_assets.settings import Settings
from optikit_assets.specs import SuiteSpec, load_spec
from tests.references import as_json

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "demo" / "models" / "demo-llama" / "1"
SUITE_FILE = ROOT / "recipes" / "evaluations" / "demo.yaml"
LIMIT = 8
REFUSALS = """
import json, sys
from optikit_assets.errors import OptikitError
from optikit_assets.workers.evaluate import handle
from optikit_assets.workers.messages import EvaluateRequest
said = []
for request in json.load(open(sys.argv[1])):
    try:
        handle(EvaluateRequest.model_validate(request), lambda record: None)
        said.append("")
    except OptikitError as error:
        said.append(str(error))
print(json.dumps(said))
"""


def artifact_key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def serve_python() -> str:
    """Return the serve environment's interpreter; skip the test where there is none."""
    python = Settings().envs_home / "envs" / "serve" / "bin" / "python"
    if not python.exists():
        pytest.skip("the serve environment is not installed")
    return str(python)


def run_in_serve(code: str, *arguments: str) -> str:
    """Run a piece of Python there, which asks no hub, and return what it prints."""
    done = subprocess.run(
        [serve_python(), "-c", code, *arguments],
        env={"PYTHONPATH": str(ROOT), "HOME": str(Path.home()), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def exact_match_task(name: str, **data: Any) -> dict[str, Any]:
    """Return an lm-eval task over items of ``question`` and ``answer``."""
    return {
        "task": name,
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"]},
        "metric_list": [{"metric": "exact_match"}],
        **data,
    }


class Outcome:
    """Exit code and messages of one worker."""

    def __init__(self, returncode: int, messages: Path, log: str) -> None:
        self.returncode, self.log = returncode, log
        lines = messages.read_text(encoding="utf-8").splitlines()
        custom = [m for m in map(json.loads, lines) if m["method"] == "report_custom_message"]
        self.payloads = [message["params"]["payload"] for message in custom]

    def records(self, kind: str) -> list[dict[str, Any]]:
        bodies = [p["body"] for p in self.payloads if p["type"] == "record"]
        return [body["payload"] for body in bodies if body["kind"] == kind]

    def only(self, kind: str) -> dict[str, Any]:
        (body,) = [p["body"] for p in self.payloads if p["type"] == kind]
        return body


def evaluate(folder: Path, request: dict[str, Any]) -> Outcome:
    folder.mkdir(parents=True, exist_ok=True)
    messages = folder / "messages.jsonl"
    messages.touch()
    context = {
        "asset_keys": None,
        "code_version_by_asset_key": None,
        "provenance_by_asset_key": None,
        "partition_key": None,
        "partition_key_range": None,
        "partition_time_window": None,
        "run_id": "test",
        "job_name": None,
        "retry_number": 0,
        "extras": {"request": request},
    }
    done = _in_serve(
        folder,
        "-m",
        "optikit_assets.workers.evaluate",
        DAGSTER_PIPES_CONTEXT=encode_param({"data": context}),
        DAGSTER_PIPES_MESSAGES=encode_param({"path": str(messages)}),
    )
    return Outcome(done.returncode, messages, done.stdout[-3000:] + done.stderr[-6000:])


def refusals(folder: Path, requests: Sequence[dict[str, Any]]) -> list[str]:
    """Return why requests are refused, by one worker: its start takes longer than all of them."""
    file = folder / "requests.json"
    file.write_text(json.dumps(requests), encoding="utf-8")
    done = _in_serve(folder, "-c", REFUSALS, str(file))
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def _in_serve(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    # Byte code is kept: compiling vLLM anew costs more than all that is tested here.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment |= {
        "HF_HOME": str(folder / "huggingface"),
        "PYTHONPATH": str(ROOT),
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    return subprocess.run(
        [serve_python(), *arguments],
        # Not the repository: nothing may depend on the working directory.
        cwd=folder,
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )


def demo_suite(limit: int = LIMIT) -> SuiteSpec:
    suite = load_spec(SUITE_FILE, SuiteSpec)
    tasks = tuple(task.model_copy(update={"limit": limit}) for task in suite.tasks)
    return suite.model_copy(update={"tasks": tasks})


def request(store: Path, suite: SuiteSpec, models: dict[int, Path], **more: Any) -> dict[str, Any]:
    # A server has the model; what is not here has no tokenizer for it either.
    served = more.get("backend") == "endpoint"
    return {
        "store": store.as_uri(),
        "suite": suite.model_dump(mode="json"),
        "task_folder": as_json(SUITE_FILE.with_suffix("")),
        "candidates": [
            {
                "trial": t,
                "model": None if served and not path.exists() else as_json(path),
                "artifact_key": artifact_key(store, t),
            }
            for t, path in models.items()
        ],
        "engine": {"dtype": "bfloat16", "flags": {"enforce_eager": True}},
        **more,
    }
