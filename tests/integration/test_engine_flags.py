"""The shipped list of engine flags against the vLLM that is installed."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from optikit_assets.engines import Flags, Hardware, get_engine
from optikit_assets.engines.vllm import flag_catalog
from optikit_assets.settings import REPOSITORY, settings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

VLLM = get_engine("vllm")
FLAGS: Flags = {
    "dtype": "bfloat16",
    "enforce_eager": True,
    "enable_prefix_caching": False,
    "kv_cache_memory_bytes": 268435456,
    "max_model_len": 92,
    "max_num_seqs": 8,
    "performance_mode": "throughput",
}
TEXT = VLLM.config_text(FLAGS, model="models/m/1", served_model_name="m@1", header="a comment")

ASK = """
import json, sys
from vllm.engine.arg_utils import EngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser
from optikit_assets.engines.vllm.dump_flags import installed_flags
commands, names = map(json.loads, sys.argv[1:])
parsed = []
for argv in commands:
    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args(argv)
    parsed.append({name: getattr(arguments, name) for name in names})
tokens, sequences = EngineArgs.get_batch_defaults(world_size=1)
server = UsageContext.OPENAI_API_SERVER
answers = {
    "flags": installed_flags(),
    "parsed": parsed,
    "is_cpu": current_platform.is_cpu(),
    "limits": {"max_num_seqs": sequences[server], "max_num_batched_tokens": tokens[server]},
}
print("ANSWERS", json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What vLLM says to all of these tests, which takes less time than its import."""
    python = settings().envs_home / "envs" / "serve" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no serve environment at {python}; run `make setup`")
    config = tmp_path_factory.mktemp("config") / "vllm.yaml"
    config.write_text(TEXT)
    at = ["--host=127.0.0.1", "--port=8123"]
    name_and_model = ["--model=models/m/1", "--served-model-name=m@1"]
    commands = [
        [*name_and_model, *VLLM.catalog.to_argv(FLAGS), *at],
        ["--config", str(config), *at],
    ]
    names = [*FLAGS, "model", "served_model_name", "host", "port"]
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [str(python), "-c", ASK, json.dumps(commands), json.dumps(names)],
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
    by_argv, by_file = answers["parsed"]
    assert by_argv == by_file
    assert {name: by_argv[name] for name in FLAGS} == FLAGS
    assert (by_argv["served_model_name"], by_argv["port"]) == (["m@1"], 8123)


def test_the_engines_batch_limits_are_those_we_assume(answers: dict[str, Any]) -> None:
    if not answers["is_cpu"]:
        pytest.skip("the limits of a GPU follow its memory")
    assumed = VLLM.defaults(Hardware("cpu", "", 1, 1024**3))
    assert {name: assumed[name] for name in answers["limits"]} == answers["limits"]
