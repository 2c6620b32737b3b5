"""A suite whose items and judge are a hub's: which commit counts, and which a worker is sent."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optikit_assets.defs.evaluation.jobs import find_suite
from optikit_assets.errors import SpecError
from optikit_assets.execution.testing import Emit
from optikit_assets.freshness import pinned_suite
from optikit_assets.graph import Node
from optikit_assets.headless.materialize import materialize_node
from optikit_assets.settings import settings
from optikit_assets.specs import SuiteSpec
from tests.definitions.test_candidates import MODEL, evaluate_baseline_thrice, work
from tests.definitions.test_plan import measurements
from tests.definitions.world import World

TASK = "task: sums, metrics: [acc]"
BY_FILE = f"name: quick\ntask_folder: quick\ntasks: [{{{TASK}}}]\n"
BUILT_IN = f'name: quick\ntasks: [{{{TASK}, dataset: "hf:org/items"}}]\n'
JUDGED = (
    f"name: quick\ntask_folder: quick\ntasks: [{{{TASK}, judge: classifier}}]\n"
    "judge_model: org/judge\n"
)
OLD, NEW = "1" * 40, "2" * 40


@pytest.fixture
def branches(world: World, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the branches of a hub name, by kind and repository; it is away where that is empty."""
    found: dict[str, str] = {"dataset org/items": OLD, "model org/judge": OLD}

    def commit(repository: str, revision: str, kind: str, timeout_s: float) -> str | None:
        return found.get(f"{kind} {repository}")

    monkeypatch.setattr("optikit_assets.sources.datasets._commit", commit)
    world.write("evaluations/quick/sums.yaml", "include: above.yaml\ntask: sums\n")
    world.write("evaluations/quick/above.yaml", "dataset_path: org/items\n")
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suite", "record"),
    [(BY_FILE, "datasets.json"), (BUILT_IN, "datasets.json"), (JUDGED, "judges.json")],
    ids=["by file", "built in", "judge"],
)
def test_scores_are_of_the_commit_that_was_first_used(
    world: World, branches: dict[str, str], suite: str, record: str
) -> None:
    world.write("evaluations/quick.yaml", suite)
    world.materialize(world.nodes())
    assert world.not_fresh() == {}
    branches.update(dict.fromkeys(branches, NEW))
    assert world.not_fresh() == {}
    branches.clear()
    assert world.not_fresh() == {}
    # To take what the branch names now, the entry is deleted.
    branches.update({"dataset org/items": NEW, "model org/judge": NEW})
    (settings().home / "hub" / record).unlink()
    stale = world.not_fresh()
    assert set(stale) == measurements()
    assert stale[f"eval_scores[{MODEL}|baseline]"] == f"stale: evaluation_spec[{MODEL}] changed"


@pytest.mark.slow
def test_every_worker_is_sent_the_same_commits(
    real: World, branches: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = work(monkeypatch)
    sent: list[SuiteSpec] = []
    evaluate: Callable[..., Any] = workers.evaluate

    def listening(request: Any, store: Any, on_record: Emit) -> Any:
        sent.append(request.suite)
        # A branch that moves between two workers.
        branches.update(dict.fromkeys(branches, NEW))
        return evaluate(request, store, on_record)

    monkeypatch.setattr(workers, "evaluate", listening)
    real.write("evaluations/quick.yaml", JUDGED)
    evaluate_baseline_thrice()
    assert len(sent) == 2
    assert {suite.tasks[0].dataset for suite in sent} == {f"hf:org/items@{OLD}"}
    assert {suite.judge_model for suite in sent} == {f"org/judge@{OLD}"}
    # What was answered at one commit is no answer at another.
    (settings().home / "hub" / "datasets.json").unlink()
    assert materialize_node(Node.of("eval_scores", f"{MODEL}|baseline")) == "ok"
    assert [suite.tasks[0].dataset for suite in sent[2:]] == [f"hf:org/items@{NEW}"]


@pytest.mark.usefixtures("branches")
def test_a_commit_that_is_named_is_taken_as_it_is(world: World) -> None:
    pinned = f"hf:org/items@{NEW}"
    file = world.root / "mine.yaml"
    file.write_text(f'name: mine\ntasks: [{{{TASK}, dataset: "{pinned}"}}]\n')
    suite, _ = find_suite(world.catalog(), str(file))
    assert suite.tasks[0].dataset == pinned


@pytest.mark.parametrize(
    ("text", "file", "message"),
    [
        (
            BY_FILE,
            "task: sums\ndataset_path: items\n",
            "task 'sums': 'hf:items' is not of the",
        ),
        (BY_FILE, "task: sums\ninclude: sums.yaml\n", "task file sums.yaml includes itself"),
        (BY_FILE, "task: sums\ninclude: gone.yaml\n", "task file gone.yaml cannot be read"),
        (JUDGED.replace("org/judge", "a/b/c"), "task: sums\n", "'a/b/c' is neither a folder below"),
    ],
)
@pytest.mark.usefixtures("branches")
def test_what_cannot_be_looked_up_is_named_with_the_suite(
    world: World, text: str, file: str, message: str
) -> None:
    world.write("evaluations/quick.yaml", text)
    world.write("evaluations/quick/sums.yaml", file)
    with pytest.raises(SpecError, match=r"^recipes/evaluations/quick\.yaml: .*") as found:
        world.versions().sources.suite("quick")
    assert message in str(found.value)


@pytest.mark.parametrize(
    "file",
    [
        "task: sums\ndataset_path: json\n",
        "task: sums\ndataset_path: rows\n",
        "task: sums\ndataset_path: org/items\ncustom_dataset: !function data.load\n",
    ],
    ids=["files", "a folder", "own code"],
)
@pytest.mark.usefixtures("branches")
def test_a_suite_without_a_hub_is_as_it_was(world: World, file: str, tmp_path: Path) -> None:
    world.write("evaluations/quick/sums.yaml", file)
    (world.recipes / "evaluations" / "quick" / "rows").mkdir()
    catalog = world.catalog()
    suite = catalog.suite("quick")
    pinned = pinned_suite(suite, catalog.task_folder("quick"), "quick.yaml")
    assert pinned.digest() == suite.digest()
    assert not (settings().home / "hub").exists()
