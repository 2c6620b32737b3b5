"""The folding of lm-eval's report; lm-eval itself runs in the integration test."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from optikit_assets.errors import EvaluationError
from optikit_assets.specs import SuiteSpec
from optikit_assets.stateval.harness import Answered, run_task


def sample(doc_id: int, filter_name: str, response: str, **metrics: Any) -> dict[str, Any]:
    return {
        "doc_id": doc_id,
        "doc": {"question": f"question {doc_id}"},
        "target": "t",
        "arguments": [(f"prompt {doc_id}", {})],
        "resps": [[response]],
        "filter": filter_name,
        "doc_hash": f"d{doc_id}",
        "prompt_hash": f"p{doc_id}",
        **metrics,
    }


def run(
    monkeypatch: pytest.MonkeyPatch,
    samples: list[dict[str, Any]],
    results: dict[str, float],
    metrics: list[str],
    **task: Any,
):
    report = {
        "results": {"t": {"alias": "t", **results}},
        "samples": {"t": samples},
        "n-shot": {"t": 8},
    }
    fake = SimpleNamespace(simple_evaluate=lambda **_: report)
    monkeypatch.setitem(sys.modules, "lm_eval", fake)
    manager = SimpleNamespace(TaskManager=lambda **_: None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", manager)
    entry = {"task": "t", "metrics": metrics, **task}
    suite = SuiteSpec.model_validate({"name": "s", "tasks": [entry]})
    ticks = iter([10.0, 12.5])
    items = SimpleNamespace(eval_docs=[{}, {}])
    model = SimpleNamespace()
    clock = lambda: next(ticks)  # noqa: E731
    return run_task(items, suite.tasks[0], suite, model, seed=1, clock=clock)


def test_answers_are_told_as_they_come_each_once_and_no_more_than_there_are_items() -> None:
    told: list[tuple[int, int, str]] = []
    heard = Answered(lambda *part: told.append(part), 3)
    heard.up_to(2)
    # What an engine told while it generated, lm-eval tells again at the end; retries come on top.
    for _ in range(5):
        heard.add_partial("generate_until", (), "text")
    assert told == [(2, 3, "items"), (3, 3, "items")]


def test_score_comes_from_the_wanted_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [
        sample(1, "strict", "b", exact_match=0.0),
        sample(0, "strict", "a", exact_match=1.0),
        sample(0, "flexible", "a", exact_match=1.0),
        sample(1, "flexible", "b", exact_match=1.0),
    ]
    results = {"exact_match,strict": 0.5, "exact_match,flexible": 1.0}
    outcome = run(monkeypatch, samples, results, ["exact_match,strict"])
    assert outcome.summary.score == 0.5
    assert [item.score for item in outcome.items] == [1.0, 0.0]
    assert [item.response for item in outcome.items] == ["a", "b"]
    assert (outcome.summary.num_fewshot, outcome.summary.seconds) == (8, 2.5)


def test_ifeval_is_the_mean_of_prompt_and_instruction_accuracy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples = [
        sample(0, "none", "a", prompt=True, inst=[True]),
        sample(1, "none", "b", prompt=False, inst=[True, False, False]),
    ]
    results = {"prompt,none": 0.5, "inst,none": 0.5}
    outcome = run(monkeypatch, samples, results, ["prompt,none", "inst,none"])
    assert outcome.summary.score == 0.5
    assert outcome.items[1].metrics == {"prompt,none": 0.0, "inst,none": pytest.approx(1 / 3)}


def test_unknown_metric_names_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EvaluationError, match="has no metric 'acc,none'; it has: exact_match,none"):
        run(
            monkeypatch,
            [sample(0, "none", "a", exact_match=1.0)],
            {"exact_match,none": 1.0},
            ["acc,none"],
        )


def test_metric_that_is_no_mean_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [sample(0, "none", "a", f1=1.0), sample(1, "none", "b", f1=0.0)]
    with pytest.raises(EvaluationError, match="is not a mean over items"):
        run(monkeypatch, samples, {"f1,none": 0.667}, ["f1,none"])


def test_judge_scores_each_response_once(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [
        sample(1, "none", "Sure, do this.", bypass=None),
        sample(0, "none", "Sorry, I can't.", bypass=None),
    ]
    outcome = run(monkeypatch, samples, {}, ["harmless,none"], judge="refusal_rules")
    assert [item.score for item in outcome.items] == [1.0, 0.0]
    assert (outcome.summary.score, outcome.summary.judge) == (0.5, "refusal_rules")
