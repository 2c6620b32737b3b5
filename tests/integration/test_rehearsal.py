"""A task's scoring is tried with the real lm-eval, before any model is loaded or asked."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from optikit_assets.settings import REPOSITORY
from optikit_assets.specs import SuiteSpec
from optikit_assets.workers.records import CandidateFinished
from tests.integration.evaluate_driver import (
    MODEL,
    Forks,
    request,
    run_in_serve,
)
from tests.references import as_json
from tests.servers.replies import replying

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

DATA = Path(os.environ.get("OPTIKIT_TEST_DATA", REPOSITORY.parent / "shared" / "data"))

LOAD = """
import json, sys
from pathlib import Path
from optikit_assets.errors import EvaluationError
from optikit_assets.specs import SuiteSpec
from optikit_assets.stateval.task_files import task_files
from optikit_assets.stateval.tasks import load_tasks
folder = Path(sys.argv[1])
for entry in json.loads(sys.argv[2]):
    suite = SuiteSpec.model_validate({"name": "s", "tasks": [entry]})
    try:
        load_tasks(suite, folder, task_files(folder))
        print(json.dumps([suite.tasks[0].title, ""]))
    except EvaluationError as error:
        print(json.dumps([suite.tasks[0].title, str(error)]))
"""

ITEMS = [{"question": "1+1?", "answer": "2"}, {"question": "1+2?", "answer": "3"}]
CHOICES = [{"question": q, "choices": ["2", "3"], "gold": g} for g, q in enumerate("ab")]
SCORING = """
def values(document, results):
    return {"right": 1.0, "each": [1.0, 0.0, 1.0][: len(document["question"])]}

def pooled(entries):
    flat = [value for entry in entries for value in entry]
    return sum(flat) / len(flat)

def text(document, results):
    return {"right": "yes"}

def sometimes(document, results):
    return {"right": 1.0} if document["answer"] == "2" else {"other": 1.0}

def only_numbers(document, results):
    return {"right": float(int(results[0]) == int(document["answer"]))}

def undefined(document, results):
    return {"right": float("nan")}

def largest(entries):
    return max(entries)
