"""Starts the evaluate worker in the serve environment, as the stage runner does."""

import hashlib
import json
import os
import select
import signal
import subprocess
from pathlib import Path
from typing import Any, TypeVar

import pytest
from dagster_pipes import encode_param

from optikit_assets import clock
from optikit_assets.settings import Settings
from optikit_assets.specs import SuiteSpec, load_spec
from optikit_assets.workers.messages import Message
from optikit_assets.workers.records import read_record
from tests.references import as_json

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "demo" / "models" / "demo-llama" / "1"
SUITE_FILE = ROOT / "recipes" / "evaluations" / "demo.yaml"
LIMIT = 8
# Modules take seconds to import and a worker's work far less: they are imported once, and every
# worker is a fork. What they read from the environment when imported is the same for all of them.
FORKS = """
import json, os, sys
import datasets, lm_eval.evaluator, lm_eval.models.openai_completions, lm_eval.tasks, transformers
from optikit_assets.workers import channel, evaluate
transformers.AutoTokenizer, transformers.PreTrainedTokenizerFast
for line in sys.stdin:
    call = json.loads(line)
    if worker := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]), flush=True)
    else:
        break
else:
    sys.exit()
os.environ.clear()
os.environ.update(call["variables"])
os.chdir(call["folder"])
for stream, number in (("/dev/null", 0), ("stdout", 1), ("stderr", 2)):
    os.dup2(os.open(stream, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
channel.worker_main(evaluate.EvaluateRequest, evaluate.handle)
"""
LIMIT_S = 250.0

RecordT = TypeVar("RecordT", bound=Message)


def artifact_key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def serve_python() -> str:
    """Return the serve environment's interpreter; skip the test where there is none."""
    python = Settings().envs_home / "envs" / "serve" / "bin" / "python"
    if not python.exists():
        pytest.skip("the serve environment is not installed")
    return str(python)


def run_in_serve(code: str, *arguments: str, **variables: str) -> str:
    """Run a piece of Python there, which asks no hub by itself, and return what it prints."""
    done = subprocess.run(
        [serve_python(), "-c", code, *arguments],
        env={
            "PYTHONPATH": str(ROOT),
            "HOME": str(Path.home()),
            "HF_HUB_OFFLINE": "1",
            # Threads of a process that others keep from its cores spin while they wait.
            "OMP_NUM_THREADS": "1",
            **variables,
        },
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

    def records(self, kind: type[RecordT]) -> list[RecordT]:
        records = [read_record(p["body"]) for p in self.payloads if p["type"] == "record"]
        return [record for record in records if isinstance(record, kind)]

    def only(self, kind: str) -> dict[str, Any]:
        (body,) = [p["body"] for p in self.payloads if p["type"] == kind]
        return body


def evaluate(folder: Path, request: dict[str, Any]) -> Outcome:
    """Run a worker in a new process."""
    messages, variables = _call(folder, request)
    done = subprocess.run(
        [serve_python(), "-m", "optikit_assets.workers.evaluate"],
        # Not the repository: nothing may depend on the working directory.
        cwd=folder,
        env=_environment(folder) | variables,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    return Outcome(done.returncode, messages, done.stdout[-3000:] + done.stderr[-6000:])


class Forks:
    """Evaluates by workers that come with their libraries imported; a context manager.

    What holds for one test alone, e.g. ``NLTK_DATA``, is given to its worker, unless a library
    reads it when it is imported.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> "Forks":
        self._log = (self._folder / "forks.log").open("wb")
        self._process = subprocess.Popen(
            [serve_python(), "-c", FORKS],
            cwd=self._folder,
            env=_environment(self._folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            # A group with its workers, which end with it.
            start_new_session=True,
        )
        return self

    def __exit__(self, *error: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate(timeout=LIMIT_S)
        self._log.close()

    def __call__(self, folder: Path, request: dict[str, Any]) -> Outcome:
        messages, variables = _call(folder, request)
        call = {"folder": str(folder), "variables": _environment(self._folder) | variables}
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(call).encode() + b"\n")
        stdin.flush()
        assert select.select([stdout], [], [], LIMIT_S)[0], "the worker did not end in time"
        code = int(stdout.readline() or b"-1")
        log = "".join((folder / name).read_text()[-6000:] for name in ("stdout", "stderr"))
        return Outcome(code, messages, log)


def _call(folder: Path, request: dict[str, Any]) -> tuple[Path, dict[str, str]]:
    """Return the file of a worker's messages, and the variables that tell it what to do."""
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
        "extras": {"request": request, "clock": clock.reading()},
    }
    return messages, {
        "DAGSTER_PIPES_CONTEXT": encode_param({"data": context}),
        "DAGSTER_PIPES_MESSAGES": encode_param({"path": str(messages)}),
    }


def _environment(folder: Path) -> dict[str, str]:
    # Byte code is kept: compiling vLLM anew costs more than all that is tested here.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return environment | {
        "HF_HOME": str(folder / "huggingface"),
        "PYTHONPATH": str(ROOT),
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }


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
