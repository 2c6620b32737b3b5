"""The shipped list of engine flags, and words of its log, against the vLLM that is installed."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from optikit_assets.delivery import deploy_files, serving_plan
from optikit_assets.engines import Flags, Hardware, get_engine
from optikit_assets.engines.vllm import flag_catalog
from optikit_assets.errors import AcceleratorError
from optikit_assets.faults import fault_in
from optikit_assets.settings import REPOSITORY, settings
from tests.unit.deployment import samples

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

VLLM = get_engine("vllm")
FLAGS: Flags = {
    "disable_uvicorn_access_log": True,
    "dtype": "bfloat16",
    "enforce_eager": True,
    "enable_prefix_caching": False,
    "hf_overrides": '{"rope_theta": 20000}',
    "kv_cache_memory_bytes": 268435456,
    "max_model_len": 92,
    "max_num_seqs": 8,
    "performance_mode": "throughput",
}
TEXT = VLLM.config_text(FLAGS, model="models/m/1", served_model_name="m@1", header="a comment")

ASK = """
import inspect, json, sys
from types import SimpleNamespace
from vllm.engine.arg_utils import EngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.worker import gpu_worker
from vllm.v1.worker.utils import request_memory
from optikit_assets.engines.vllm.dump_flags import installed_flags
parsed = {}
for name, argv in json.loads(sys.argv[1]).items():
    if argv[0] == "serve":
        # As the command does it: the file is read by the parser above the subcommand's.
        parser = FlexibleArgumentParser()
        make_arg_parser(parser.add_subparsers().add_parser("serve"))
    else:
        parser = make_arg_parser(FlexibleArgumentParser())
    found = vars(parser.parse_args(argv))
    found["model"] = found.pop("model_tag", None) or found["model"]
    parsed[name] = found
tokens, sequences = EngineArgs.get_batch_defaults(world_size=1)
server = UsageContext.OPENAI_API_SERVER
card = {"total_memory": 80 << 30, "free_memory": 3 << 30, "device_": "cuda:0"}
try:
    request_memory(SimpleNamespace(**card), SimpleNamespace(gpu_memory_utilization=0.95))
except ValueError as error:
    taken = str(error)
answers = {
    "taken": taken,
    "worker": inspect.getsource(gpu_worker),
    "flags": installed_flags(),
    "parsed": parsed,
    "is_cpu": current_platform.is_cpu(),
    "limits": {"max_num_seqs": sequences[server], "max_num_batched_tokens": tokens[server]},
}
print("ANSWERS", json.dumps(answers, default=repr))
"""


def manifests(config: Path) -> dict[str, list[str]]:
    """Return how every format of a bundle starts the server, after the command itself."""
    deployment = samples.deployment().model_copy(update={"flags": dict(FLAGS)})
    plan = serving_plan(deployment, VLLM)
    files = deploy_files(deployment, VLLM, plan)
    config.write_text(files["deploy/vllm.yaml"])

    def document(name: str, number: int = 0) -> Any:
        return list(yaml.safe_load_all(files[f"deploy/{name}"]))[number]

    kserve = document("kserve.yaml", 1)["spec"]["predictor"]["containers"][0]
    llm = document("kserve-llm.yaml", 1)["spec"]["template"]["containers"][0]
    pod = document("kubernetes.yaml", 1)["spec"]["template"]["spec"]["containers"][0]
    server = document("compose.yaml")["services"]["server"]
    stack = document("production-stack.yaml")["servingEngineSpec"]["modelSpec"][0]
    caching = stack["vllmConfig"]["enablePrefixCaching"]
    ray = document("ray-serve.yaml")["applications"][0]["args"]["llm_configs"][0]
    # What a call from Python takes as an object is text on a command line.
    arguments = {
        name: json.dumps(value) if isinstance(value, dict) else value
        for name, value in ray["engine_kwargs"].items()
    }
    words = {
        "compose": [*server["entrypoint"], *server["command"]],
        "kubernetes": [*pod["command"], *pod["args"]],
        "kserve": [*kserve["command"], *kserve["args"]],
        "kserve-llm": [*llm["command"], *llm["args"]],
        # As the chart renders it (helm/templates/deployment-vllm-multi.yaml).
        "production-stack": [
            "vllm", "serve", stack["modelURL"], "--host", "0.0.0.0", "--port", "8000",
            f"--{'' if caching else 'no-'}enable-prefix-caching", *stack["vllmConfig"]["extraArgs"],
        ],
        "ray-serve": ["vllm", *VLLM.catalog.to_argv(arguments)],
    }  # fmt: skip
    inside = f"/etc/optikit/{config.name}"
    return {
        name: [str(config) if word == inside else word for word in argv[1:]]
        for name, argv in words.items()
    }


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What vLLM says to all of these tests, which takes less time than its import."""
    python = settings().envs_home / "envs" / "serve" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no serve environment at {python}; run `make setup`")
    folder = tmp_path_factory.mktemp("config")
    config = folder / "here.yaml"
    config.write_text(TEXT)
    at = ["--host=127.0.0.1", "--port=8123"]
    name_and_model = ["--model=models/m/1", "--served-model-name=m@1"]
    commands = {
        "argv": [*name_and_model, *VLLM.catalog.to_argv(FLAGS), *at],
        "file": ["--config", str(config), *at],
        **manifests(folder / "vllm.yaml"),
    }
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [str(python), "-c", ASK, json.dumps(commands)],
        capture_output=True,
        text=True,
        timeout=500,
        cwd=REPOSITORY,
        env={**environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("ANSWERS "))
    return json.loads(line.removeprefix("ANSWERS "))


