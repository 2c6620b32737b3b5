"""Calibration rows against items that lm-eval loads, wherever its task says they are."""

import json
from pathlib import Path
from typing import Any

import pytest

from optikit_assets.specs import SuiteSpec
from tests.integration.evaluate_driver import Forks, exact_match_task, request
from tests.references import as_json

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

QUESTION = "How many of the forty passengers are still on the train after the second stop?"


def data_of(shape: str, items: Path) -> dict[str, Any]:
    """Return the part of a task file that says where its data are; none are in its own folder."""
    if shape == "files":
        return {
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(items / "test.jsonl")}},
        }
    # What lm-eval does with ORG/NAME too: the datasets library finds the splits.
    return {"dataset_path": str(items)}


@pytest.mark.parametrize("shape", ["files", "data_set"])
@pytest.mark.parametrize(
    ("row", "error_class", "message"),
    [
        (f"Q: {QUESTION} A: 35", "CompressionError", "rows.jsonl, line 1 holds item 1 of Trains"),
        # The endpoint is the model here: it is asked only once the rows are found to be clean.
        ("Something else altogether.", "EndpointError", "does not list a model"),
    ],
    ids=["held", "clean"],
)
def test_items_outside_the_task_folder_are_looked_for_before_a_model_is_loaded(
    tmp_path: Path, shape: str, row: str, error_class: str, message: str, forks: Forks
) -> None:
    tasks, items, rows = tmp_path / "tasks", tmp_path / "items", tmp_path / "rows.jsonl"
    tasks.mkdir()
    items.mkdir()
    (items / "test.jsonl").write_text(
        "".join(
            json.dumps({"question": question, "answer": "35"}) + "\n"
            for question in ("What is the capital of the country?", QUESTION)
        ),
        encoding="utf-8",
    )
    rows.write_text(json.dumps({"text": row}) + "\n", encoding="utf-8")
    config = exact_match_task("trains", **data_of(shape, items))
    (tasks / "trains.yaml").write_text(json.dumps(config), encoding="utf-8")
    suite = SuiteSpec.model_validate(
        {
            "name": "s",
            "tasks": [{"task": "trains", "label": "Trains", "metrics": ["exact_match,none"]}],
        }
    )
    wanted = request(
        tmp_path / "store", suite, {0: tmp_path / "nothing"}, backend="endpoint",
        base_url="http://127.0.0.1:9/v1", task_folder=as_json(tasks),
        calibration_data=as_json(rows),
    )  # fmt: skip
    error = forks(tmp_path, wanted).only("error")
    assert error["error_class"] == error_class
    assert message in error["message"]
