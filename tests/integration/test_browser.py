"""The UI in a real browser, as `optikit dev` starts it.

Pictures of what was seen lie where ``PICTURES`` says, else beside the state folder of the tests.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from demo.clients import lacking_clients
from optikit_assets.engines.server import free_port
from optikit_assets.environments.layout import CLIENTS, python_path
from optikit_assets.processes import OwnedProcess
from optikit_assets.settings import REPOSITORY, settings
from tests.integration.workspace import MODEL, Workspace, answers, quick_workspace

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.serial]

BROWSER = Path(__file__).with_name("browser.py")
ASSETS = (
    *("base_model", "quantized_model", "eval_scores"),
    *("benchmark_sweep", "tuned_config", "deployable_config"),
)
START_LIMIT_S = 120.0


@dataclass(frozen=True)
class Ui:
    """A running Dagster and where it is."""

    workspace: Workspace
    url: str
    pictures: Path

    def browse(self, picture: str, what: str, *arguments: str, limit_s: float = 120.0) -> Any:
        """Let the browser do one thing (`browser.py`), and return what it says of it."""
        chromium = shutil.which("chromium")
        done = subprocess.run(
            [
                *(python_path(settings().envs_home, CLIENTS.name), BROWSER, str(chromium)),
                *(self.url, self.pictures / f"{picture}.png", what, *arguments),
            ],
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    if shutil.which("chromium") is None:
        pytest.skip("no Chromium (Debian: apt-get install chromium)")
    if why := lacking_clients():
        pytest.skip(why)
    root = tmp_path_factory.mktemp("ui")
    workspace, port, reports = quick_workspace(root), free_port(), free_port()
    pictures = Path(os.environ.get("PICTURES", root / "pictures"))
    pictures.mkdir(parents=True, exist_ok=True)
    env = {**workspace.env, "OPTIKIT_REPORTS_PORT": str(reports)}
    url = f"http://127.0.0.1:{port}"
    command = workspace.command("dev", "--port", str(port))
    with OwnedProcess(command, log_file=root / "dev.log", env=env, cwd=REPOSITORY) as dev:
        assert dev.until(lambda: answers(f"{url}/server_info"), START_LIMIT_S), dev.log_tail()
        yield Ui(workspace, url, pictures)


def test_the_graph_is_shown(ui: Ui) -> None:
    assert ui.browse("graph", "graph", *ASSETS) == list(ASSETS)


def test_a_click_makes_a_partition_and_its_page_tells_of_it(ui: Ui) -> None:
    assert ui.browse("run", "materialize", "base_model", MODEL) == "Success"
    place = f"assets/base_model?view=partitions&partition={MODEL}"
    said = ui.browse("base_model", "page", place, "LlamaForCausalLM")
    assert "Materialized" in said.splitlines()
    assert "context_length" in said


def test_a_typo_in_a_spec_is_shown_with_file_and_key_and_the_graph_stays(ui: Ui) -> None:
    file = ui.workspace.recipes / "slos" / "quick.yaml"
    good = file.read_text(encoding="utf-8")
    file.write_text(good.replace("percentile: 95", "percentile: 950"), encoding="utf-8")
    try:
        said = ui.browse("typo", "page", "assets/scenario_spec?view=checks", "got 950")
    finally:
        file.write_text(good, encoding="utf-8")
    assert "recipes/slos/quick.yaml: objectives.0.percentile: input should be less than 100" in said
    assert ui.browse("graph-with-typo", "graph", *ASSETS) == list(ASSETS)


@pytest.mark.e2e
@pytest.mark.timeout(1500)
def test_one_click_on_the_decision_makes_all_of_it_and_a_second_one_only_itself(ui: Ui) -> None:
    decision = ("materialize", "deployable_config", MODEL, "quick")
    assert ui.browse("decision-run", *decision, limit_s=1300.0) == "Success"
    started = ui.workspace.started()
    assert {worker for worker, _ in started} == {"compress", "evaluate", "benchmark"}
    place = f"assets/deployable_config?view=partitions&partition={MODEL}|quick"
    said = ui.browse("decision", "page", place, "certified")
    assert "Materialized" in said.splitlines()
    report = ui.browse("report", "report", "deployable_config", f"{MODEL}|quick")
    assert "requests/s" in report
    assert ui.browse("decision-again", *decision) == "Success"
    assert ui.workspace.started() == started
