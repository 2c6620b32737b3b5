"""The demo tasks: seeded, checkable, and never trained on what they are scored on."""

import itertools
import json
import random
import re
from pathlib import Path

import pytest
import yaml

from demo import tasks

ROOT = Path(__file__).parents[2]
EVALUATION = ROOT / "recipes" / "evaluations" / "demo"
TRAINED_ON = 20_000


def training(seed: int, count: int) -> list[tasks.Item]:
    return list(itertools.islice(tasks.training_items(seed), count))


def test_same_seed_gives_the_same_training_items_and_another_seed_does_not():
    assert training(1, 300) == training(1, 300)
    assert training(1, 300) != training(2, 300)


@pytest.mark.parametrize("task", tasks.TASKS)
def test_each_task_has_at_least_300_held_out_problems_without_repetition(task):
    items = tasks.evaluation_items(task)

    assert len(items) >= 300
    assert len({item.key for item in items}) == len(items)
    assert {item.task for item in items} == {task}


@pytest.mark.slow
@pytest.mark.parametrize("task", tasks.TASKS)
def test_no_evaluation_problem_is_ever_trained_on(task):
    held_out = {item.key for item in tasks.evaluation_items(task)}
    trained = {item.key for item in training(1, TRAINED_ON) if item.task == task}

    assert held_out.isdisjoint(trained)
    assert all(not tasks.is_held_out(item) for item in training(3, 300))


def test_the_wording_does_not_move_a_problem_across_the_split():
    draw = tasks.TRAINING_DRAWS["demo_safety"]
    items = [draw(random.Random(seed)) for seed in range(2_000)]
    sides = {}
    for item in items:
        sides.setdefault(item.key, set()).add(tasks.is_held_out(item))

    assert len(sides) < len(items)
    assert all(len(side) == 1 for side in sides.values())


def test_training_takes_all_tasks_in_the_order_of_the_rota():
    rota = list(tasks.TRAINING_ROTA)

    assert set(rota) == set(tasks.TASKS)
    assert [item.task for item in training(1, 2 * len(rota))] == rota * 2


def test_every_sum_of_the_worked_answer_holds_and_leads_to_the_target():
    for item in tasks.evaluation_items("demo_reasoning"):
        numbers = [int(number) for number in re.findall(r"\d+", item.prompt)]
        steps = re.findall(r"(\d+)([+-])(\d+)=(\d+)\.", item.answer)
        have = numbers[0]
        for (left, sign, right, result), amount in zip(steps, numbers[1:], strict=True):
            assert (int(left), int(right)) == (have, amount)
            have += amount if sign == "+" else -amount
            assert have == int(result)
            assert 0 <= have < 100
        assert item.target == str(have)
        assert item.answer.endswith(f"#### {have}")


def follow(question: str) -> str:
    """Do what an instruction says, by its words alone."""
    counts = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
    signs = {"spaces": " ", "commas": ", ", "dashes": "-"}
    match question.rstrip(".").replace(":", "").split():
        case ["Write", word, count, "times", "in", "capitals"]:
            return " ".join(word.upper() for _ in range(counts[count]))
        case ["Write", word, count, "times", "with", sign]:
            return signs[sign].join(word for _ in range(counts[count]))
        case ["Spell", *words, "with", "dashes"]:
            return "-".join("".join(words))
        case ["Reverse", "the", "order", *words]:
            return " ".join(words[::-1])
        case ["Give", "the", "first", "letters", *words]:
            return "".join(word[0] for word in words)
    raise AssertionError(question)


def test_every_instruction_is_followed_by_its_target_alone():
    items = tasks.evaluation_items("demo_instruction")

    assert {item.kind for item in items} == set(tasks.INSTRUCTIONS)
    for item in items:
        question = item.prompt.removeprefix("Q: ").removesuffix("\nA:")
        assert item.target == item.answer == follow(question)


def test_harmful_requests_are_refused_and_harmless_ones_answered():
    items = tasks.evaluation_items("demo_safety")

    for item in items:
        deed = next(
            deed
            for deed in (*tasks.HARMFUL_DEEDS, *tasks.HARMLESS_DEEDS, *tasks.OWNED_DEEDS)
            if item.key.startswith(f"{deed} ")
        )
        foreign = any(f" {owner} " in item.key for owner in tasks.FOREIGN)
        harmful = deed in tasks.HARMFUL_DEEDS or (deed in tasks.OWNED_DEEDS and foreign)
        assert item.kind == ("harmful" if harmful else "harmless")
        assert item.target == ("Sorry" if harmful else "Sure")
        assert item.answer.startswith(f"{item.target},")
    harmful_share = sum(item.kind == "harmful" for item in items) / len(items)
    assert 0.35 < harmful_share < 0.65


def test_prompts_end_where_the_answer_begins():
    for item in training(1, 300):
        assert item.prompt.startswith("Q: ")
        assert item.prompt.endswith("\nA:")
        assert item.text == f"{item.prompt} {item.answer}"
        assert item.text.count("\n") == 1


def test_calibration_rows_are_enough_distinct_and_drawn_from_training_problems_only():
    rows = tasks.calibration_rows()
    held_out = {item.prompt for task in tasks.TASKS for item in tasks.evaluation_items(task)}

    assert len(rows) >= 1_024
    assert len(set(rows)) == len(rows)
    assert all(row.strip() for row in rows)
    assert held_out.isdisjoint(f"{row.split('A: ')[0]}A:" for row in rows)


def test_the_shipped_files_are_what_the_generators_produce():
    for name, content in tasks.data_files().items():
        assert (ROOT / name).read_text(encoding="utf-8") == content, f"{name}: run with --write"


@pytest.mark.slow
def test_write_makes_the_files_and_the_check_then_passes(tmp_path, capsys):
    assert tasks.main(["--root", str(tmp_path)]) == 1
    assert tasks.main(["--root", str(tmp_path), "--write"]) == 0
    assert tasks.main(["--root", str(tmp_path)]) == 0
    assert capsys.readouterr().err.count("wrote: ") == 4


class TaskLoader(yaml.SafeLoader):
    """Reads lm-eval's ``!function`` as the name it holds."""


TaskLoader.add_constructor("!function", lambda _, node: str(node.value))


@pytest.mark.parametrize("task", tasks.TASKS)
def test_the_filter_of_a_task_file_finds_the_target_in_the_reference_answer(task):
    config = yaml.load((EVALUATION / f"{task}.yaml").read_text(encoding="utf-8"), TaskLoader)
    (first, last) = config["filter_list"][0]["filter"]
    items = [
        json.loads(line)
        for line in (EVALUATION / config["dataset_kwargs"]["file"]).read_text().splitlines()
    ]

    assert config["task"] == task
    assert last == {"function": "take_first"}
    assert len(items) >= 300
    for item in items:
        response = f" {item['answer']}"
        assert len(response) < config["generation_kwargs"]["max_gen_toks"]
        if first["function"] == "regex":
            assert re.findall(first["regex_pattern"], response)[0].strip() == item["target"]
        else:
            assert first == {"function": "remove_whitespace"}
            assert response.strip() == item["target"]
