"""What a task's scoring needs is looked for in the serve environment, before a model is loaded."""

import json
from pathlib import Path

import pytest

from optikit_assets.specs import SuiteSpec
from optikit_assets.stateval.task_resources import NLTK_DATA
from tests.integration.evaluate_driver import Forks, request, run_in_serve
from tests.references import as_json

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

CHECK = """
import json, sys, nltk
from optikit_assets.errors import EvaluationError
from optikit_assets.stateval.task_resources import check_task_resources
for data, tasks in json.loads(sys.argv[1]).items():
    nltk.data.path[:] = [data]
    for task in tasks:
        try:
            check_task_resources(task)
            print(json.dumps(""))
        except EvaluationError as error:
            print(json.dumps(str(error)))
"""


def make_resource(data: Path, resource: str) -> None:
    folder = data
    for part in resource.strip("/").split("/"):
        folder /= part
        # nltk refuses what other accounts could have written.
        folder.mkdir(mode=0o700, exist_ok=True)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], str]:
    """What is said of each task without and with its data, by one process."""
    missing, there = (tmp_path_factory.mktemp(name) for name in ("missing", "there"))
    for resource in {r for resources in NLTK_DATA.values() for r in resources}:
        make_resource(there, resource)
    asked = {missing: list(NLTK_DATA), there: [*NLTK_DATA, "gsm8k_cot"]}
    lines = run_in_serve(CHECK, json.dumps({str(k): v for k, v in asked.items()})).splitlines()
    cases = [(task, data is there) for data, tasks in asked.items() for task in tasks]
    return dict(zip(cases, map(json.loads, lines), strict=True))


@pytest.mark.parametrize("task", NLTK_DATA)
def test_missing_nltk_data_are_named_with_the_task_and_the_remedy(
    said: dict[tuple[str, bool], str], task: str
) -> None:
    message = said[task, False]
    assert message.startswith(f"task {task!r} cannot be scored: nltk finds no usable tokenizers/")
    assert "serve/bin/python -m nltk.downloader punkt_tab'" in message
    assert "set NLTK_DATA to a folder that holds tokenizers/punkt_tab/english/" in message


@pytest.mark.parametrize("task", [*NLTK_DATA, "gsm8k_cot"])
def test_a_task_whose_data_are_there_or_that_needs_none_is_accepted(
    said: dict[tuple[str, bool], str], task: str
) -> None:
    assert said[task, True] == ""


IFEVAL = """\
task: ifeval
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
  - {metric: prompt_level_strict_acc, aggregation: mean, higher_is_better: true}
  - {metric: prompt_level_loose_acc, aggregation: mean, higher_is_better: true}
  - metric: inst_level_strict_acc
    aggregation: !function scoring.agg_inst_level_acc
    higher_is_better: true
  - metric: inst_level_loose_acc
    aggregation: !function scoring.agg_inst_level_acc
    higher_is_better: true
"""
SCORING = "from lm_eval.tasks.ifeval.utils import agg_inst_level_acc, process_results\n"
ITEM = {
    "key": 1,
    "prompt": "Answer without a comma.",
    "instruction_id_list": ["punctuation:no_comma"],
    "kwargs": [{}],
}


@pytest.mark.parametrize("task", ["ifeval", "of_another_name"])
@pytest.mark.parametrize("there", [False, True], ids=["missing", "there"])
def test_a_worker_without_ifevals_data_asks_for_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, task: str, forks: Forks
) -> None:
    data, tasks = tmp_path / "nltk_data", tmp_path / "tasks"
    data.mkdir(mode=0o700)
    tasks.mkdir()
    text = IFEVAL.replace("task: ifeval", f"task: {task}")
    (tasks / "ifeval.yaml").write_text(text, encoding="utf-8")
    (tasks / "scoring.py").write_text(SCORING, encoding="utf-8")
    (tasks / "items.jsonl").write_text(2 * (json.dumps(ITEM) + "\n"), encoding="utf-8")
    if there:
        make_resource(data, NLTK_DATA["ifeval"][0])
    monkeypatch.setenv("NLTK_DATA", str(data))
    monkeypatch.setenv("HOME", str(tmp_path))
    # lm-eval's own download must fail.
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    suite = SuiteSpec.model_validate(
        {"name": "s", "tasks": [{"task": task, "metrics": ["prompt_level_strict_acc,none"]}]}
    )
    wanted = request(
        tmp_path / "store", suite, {0: tmp_path / "nothing"}, backend="endpoint",
        base_url="http://127.0.0.1:9/v1", task_folder=as_json(tasks),
    )  # fmt: skip
    error = forks(tmp_path, wanted).only("error")
    # The endpoint is the model here: it is asked only once the task is found to be complete.
    assert error["error_class"] == ("EndpointError" if there else "SuiteError")
    assert (f"task {task!r} cannot be scored" in error["message"]) is not there
