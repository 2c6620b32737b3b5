"""What a calibration reference may be, and what is done with each kind of row."""

import json
import sys
import types
from pathlib import Path

import pytest
from jinja2 import TemplateError

from optikit_assets.errors import CompressionError
from optikit_assets.optimizer.calibration import (
    CalibrationRow,
    load_calibration,
    load_texts,
    resolve_calibration,
    rows_digest,
)

CHAT = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]


def write(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def render(messages: list[dict]) -> str:
    return "".join(f"<{m['role']}>{m['content']}" for m in messages)


def test_text_and_prompt_are_used_as_they_are(tmp_path: Path) -> None:
    write(tmp_path / "c.jsonl", {"text": " one\n"}, {"prompt": "two"}, {"text": "a", "prompt": "b"})
    rows = load_calibration("c.jsonl", repo_root=tmp_path).rows
    assert [row.text for row in rows] == [" one\n", "two", "a"]
    assert not any(row.templated for row in rows)


def test_messages_go_through_the_chat_template_when_the_model_has_one(tmp_path: Path) -> None:
    write(tmp_path / "c.jsonl", {"messages": CHAT, "text": "flat"})
    with_template = load_calibration("c.jsonl", repo_root=tmp_path, render_chat=render).rows
    without = load_calibration("c.jsonl", repo_root=tmp_path).rows
    assert with_template == (CalibrationRow("<user>hello<assistant>hi", templated=True),)
    assert without == (CalibrationRow("flat"),)


def test_messages_that_the_template_refuses_are_named_by_file_and_line(tmp_path: Path) -> None:
    write(tmp_path / "c.jsonl", {"text": "good"}, {"messages": CHAT})

    def refuse(messages: list[dict]) -> str:
        raise TemplateError("System role not supported")

    with pytest.raises(
        CompressionError,
        match=r"c.jsonl, line 2: the model's chat template refuses its messages "
        r"\(TemplateError: System role not supported\); change them, or give the row as text",
    ):
        load_calibration("c.jsonl", repo_root=tmp_path, render_chat=refuse)


def test_messages_alone_are_joined_for_a_model_without_template(tmp_path: Path) -> None:
    write(tmp_path / "c.jsonl", {"messages": CHAT})
    assert load_calibration("c.jsonl", repo_root=tmp_path).rows == (CalibrationRow("hello\nhi"),)


def test_empty_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    write(tmp_path / "c.jsonl", {"text": ""}, {"text": " \n\t"}, {"text": "x"}, {"messages": []})
    data = load_calibration("c.jsonl", repo_root=tmp_path)
    assert len(data.rows) == 1
    assert data.empty_rows == 3


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"text": "x"}\n\n  \n{"text": "y"}\n')
    assert load_calibration("c.jsonl", repo_root=tmp_path).empty_rows == 0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("{", r"c.jsonl, line 2: is not JSON"),
        ('["a"]', r"c.jsonl, line 2: must be an object with text, messages or prompt, not list"),
        ('{"body": "x"}', r"line 2: has none of text, messages, prompt; its keys: body"),
        ('{"text": 5}', r"line 2: text must be text, not int"),
        ('{"messages": "x"}', r"line 2: messages must be a list of \{role, content\} objects"),
        ('{"messages": [{"role": "user"}]}', r"line 2: messages must be a list"),
        ('{"text": null}', r"line 2: has none of text, messages, prompt; its keys: text"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, line: str, expected: str) -> None:
    (tmp_path / "c.jsonl").write_text('{"text": "good"}\n' + line + "\n")
    with pytest.raises(CompressionError, match=expected):
        load_calibration("c.jsonl", repo_root=tmp_path)


def test_data_without_any_text_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "c.jsonl", {"text": ""}, {"text": " "})
    with pytest.raises(CompressionError, match=r"has no row with text \(2 empty rows\)"):
        load_calibration("c.jsonl", repo_root=tmp_path)


