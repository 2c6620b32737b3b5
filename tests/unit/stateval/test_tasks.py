from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from optikit_assets.errors import EvaluationError
from optikit_assets.specs import SuiteSpec
from optikit_assets.specs.suite import TaskSpec
from optikit_assets.stateval.task_files import needs_network, task_files
from optikit_assets.stateval.tasks import check_items, check_metrics, working_directory

LOCAL = "task: local\ndataset_path: json\ndataset_kwargs: {data_files: {test: items.jsonl}}\n"
FUNCTION = "task: function\ncustom_dataset: !function data.load\n"
HUB = "task: hub\ndataset_path: openai/gsm8k\n"
REMOTE = "task: remote\ndataset_path: json\ndataset_kwargs: {data_files: https://host/x.jsonl}\n"


def suite(*tasks: str) -> SuiteSpec:
    entries = [{"task": task, "metrics": ["exact_match,none"]} for task in tasks]
    return SuiteSpec.model_validate({"name": "s", "tasks": entries})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, text in enumerate((LOCAL, FUNCTION, HUB, REMOTE)):
        (tmp_path / f"{number}.yaml").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        (("local",), False),
        (("local", "function"), False),
        (("local", "hub"), True),
        (("remote",), True),
        (("ifeval",), True),
    ],
)
def test_network_is_needed_for_data_that_are_not_files(
    folder: Path, tasks: tuple[str, ...], expected: bool
) -> None:
    assert needs_network(suite(*tasks), task_files(folder)) is expected


def test_no_folder_has_no_task_files() -> None:
    assert task_files(None) == {}


def test_task_file_that_is_not_yaml_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("task: [", encoding="utf-8")
    with pytest.raises(EvaluationError, match="is not valid YAML"):
        task_files(tmp_path)


def loaded(*documents: dict[str, Any], **more: Any) -> SimpleNamespace:
    """Return the part of an lm-eval task that is checked before a model is loaded."""
    fields: dict[str, Any] = {
        "eval_docs": documents,
        "doc_to_text": lambda document: document["question"],
        # As a template: prints None.
        "doc_to_target": lambda document: str(document["answer"]["text"]),
    }
    return SimpleNamespace(**(fields | more))


def test_an_answer_may_be_the_word_none() -> None:
    word, nothing = (
        {"question": "Which?", "answer": {"text": text}, "hint": None} for text in ("None", None)
    )
    check_items(loaded(word, word), suite("local").tasks[0])
    # The same prints, but only the second comes of a missing field.
    with pytest.raises(EvaluationError, match="item 1 of task 'local' has no target"):
        check_items(loaded(word, nothing), suite("local").tasks[0])


@pytest.mark.parametrize(
    ("item", "lacking"),
    [
        ({"question": "Who?", "answer": {"text": None}}, "no target"),
        ({"question": None, "answer": {"text": "a"}}, "no prompt"),
    ],
)
def test_an_item_without_prompt_or_target_is_refused(item: dict[str, Any], lacking: str) -> None:
    good = {"question": "None of them?", "answer": {"text": "a"}}
    with pytest.raises(EvaluationError, match=f"item 1 of task 'local' has {lacking}; its fields"):
        check_items(loaded(good, item), suite("local").tasks[0])


def test_a_single_item_is_refused() -> None:
    item = {"question": "Who?", "answer": {"text": "a"}}
    with pytest.raises(EvaluationError, match="'local' has 1 items, and a paired comparison needs"):
        check_items(loaded(item), suite("local").tasks[0])


def scored(**better: bool) -> SimpleNamespace:
    """Return the part of an lm-eval task that names its metrics."""
    return SimpleNamespace(
        _filters=[SimpleNamespace(name="strict"), SimpleNamespace(name="flexible")],
        aggregation=lambda: dict.fromkeys(better),
        higher_is_better=lambda: better,
    )


def task_spec(*metrics: str, **more: str) -> TaskSpec:
    return TaskSpec.model_validate({"task": "t", "metrics": metrics, **more})


def test_metrics_are_those_of_the_task_by_filter() -> None:
    task, metrics = scored(exact_match=True), ("exact_match,strict", "exact_match,flexible")
    check_metrics(task, task_spec(*metrics))
    with pytest.raises(EvaluationError, match="no metric 'exact_match,loose'"):
        check_metrics(task, task_spec(*metrics, "exact_match,loose"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            task_spec("exact_match,none"),
            "no metric 'exact_match,none'; it has: exact_match,strict, exact_match,flexible",
        ),
        (task_spec("exact_match"), "no metric 'exact_match'; it has"),
        (task_spec("loss,strict"), "metric 'loss,strict' is better when lower"),
        (task_spec("a,none", "b,none", judge="refusal_rules"), "gives exactly one metric"),
    ],
)
def test_a_wrong_metric_is_found_before_a_model_is_loaded(spec: TaskSpec, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        check_metrics(scored(exact_match=True, loss=False), spec)


def test_working_directory_is_left_again(tmp_path: Path) -> None:
    before = Path.cwd()
    with working_directory(tmp_path):
        assert Path.cwd() == tmp_path.resolve()
    assert Path.cwd() == before
