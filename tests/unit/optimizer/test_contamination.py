"""Evaluation items among the calibration rows."""

import json
from pathlib import Path

import pytest

from optikit_assets.errors import CompressionError
from optikit_assets.optimizer.calibration import load_texts
from optikit_assets.optimizer.contamination import (
    CLEAN,
    check_contamination,
    check_tasks,
    find_items,
    item_texts,
    read_items,
)

ROOT = Path(__file__).parents[3]
LONG = (
    "A train leaves the station at nine with forty passengers and stops twice before noon; at the "
    "first stop twelve people get off and at the second seven get on. How many are on the train?"
)
TRUE = "Which of the following statements is true?"
STATEMENTS = [
    "Whales breathe through gills like any other fish.",
    "The moon gives off a light of its own.",
    "Iron is heavier than the same volume of water.",
    "A year on Mars is shorter than one on Earth.",
]


def holds(row: str | tuple[str, ...], item: object) -> bool:
    """Whether a row with this text or these turns holds an item."""
    turns = (row,) if isinstance(row, str) else row
    parts = (item,) if isinstance(item, str) else item_texts(item)
    return bool(find_items([("row", turns)], [("item", parts)]))


def test_an_item_is_found_in_other_type_and_punctuation_and_inside_a_longer_row() -> None:
    assert holds(LONG, LONG)
    assert holds(f"<user> {LONG.upper().replace(';', ' -- ')} <assistant> 35", LONG)
    assert holds("Q: What is the capital of France?\nA: Paris.", "what is the capital of France")


def test_most_of_an_item_is_enough_and_half_of_it_is_not() -> None:
    words = LONG.split()
    assert holds(" ".join(words[:-2]), LONG)
    assert not holds(" ".join(words[: len(words) // 2]), LONG)


def test_words_in_another_order_are_another_text() -> None:
    assert not holds(" ".join(reversed(LONG.split())), LONG)
    assert not holds("The capital of what is France?", "What is the capital of France?")


def test_common_phrases_are_no_items() -> None:
    assert not holds("Sorry, I cannot help.", "I cannot help")
    assert not holds("anything", "")


def test_a_short_item_counts_as_a_turn_and_not_as_a_phrase() -> None:
    item = "How do I mend a bicycle?"
    assert not holds("The club was asked how do I mend a bicycle and many more things.", item)
    assert holds(("How do I mend a bicycle?", LONG), item)
    assert holds(f"Q: How do I mend a bicycle?\nA: {LONG}", item)
    assert holds(f"Q: How do I mend a bicycle?\nA: {LONG}", f"Q: {item}\nA:")


def test_a_common_question_counts_with_its_choices() -> None:
    item = {"question": TRUE, "choices": STATEMENTS, "answer": 2}
    assert not holds(TRUE, item)
    assert not holds((TRUE, LONG), item)
    assert not holds(f"{TRUE}\nA. {STATEMENTS[0]}\nB. Something else altogether.", item)
    labelled = [f"{label}. {text}" for label, text in zip("DCBA", STATEMENTS[::-1], strict=True)]
    assert holds("\n".join([TRUE, *labelled]), item)
    named = {"question": TRUE, "choices": {"text": STATEMENTS, "label": ["A", "B", "C", "D"]}}
    assert item_texts(named) == (TRUE, *STATEMENTS)


def test_a_common_question_counts_with_its_passage() -> None:
    question = "What is the main idea of the passage?"
    item = {"passage": LONG, "question": question, "answer": "trains"}
    other = "Bees dance to tell each other where the flowers are, and how far one has to fly."
    assert not holds(f"{other}\n{question}", item)
    assert holds(f"{LONG}\n{question}", item)


def test_a_long_question_counts_without_its_choices() -> None:
    assert holds(LONG, {"question": LONG, "choices": STATEMENTS})


def test_the_message_names_rows_and_items_and_counts_the_rest() -> None:
    rows = [(f"line {number}", (LONG,)) for number in range(5)]
    with pytest.raises(CompressionError) as caught:
        check_contamination(rows, [("items.jsonl, line 7", (LONG,))])
    message = str(caught.value)
    assert "line 0 holds items.jsonl, line 7; line 1 holds" in message
    assert message.endswith(
        "and 2 more; remove these rows, or set calibration_data in the model's spec to a file "
        "without them"
    )
    check_contamination(rows, [("other", ("A quite different question about something else",))])


def test_the_question_of_an_item_counts_not_its_answer(tmp_path: Path) -> None:
    records = [
        {"id": "a", "prompt": "What is the capital of France?", "answer": LONG},
        {"id": "b", "story": LONG, "answer": "35"},
        ["no", "record"],
    ]
    file = tmp_path / "tasks" / "items.jsonl"
    file.parent.mkdir()
    file.write_text("".join(json.dumps(record) + "\n" for record in records) + "\n")
    assert list(read_items(tmp_path)) == [
        ("items.jsonl, line 1", ("What is the capital of France?",)),
        ("items.jsonl, line 2", (LONG,)),
    ]
    file.write_text("{")
    with pytest.raises(CompressionError, match=r"items\.jsonl, line 1: is not JSON"):
        list(read_items(tmp_path))


def test_each_task_is_said_to_be_clean_or_why_it_was_not_checked(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"text": "A text about something else."}) + "\n")
    documents = {"Trains": [{"question": LONG, "answer": "35"}], "Pictures": [{"pixels": [1, 2]}]}
    assert check_tasks(str(rows), documents) == {
        "Trains": CLEAN,
        "Pictures": "not checked: its items have no text",
    }
    messages = [{"role": "user", "content": LONG}]
    # What a model without chat template is calibrated with does not matter: another one has one.
    for text in ({}, {"text": ""}, {"text": "A text about something else."}):
        rows.write_text(json.dumps({"messages": messages, **text}) + "\n")
        with pytest.raises(
            CompressionError,
            match=r"data hold evaluation items: .*rows\.jsonl, line 1 holds item 0 of T",
        ):
            check_tasks(str(rows), documents)
    rows.write_text("{")
    outcomes = check_tasks(str(rows), documents)
    assert list(outcomes) == ["Trains", "Pictures"]
    assert all(
        outcome.startswith("not checked: ") and outcome.count("line 1: is not JSON")
        for outcome in outcomes.values()
    )


def test_the_demos_calibration_data_hold_none_of_its_items() -> None:
    rows = list(load_texts("demo/calibration.jsonl", repo_root=ROOT))
    items = list(read_items(ROOT / "recipes" / "evaluations" / "demo"))
    assert len(items) == 1200
    assert find_items(rows, items) == []
    for file in ("demo_instruction", "demo_reasoning", "demo_safety"):
        text = (ROOT / "recipes" / "evaluations" / "demo" / f"{file}.jsonl").read_text()
        item = json.loads(text.splitlines()[0])
        planted = [("planted", (f"{item['prompt']} {item['answer']}",))]
        assert find_items(planted, items) == [("planted", f"{file}.jsonl, line 1")]
