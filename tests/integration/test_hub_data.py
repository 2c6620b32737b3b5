"""Items of a data set on a hub with the real libraries, read at the commit that a suite names."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.evaluate_driver import exact_match_task, run_in_serve
from tests.servers.hub import Hub, serving

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

CODE = """
import json, sys
from pathlib import Path
from optikit_assets.errors import EvaluationError
from optikit_assets.specs import SuiteSpec
from optikit_assets.stateval.task_files import task_files
from optikit_assets.stateval.tasks import load_tasks
folder = Path(sys.argv[1])
for task, dataset in json.loads(sys.argv[2]):
    entry = {"task": task, "metrics": ["exact_match,none"], "dataset": dataset}
    suite = SuiteSpec.model_validate({"name": "s", "tasks": [entry]})
    try:
        (loaded,) = load_tasks(suite, folder, task_files(folder))
        said = [item["question"] for item in loaded.eval_docs]
    except EvaluationError as error:
        said = str(error)
    print("SAID", json.dumps(said))
"""
CALIBRATION = """
import json, sys
from pathlib import Path
from optikit_assets.errors import CompressionError
from optikit_assets.optimizer.calibration import load_calibration
for reference in json.loads(sys.argv[1]):
    try:
        said = [row.text for row in load_calibration(reference, repo_root=Path()).rows]
    except CompressionError as error:
        said = str(error)
    print("SAID", json.dumps(said))
"""
# As a task's own code reads, with a name that was imported before.
OWN_CODE = """
from datasets import load_dataset

def load(**_):
    return load_dataset("org/name")
"""


def items(word: str) -> dict[str, bytes]:
    rows = [{"question": f"{word} {n}?", "answer": "yes"} for n in range(2)]
    return {"test.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as found:
        yield found


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    path = yaml.safe_dump(exact_match_task("by_path", dataset_path="org/name"))
    (folder / "by_path.yaml").write_text(path)
    code = yaml.safe_dump(exact_match_task("by_code"))
    (folder / "by_code.yaml").write_text(f"{code}custom_dataset: !function reading.load\n")
    (folder / "reading.py").write_text(OWN_CODE)
    return folder


def said(tasks: Path, hub: Hub, *cases: tuple[str, str | None], offline: bool = False) -> list[Any]:
    """Return the questions of each task with this data set in the suite, or why there are none."""
    return printed(CODE, str(tasks), json.dumps(cases), hub=hub, cache=tasks, offline=offline)


def printed(code: str, *arguments: str, hub: Hub, cache: Path, offline: bool = False) -> list[Any]:
    """Return what a program of the serve environment says, with a hub and a cache of its own."""
    out = run_in_serve(
        code, *arguments, HF_ENDPOINT=hub.endpoint, HF_HOME=str(cache / "hf"),
        HF_HUB_OFFLINE=str(int(offline)),
    )  # fmt: skip
    lines = [line.removeprefix("SAID ") for line in out.splitlines() if line.startswith("SAID ")]
    return list(map(json.loads, lines))


def test_a_task_reads_the_commit_that_the_suite_names(tasks: Path, hub: Hub) -> None:
    first, second = (f"hf:org/name@{hub.push(items(word))}" for word in ("Old", "New"))
    by_path, by_code, new = said(
        tasks, hub, ("by_path", first), ("by_code", first), ("by_path", second)
    )
    assert by_path == by_code == ["Old 0?", "Old 1?"]
    assert new == ["New 0?", "New 1?"]
    # What was loaded last, or at all, is not taken for another commit while the hub is away.
    away, there = said(tasks, hub, ("by_path", first), ("by_path", second), offline=True)
    assert there == new
    old, latest = (reference.rpartition("@")[2] for reference in (first, second))
    assert f"org/name cannot be had at commit {old}, only at {latest}, which was" in away


def test_a_task_that_reads_a_hub_unnamed_is_refused(tasks: Path, hub: Hub) -> None:
    hub.push(items("New"))
    unnamed, another = said(tasks, hub, ("by_path", None), ("by_code", "hf:org/another"))
    assert unnamed == (
        "task 'by_path' reads the data set org/name of a hub and the suite does not say so, so "
        "that its items could be others next time; set 'dataset: hf:org/name' for the task in the "
        "suite"
    )
    assert "'by_code' reads the data set org/name of a hub and the suite names hf:org/an" in another


def test_calibration_rows_are_those_of_the_commit_that_is_named(tmp_path: Path, hub: Hub) -> None:
    commits = [
        hub.push({"train.jsonl": json.dumps({"text": text}).encode()}) for text in ("old", "new")
    ]
    names = json.dumps([f"hf:org/name@{commit}" for commit in commits])
    assert printed(CALIBRATION, names, hub=hub, cache=tmp_path) == [["old"], ["new"]]
    # What was loaded last is not taken for another commit while the hub is away.
    away, there = printed(CALIBRATION, names, hub=hub, cache=tmp_path, offline=True)
    assert there == ["new"]
    said = f"org/name cannot be had at commit {commits[0]}, only at {commits[1]}, which was loaded"
    assert said in away
