"""The shipped list of engine flags against the vLLM that is installed."""

import json
import os
import subprocess
import textwrap
from pathlib import Path

import pytest
import yaml

from optikit_assets.engines import Flags, Hardware, get_engine
from optikit_assets.engines.vllm import flag_catalog
from optikit_assets.settings import REPOSITORY, settings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

VLLM = get_engine("vllm")
LIMITS = ("max_num_seqs", "max_num_batched_tokens")
FLAGS: Flags = {
    "dtype": "bfloat16",
    "enforce_eager": True,
    "enable_prefix_caching": False,
    "kv_cache_memory_bytes": 268435456,
    "max_model_len": 92,
    "max_num_seqs": 8,
    "performance_mode": "throughput",
}

PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
parsed = []
for argv in json.loads(sys.argv[1]):
    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args(argv)
    names = (*json.loads(sys.argv[2]), "model", "served_model_name", "host", "port")
    parsed.append({name: getattr(arguments, name) for name in names})
print("PARSED", json.dumps(parsed))
"""


@pytest.fixture(scope="module")
def in_serve_environment():
    python = settings().envs_home / "envs" / "serve" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no serve environment at {python}; run `make setup`")

    def run(*arguments: str) -> str:
        environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        done = subprocess.run(
            [str(python), *arguments],
            capture_output=True,
            text=True,
            timeout=500,
            cwd=REPOSITORY,
            env={**environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"},
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


def test_the_shipped_flags_are_those_of_the_installed_parser(in_serve_environment):
    installed = yaml.safe_load(in_serve_environment("-m", "optikit_assets.engines.vllm.dump_flags"))
    shipped = yaml.safe_load(
        Path(flag_catalog.__file__).with_name("flags.yaml").read_text(encoding="utf-8")
    )
    assert installed == shipped


def test_the_config_file_means_to_vllm_what_the_command_line_means(in_serve_environment, tmp_path):
    config = tmp_path / "vllm.yaml"
    text = VLLM.config_text(FLAGS, model="models/m/1", served_model_name="m@1", header="a comment")
    config.write_text(text)
    assert VLLM.config_flags(text) == FLAGS
    name_and_model = ["--model=models/m/1", "--served-model-name=m@1"]
    commands = [
        [*name_and_model, *VLLM.catalog.to_argv(FLAGS), "--host=127.0.0.1", "--port=8123"],
        ["--config", str(config), "--host=127.0.0.1", "--port=8123"],
    ]
    out = in_serve_environment("-c", PARSE, json.dumps(commands), json.dumps(list(FLAGS)))
    line = next(line for line in out.splitlines() if line.startswith("PARSED "))
    by_argv, by_file = json.loads(line.removeprefix("PARSED "))
    assert by_argv == by_file
    assert {name: by_argv[name] for name in FLAGS} == FLAGS
    assert (by_argv["served_model_name"], by_argv["port"]) == (["m@1"], 8123)


def test_the_engines_batch_limits_are_those_we_assume(in_serve_environment):
    script = textwrap.dedent("""
        import json
        from vllm.engine.arg_utils import EngineArgs
        from vllm.platforms import current_platform
        from vllm.usage.usage_lib import UsageContext
        tokens, sequences = EngineArgs.get_batch_defaults(world_size=1)
        server = UsageContext.OPENAI_API_SERVER
        print("LIMITS", json.dumps([current_platform.is_cpu(), sequences[server], tokens[server]]))
    """)
    out = in_serve_environment("-c", script)
    line = next(line for line in out.splitlines() if line.startswith("LIMITS "))
    is_cpu, sequences, tokens = json.loads(line.removeprefix("LIMITS "))
    if not is_cpu:
        pytest.skip("the limits of a GPU follow its memory")
    assumed = VLLM.defaults(Hardware("cpu", "", 1, 1024**3))
    assert {name: assumed[name] for name in LIMITS} == {
        "max_num_seqs": sequences,
        "max_num_batched_tokens": tokens,
    }