"""


TASK = """\
task: NAME
dataset_path: json
dataset_kwargs: {data_files: {test: items.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"]}
"""


def with_scoring(scoring: str, **metrics: str) -> str:
    """Return a task with its own scoring, its metrics by name with their aggregation."""
    entries = [
        f"{{metric: {name}, aggregation: {how}, higher_is_better: true}}"
        for name, how in metrics.items()
    ]
    listed = "".join(f"  - {entry}\n" for entry in entries)
    return f"{TASK}process_results: !function scoring.{scoring}\nmetric_list:\n{listed}"


POOLED = "!function scoring.pooled"
TASKS = {
    "good": TASK + "metric_list: [{metric: exact_match}]\n",
    "good_lists": with_scoring("values", right="mean", each=POOLED),
    "unnamed": with_scoring("values", right="mean"),
    "wrong_aggregation": with_scoring("values", right="mean", each="mean"),
    "unknown_aggregation": with_scoring("values", right="meen", each=POOLED),
    "texts": with_scoring("text", right="mean"),
    "sometimes": with_scoring("sometimes", right="mean"),
    "only_numbers": with_scoring("only_numbers", right="mean"),
    "undefined": with_scoring("undefined", right="nanmean"),
    "largest": TASK + "metric_list: [{metric: exact_match, aggregation: !function scoring.largest, "
    "higher_is_better: true}]\n",
    "code": TASK + "unsafe_code: true\nmetric_list: [{metric: exact_match}]\n",
    "votes": TASK
    + "filter_list: [{name: none, filter: [{function: take_first_k, k: 3}]}]\n"
    + "metric_list: [{metric: exact_match}]\n",
    "shots": TASK + "num_fewshot: 5\nfewshot_split: test\nmetric_list: [{metric: exact_match}]\n",
    "choice": """\
task: choice
dataset_path: json
dataset_kwargs: {data_files: {test: choices.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{gold}}"
metric_list: [{metric: acc}, {metric: acc_norm}, {metric: f1}]
""",
}
WANTED = {
    "good": "exact_match,none",
    "largest": "exact_match,none",
    "code": "exact_match,none",
    "votes": "exact_match,none",
    "shots": "exact_match,none",
    "choice": "acc,none",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return what is wrong with each task, by name; all are loaded in one process."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(text.replace("NAME", name), encoding="utf-8")
    for name, rows in (("items", ITEMS), ("choices", CHOICES)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    (folder / "scoring.py").write_text(SCORING, encoding="utf-8")
    entries = [{"task": name, "metrics": [WANTED.get(name, "right,none")]} for name in TASKS]
    entries.append({"task": "choice", "label": "f1", "metrics": ["f1,none"]})
    printed = run_in_serve(LOAD, str(folder), json.dumps(entries))
    lines = [line for line in printed.splitlines() if line.startswith("[")]
    return dict(map(json.loads, lines))


@pytest.mark.parametrize("task", ["good", "good_lists", "choice"])
def test_a_task_that_can_be_scored_is_accepted(found: dict[str, str], task: str) -> None:
    assert found[task] == ""


@pytest.mark.parametrize(
    ("task", "parts"),
    [
        ("unnamed", ["cannot aggregate", "(each: TypeError: ", "its metric_list lacks each, of"]),
        (
            "wrong_aggregation",
            ["(each: TypeError: ", "give these metrics an aggregation"],
        ),
        ("unknown_aggregation", ["(right: TypeError: 'NoneType' object is not callable"]),
        ("texts", ["(right: TypeError: "]),
        ("sometimes", ["gives no right for item 1, only for others"]),
        (
            "only_numbers",
            ["its scoring fails on the answer 'It is", "ValueError: invalid literal"],
        ),
        ("undefined", ["metric 'right,none' is nan for an item, not a number"]),
        ("largest", ["exact_match,none is not a mean over items"]),
        ("code", ["runs code that the model writes"]),
        ("votes", ["its scoring fails", "Need at least 3 responses"]),
        ("shots", ["its prompts cannot be built"]),
        ("f1", ["metric 'f1,none' is "]),
    ],
)
def test_what_would_fail_after_the_last_answer_is_refused_at_once(
    found: dict[str, str], task: str, parts: list[str]
) -> None:
    for part in parts:
        assert part in found[task]


# --- IFEval, whose metrics come as four ---------------------------------------------------------

IFEVAL = """\
task: instructions
dataset_path: json
dataset_kwargs: {data_files: {train: items.jsonl}}
test_split: train
output_type: generate_until
num_fewshot: 0
doc_to_text: prompt
doc_to_target: 0
generation_kwargs: {until: [], do_sample: false, temperature: 0.0, max_gen_toks: 64}
process_results: !function scoring.process_results
metric_list:
"""
STRICT = """\
  - {metric: prompt_level_strict_acc, aggregation: mean, higher_is_better: true}
  - metric: inst_level_strict_acc
    aggregation: !function scoring.agg_inst_level_acc
    higher_is_better: true
"""
LOOSE = STRICT.replace("strict", "loose")
MADE_UP = [
    {"key": 1, "prompt": "Say sorry.", "instruction_id_list": ["punctuation:no_comma"],
     "kwargs": [{}]},
    {"key": 2, "prompt": "Say it twice, in lower case.", "instruction_id_list":
     ["change_case:english_lowercase", "keywords:existence"],
     "kwargs": [{}, {"keywords": ["sorry"]}]},
]  # fmt: skip


def real_items() -> list[dict[str, Any]]:
    file = DATA / "ifeval" / "input_data.jsonl"
    if not file.exists():
        pytest.skip(f"IFEval's prompts are not at {file}")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(params=["made up", "real"])
def ifeval(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task folder with IFEval's scoring and a metric list that ends with the strict ones."""
    nltk_data = DATA / "nltk_data"
    if not nltk_data.exists():
        pytest.skip(f"IFEval's scoring needs nltk's punkt_tab, which is not at {nltk_data}")
    items = real_items() if request.param == "real" else MADE_UP
    folder = tmp_path / "tasks"
    folder.mkdir()
    lines = "".join(json.dumps(item) + "\n" for item in items)
    (folder / "items.jsonl").write_text(lines, encoding="utf-8")
    code = "from lm_eval.tasks.ifeval.utils import agg_inst_level_acc, process_results\n"
    (folder / "scoring.py").write_text(code, encoding="utf-8")
    (folder / "instructions.yaml").write_text(IFEVAL + STRICT, encoding="utf-8")
    monkeypatch.setenv("NLTK_DATA", str(nltk_data))
    return folder


def evaluated(forks: Forks, tmp_path: Path, folder: Path, base_url: str) -> Any:
    metrics = ["prompt_level_strict_acc,none", "inst_level_strict_acc,none"]
    task = {"task": "instructions", "metrics": metrics, "limit": 4}
    suite = SuiteSpec.model_validate({"name": "s", "apply_chat_template": True, "tasks": [task]})
    wanted = request(
        tmp_path / "store", suite, {0: MODEL}, backend="endpoint", base_url=base_url,
        task_folder=as_json(folder),
    )  # fmt: skip
    return forks(tmp_path, wanted)


def test_ifeval_without_its_loose_metrics_is_refused_before_anything_is_asked(
    tmp_path: Path, ifeval: Path, forks: Forks
) -> None:
    begin = time.monotonic()
    # Nobody is there: the worker must not even notice.
    error = evaluated(forks, tmp_path, ifeval, "http://127.0.0.1:9/v1").only("error")
    assert time.monotonic() - begin < 60
    assert error["error_class"] == "SuiteError"
    assert "task 'instructions': lm-eval cannot aggregate" in error["message"]
    assert "lacks prompt_level_loose_acc, inst_level_loose_acc, of which" in error["message"]


def test_ifeval_with_all_of_its_metrics_is_scored(
    tmp_path: Path, ifeval: Path, forks: Forks
) -> None:
    (ifeval / "instructions.yaml").write_text(IFEVAL + STRICT + LOOSE, encoding="utf-8")
    with replying() as base_url:
        outcome = evaluated(forks, tmp_path, ifeval, base_url)
    assert outcome.only("result")["failed"] == {}, outcome.log
    (record,) = outcome.records(CandidateFinished)
    score = record.scores["instructions"]
    assert set(score.metrics) == {
        "prompt_level_strict_acc,none",
        "inst_level_strict_acc,none",
    }
    assert 0 <= score.score <= 1
