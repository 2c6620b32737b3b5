"""A machine that fails under a benchmark: the partition fails, and nothing is kept of it."""

from pathlib import Path

import pytest

from optikit_assets.defs.recorded import recorded
from optikit_assets.errors import StageError
from optikit_assets.graph import Node
from optikit_assets.headless.materialize import materialize_node, open_instance
from optikit_assets.history import History
from optikit_assets.schemas import STUDY_FILE
from optikit_assets.settings import settings
from tests.definitions.test_broken_off import SLO
from tests.definitions.test_candidates import BASE, Workers, artifact_of
from tests.definitions.world import HARDWARE, MODEL, World, in_process, local_on
from tests.executors import execute_with
from tests.unit.execution.devices import install_environment

pytestmark = pytest.mark.slow

SWEEP = Node.of("benchmark_sweep", f"{MODEL}|baseline@demo")
TUNED = Node.of("tuned_config", f"{MODEL}|baseline@demo")


def install(home: Path) -> None:
    """Make a serve environment that starts the worker beside this file."""
    install_environment(home, "serve", "tests.definitions.benchmark_worker")


@pytest.fixture
def evaluated(real: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world whose next stage is the sweep, run by a real executor with the worker above."""
    execute_with(monkeypatch, in_process(Workers({}).work))
    real.write("slos/demo.yaml", SLO)
    real.edit(
        "search_spaces/fine.yaml", "trials: 4\nstartup_trials: 2", "trials: 2\nstartup_trials: 1"
    )
    for node in (
        BASE,
        Node.of("quantized_model", f"{MODEL}|baseline"),
        Node.of("eval_scores", f"{MODEL}|baseline"),
    ):
        assert materialize_node(node) == "ok"
    install(settings().home)
    execute_with(monkeypatch, local_on(HARDWARE))
    return real


def is_recorded(node: Node) -> bool:
    with open_instance() as instance:
        return recorded(instance, node) is not None


@pytest.mark.usefixtures("evaluated")
def test_a_full_disk_fails_the_sweep_and_leaves_no_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIKIT_TEST_MACHINE", "full disk")
    with pytest.raises(StageError, match=r"the benchmark worker failed: OSError: .*No space left"):
        materialize_node(SWEEP)
    assert not is_recorded(SWEEP)
    monkeypatch.setenv("OPTIKIT_TEST_MACHINE", "sound")
    assert materialize_node(SWEEP) == "feasible"
    assert len(History(settings().history).query("SELECT * FROM sweeps")) == 1


@pytest.mark.usefixtures("evaluated")
def test_a_full_disk_is_no_trial_of_a_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIKIT_TEST_MACHINE", "sound")
    assert materialize_node(SWEEP) == "feasible"
    monkeypatch.setenv("OPTIKIT_TEST_MACHINE", "full disk")
    with pytest.raises(StageError, match="No space left"):
        materialize_node(TUNED)
    assert not is_recorded(TUNED)
    monkeypatch.setenv("OPTIKIT_TEST_MACHINE", "sound")
    assert materialize_node(TUNED) == "feasible"
    study = STUDY_FILE.read(artifact_of(TUNED)).study
    assert [trial.status for trial in study.trials] == ["feasible"] * 2


@pytest.mark.usefixtures("evaluated")
def test_a_finished_artifact_counts_although_its_result_was_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPTIKIT_TEST_MACHINE", "loses the result")
    assert materialize_node(SWEEP) == "feasible"
