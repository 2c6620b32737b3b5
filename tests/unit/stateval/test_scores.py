from pathlib import Path

import pytest

from optikit_assets.errors import EvaluationError
from optikit_assets.stateval.scores import (
    SAMPLES_FILE,
    SCORES_FILE,
    item_scores,
    load_candidate,
    standard_error,
    write_candidate,
)
from tests.unit.stateval.builders import candidate


def test_candidate_survives_its_files(tmp_path: Path) -> None:
    written = candidate(3, {"a": [1.0, 0.0], "b": [0.5, 1.5]}, versions={"vllm": "0"})
    write_candidate(tmp_path, written)
    read = load_candidate(tmp_path, 3)
    assert read == written.model_copy(update={"artifact_key": tmp_path.name})


def test_half_a_character_in_an_answer_survives_its_file(tmp_path: Path) -> None:
    written = candidate(0, {"a": [1.0]})
    (task,) = written.tasks
    item = task.items[0].model_copy(update={"response": "half \ud83d, é"})
    task = task.model_copy(update={"items": (item,)})
    write_candidate(tmp_path, written.model_copy(update={"tasks": (task,)}))
    assert load_candidate(tmp_path, 0).tasks[0].items[0].response == "half \ud83d, é"


def test_item_scores_average_to_the_pooled_mean_of_instructions() -> None:
    prompt_level = [1.0, 0.0, 1.0]
    instructions: list[list[float]] = [[1.0], [1.0, 0.0, 0.0], [1.0, 1.0]]
    rows = [
        {"prompt": prompt, "instructions": entries}
        for prompt, entries in zip(prompt_level, instructions, strict=True)
    ]
    scores = item_scores(rows)
    pooled = 4 / 6
    assert sum(scores) / 3 == pytest.approx((2 / 3 + pooled) / 2)
    assert scores[0] == pytest.approx((1 + 1 * 3 / 6) / 2)


def test_standard_error_is_that_of_a_proportion() -> None:
    assert standard_error([1, 1, 1, 0]) == pytest.approx((0.75 * 0.25 / 3) ** 0.5)
    assert standard_error([1]) is None


def test_truncated_samples_are_an_error(tmp_path: Path) -> None:
    write_candidate(tmp_path, candidate(0, {"a": [1.0, 0.0]}))
    samples = tmp_path / SAMPLES_FILE
    samples.write_text(samples.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    with pytest.raises(EvaluationError, match="has 1 items in samples"):
        load_candidate(tmp_path, 0)


@pytest.mark.parametrize("content", ["{", "[]", '{"tasks": 1}', '{"tasks": []}'])
def test_foreign_scores_are_an_error(tmp_path: Path, content: str) -> None:
    write_candidate(tmp_path, candidate(0, {"a": [1.0]}))
    (tmp_path / SCORES_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(EvaluationError, match="not an evaluation of this version"):
        load_candidate(tmp_path, 0)


def test_missing_artifact_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="evaluate it again"):
        load_candidate(tmp_path, 0)