def test_the_shipped_flags_are_those_of_the_installed_parser(answers: dict[str, Any]) -> None:
    shipped = Path(flag_catalog.__file__).with_name("flags.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(answers["flags"]) == yaml.safe_load(shipped)


def test_the_config_file_means_to_vllm_what_the_command_line_means(answers: dict[str, Any]) -> None:
    assert VLLM.config_flags(TEXT) == FLAGS
    by_argv, by_file = (answers["parsed"][name] for name in ("argv", "file"))
    assert by_argv == by_file
    assert {name: by_argv[name] for name in FLAGS} == VLLM.catalog.to_arguments(FLAGS)
    assert (by_argv["served_model_name"], by_argv["port"]) == (["m@1"], 8123)


@pytest.mark.parametrize(
    "name", ["compose", "kubernetes", "kserve", "kserve-llm", "production-stack", "ray-serve"]
)
def test_every_format_means_to_vllm_what_was_certified(answers: dict[str, Any], name: str) -> None:
    elsewhere = {"model", "served_model_name", "host", "port"}
    there = answers["parsed"][name]
    different = {
        key: (value, there[key])
        for key, value in answers["parsed"]["file"].items()
        if key not in elsewhere and there[key] != value
    }
    if name == "ray-serve":
        different = {k: v for k, v in different.items() if not VLLM.catalog.flags[k].server_only}
    else:
        assert there["model"] == "/mnt/models"
        assert there["port"] == 8000
    assert different == {}


def test_the_engines_batch_limits_are_those_we_assume(answers: dict[str, Any]) -> None:
    if not answers["is_cpu"]:
        pytest.skip("the limits of a GPU follow its memory")
    assumed = VLLM.defaults(Hardware("cpu", "", 1, 1024**3))
    assert {name: assumed[name] for name in answers["limits"]} == answers["limits"]


def test_memory_that_another_process_has_is_recognized_as_the_installed_vllm_words_it(
    answers: dict[str, Any],
) -> None:
    assert fault_in(f"ValueError: {answers['taken']}") is AcceleratorError
    assert fault_in(answers["taken"].replace("76.0", "79.5")) is None
    # That memory came free needs a card; it says so in strings that follow one another.
    told = r'"Error in memory profiling\. "\s+f"Initial free memory \{'
    assert re.search(told, answers["worker"])