def test_a_missing_file_is_named_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(CompressionError, match=r"'nowhere.jsonl' is not a file.*calibration_data"):
        load_calibration("nowhere.jsonl", repo_root=tmp_path)


def test_a_file_that_is_not_text_is_reported(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CompressionError, match=r"c.jsonl cannot be read"):
        load_calibration("c.jsonl", repo_root=tmp_path)


@pytest.mark.parametrize("reference", ["hf:", "hf:name", "hf:a/b/c", "hf:a/b@", "hf:a b/c"])
def test_malformed_hub_references_are_refused(reference: str, tmp_path: Path) -> None:
    with pytest.raises(CompressionError, match=r"is not of the form hf:ORG/DATASET"):
        resolve_calibration(reference, tmp_path)


def test_resolving_makes_paths_absolute_and_leaves_hub_references(tmp_path: Path) -> None:
    file = write(tmp_path / "c.jsonl", {"text": "x"})
    assert resolve_calibration("c.jsonl", tmp_path) == str(file.resolve())
    assert resolve_calibration(str(file), tmp_path / "elsewhere") == str(file.resolve())
    assert resolve_calibration("hf:org/data@v1", tmp_path) == "hf:org/data@v1"


def test_rows_digest_depends_on_text_order_and_template() -> None:
    a, b = CalibrationRow("a"), CalibrationRow("b")
    digests = {
        rows_digest([a, b]),
        rows_digest([b, a]),
        rows_digest([a]),
        rows_digest([CalibrationRow("a", templated=True), b]),
    }
    assert len(digests) == 4


def fake_datasets(monkeypatch: pytest.MonkeyPatch, load) -> None:
    def builder(name: str, revision: str | None):
        splits = load(name, revision)
        return types.SimpleNamespace(
            hash=revision, download_and_prepare=lambda: None, as_dataset=lambda: splits
        )

    module = types.ModuleType("datasets")
    module.load_dataset_builder = builder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_hub_data_takes_the_train_split_at_the_revision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def load(name: str, revision: str | None):
        asked.append((name, revision))
        return {"test": [{"text": "no"}], "train": [{"text": "yes", "messages": CHAT}]}

    fake_datasets(monkeypatch, load)
    data = load_calibration("hf:org/data@v2", repo_root=tmp_path)
    assert asked == [("org/data", "v2")]
    assert [row.text for row in data.rows] == ["yes"]


def test_an_unreachable_hub_is_reported_with_the_next_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def load(name: str, revision: str | None):
        raise ConnectionError("offline")

    fake_datasets(monkeypatch, load)
    with pytest.raises(CompressionError, match=r"hf:org/data cannot be fetched.*offline.*network"):
        load_calibration("hf:org/data", repo_root=tmp_path)


def test_all_texts_of_a_record_are_given_whatever_a_model_would_use(tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl"
    write(file, {"text": "", "messages": CHAT}, {"text": "flat", "prompt": "asked"}, {"prompt": ""})
    assert list(load_texts("c.jsonl", repo_root=tmp_path)) == [
        ("c.jsonl, line 1", ("hello", "hi")),
        ("c.jsonl, line 2", ("flat", "asked")),
        ("c.jsonl, line 3", ()),
    ]
    write(file, {"messages": CHAT}, {"messages": "x"})
    with pytest.raises(CompressionError, match="line 2: messages must be a list"):
        list(load_texts("c.jsonl", repo_root=tmp_path))


def test_rows_know_their_line_so_that_they_can_be_found_again(tmp_path: Path) -> None:
    file = tmp_path / "c.jsonl"
    file.write_text('{"text": "one"}\n\n{"text": " "}\n{"text": "four"}\n')
    rows = load_calibration("c.jsonl", repo_root=tmp_path).rows
    assert [(row.text, row.number) for row in rows] == [("one", 1), ("four", 4)]
