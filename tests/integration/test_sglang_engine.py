"""SGLang itself, where a serve environment has it: on no machine of this project so far."""

import subprocess
from pathlib import Path

import httpx
import pytest
import yaml

from optikit_assets.engines import EngineServer, detect, get_engine
from optikit_assets.engines.sglang import flag_catalog
from optikit_assets.settings import REPOSITORY, settings

pytestmark = [pytest.mark.gpu, pytest.mark.integration, pytest.mark.timeout(900)]

ENGINE = get_engine("sglang")
MODEL = REPOSITORY / "demo" / "models" / "demo-llama" / "1"


@pytest.fixture(scope="module")
def python() -> Path:
    found = settings().envs_home / "envs" / "serve" / "bin" / "python"
    if detect().kind != "cuda":
        pytest.skip("this machine has no NVIDIA GPU")
    installed = (
        found.exists()
        and not subprocess.run(
            [found, "-c", "import sglang"], capture_output=True, timeout=120, check=False
        ).returncode
    )
    if not installed:
        pytest.skip("the serve environment has no SGLang")
    return found


def test_the_shipped_flags_are_those_of_the_installed_parser(python: Path) -> None:
    done = subprocess.run(
        [python, "-m", "optikit_assets.engines.sglang.dump_flags"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    shipped = Path(flag_catalog.__file__).with_name("flags.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(done.stdout) == yaml.safe_load(shipped)


def test_a_server_starts_from_its_script_and_answers_as_long_as_asked(
    python: Path, tmp_path: Path
) -> None:
    config = tmp_path / ENGINE.config_file
    config.write_text(ENGINE.config_text({}, model=str(MODEL), served_model_name="m"))
    body = {"model": "m", "prompt": "Q: ", "max_tokens": 20, **ENGINE.requests.exact_length(20)}
    with EngineServer(ENGINE, config, log_file=tmp_path / "log", python=python) as server:
        answer = httpx.post(f"{server.base_url}/completions", json=body, timeout=120)
    assert answer.json()["usage"]["completion_tokens"] == 20
