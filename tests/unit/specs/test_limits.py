"""Files that would take all memory, or end in a traceback, are one error within milliseconds."""

import json
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from optikit_assets.engines import ModelFacts
from optikit_assets.errors import CompressionError, EvaluationError, ModelError, SpecError
from optikit_assets.model_files import read_config
from optikit_assets.optimizer.calibration import load_texts
from optikit_assets.optimizer.contamination import read_items
from optikit_assets.specs import JobSpec, RecipeSpec, load_spec
from optikit_assets.specs.json_text import parse_json
from optikit_assets.specs.prompt_file import PromptFile
from optikit_assets.specs.traces import TraceFile
from optikit_assets.specs.yaml_text import MAX_BYTES, MAX_DEPTH, MAX_VALUES
from optikit_assets.stateval.task_files import task_files
from tests.unit.specs.conftest import RECIPE, Write

LAUGHS = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
MERGED = "m0: &m0 {k: 1}\n" + "".join(
    f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 10)}]}}\n" for n in range(1, 10)
)
LONG_TEXT = f"t: &t '{'x' * 100_000}'\nu: [{', '.join(['*t'] * 1000)}]\n"
TALL = "t0: &t0 [1]\n" + "".join(f"t{n}: &t{n} [*t{n - 1}]\n" for n in range(1, 100))


@pytest.fixture(autouse=True)
def _spends_little() -> Iterator[None]:
    tracemalloc.start()
    begin = time.process_time()
    yield
    seconds, (_, peak) = time.process_time() - begin, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Tracing slows it all down several times.
    assert seconds < 20
    assert peak < 200 * 2**20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (LAUGHS, f"line 5: more than {MAX_VALUES} values, aliases expanded"),
        (MERGED, f"line 5: more than {MAX_VALUES} values, aliases expanded"),
        (LONG_TEXT, f"line 2: more than {MAX_BYTES} characters, aliases expanded"),
        (TALL, f"line {MAX_DEPTH - 1}: values are nested more than {MAX_DEPTH} deep"),
        ("a: " + "[" * 100_000, f"line 1: values are nested more than {MAX_DEPTH} deep"),
        ("a: " + "{b: " * 100_000, f"line 1: values are nested more than {MAX_DEPTH} deep"),
        ("- " * 100_000, f"line 1: values are nested more than {MAX_DEPTH} deep"),
        ("a: &a [*a]", "line 1: an alias stands for what it is part of"),
        ("a: &a {b: [*a]}", "line 1: an alias stands for what it is part of"),
        ("a: [" + "1, " * 300_000 + "]", f"line 1: more than {MAX_VALUES} values"),
        ("# " + "x" * MAX_BYTES, f"is larger than {MAX_BYTES} bytes"),
        ("a: *b", "found undefined alias 'b'"),
        ("a: 2024-13-45", "line 1: '2024-13-45' is no timestamp"),
        ("b: 1\na: " + "9" * 5000, "line 2: '9999999999999999999999999999999999999...' is no int"),
        ("a: 0x" + "f" * 5000, "line 1: '0xfffffffffffffffffffffffffffffffffff...' is too large a"),
        ("a: !!int x", "line 1: 'x' is no int"),
        ("a: !!bool x", "line 1: 'x' is no bool"),
        ("a: !!timestamp x", "line 1: 'x' is no timestamp"),
        ("2024-01-01: x", "a key must be a plain value"),
    ],
)
def test_a_spec_that_is_too_much_is_refused_with_its_line(
    write: Write, text: str, problem: str
) -> None:
    file = write(text)
    with pytest.raises(SpecError) as caught:
        load_spec(file, RecipeSpec)
    assert problem in caught.value.problems[0]
    assert str(caught.value).startswith(f"{file}: ")
    assert len(str(caught.value)) < 500


def test_aliases_of_an_honest_file_are_read(write: Write) -> None:
    text = RECIPE.replace("{type: gptq, scheme: W8A8}", "&g {type: gptq, scheme: W8A8}")
    text = text.replace("calibration: ", "calibration: &c ")
    assert load_spec(write(text), RecipeSpec) == load_spec(write(), RecipeSpec)
    night = "name: night\nmodel: &m m\nslos: [*m, chat]\n"
    assert load_spec(write(night, "jobs/night.yaml"), JobSpec).slos == ("m", "chat")


def test_a_secret_in_a_key_that_is_misspelled_is_not_repeated(write: Write) -> None:
    file = write(f"{RECIPE}judge: http://ada:hunter2@host/v1\n")
    with pytest.raises(SpecError, match=r"judge: unknown key \(got 'http://…@host/v1'\)"):
        load_spec(file, RecipeSpec)


def test_task_files_have_the_same_limits(tmp_path: Path) -> None:
    (tmp_path / "laughs.yaml").write_text(LAUGHS, encoding="utf-8")
    with pytest.raises(EvaluationError, match=r"task file laughs\.yaml: line 5: more than"):
        task_files(tmp_path)


# --- JSON ---------------------------------------------------------------------------------------

DEEP = "[" * 100_000 + "]" * 100_000
BRACKETS = {"prompt": "[" * 1000 + '\\"{' * 1000}


@pytest.mark.parametrize("kind", [PromptFile, TraceFile])
@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (DEEP, r"line 2: is not valid JSON: nested more than 50 deep"),
        ('{"a": ' * 100 + "1" + "}" * 100, r"line 2: is not valid JSON: nested more than 50 deep"),
        ("[" + "0," * 1_000_001 + "0]", r"line 2: is not valid JSON: more than 1000000 values"),
        ('"' + '\\"[' * 100_000, r"line 2: is not valid JSON: Unterminated string"),
    ],
)
def test_rows_that_are_too_much_are_refused_with_their_line(
    tmp_path: Path, kind: type[PromptFile], line: str, problem: str
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(f'{{"prompt": "a"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=problem):
        kind.model_validate(str(file))


def test_brackets_in_a_text_nest_nothing(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(BRACKETS) + "\n", encoding="utf-8")
    (row,) = PromptFile.model_validate(str(file)).rows()
    assert row.content == BRACKETS["prompt"]
    assert parse_json(b"\xef\xbb\xbf" + json.dumps(BRACKETS).encode()) == BRACKETS
    with pytest.raises(ValueError, match="larger than"):
        parse_json(b" " * (2**26 + 1))


def test_rows_of_calibration_and_evaluation_data_have_the_same_limits(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(DEEP, encoding="utf-8")
    for read in (lambda: list(load_texts(str(file))), lambda: list(read_items(tmp_path))):
        with pytest.raises(CompressionError, match=r"line 1: is not JSON: nested more than 50"):
            read()
    # A line separator of Unicode ends no line.
    file.write_text('{"text": "a\u2028b"}\n', encoding="utf-8")
    assert [where for where, _ in read_items(tmp_path)] == ["rows.jsonl, line 1"]


def test_a_models_configuration_that_nests_too_deep_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(DEEP, encoding="utf-8")
    for read in (read_config, ModelFacts.read):
        with pytest.raises(ModelError, match=r"config\.json.*JSON"):
            read(tmp_path)


def test_a_trace_of_impossible_lengths_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text("timestamp,input_tokens,output_tokens\n0,5,5\n1,1e300,5\n")
    with pytest.raises(ValueError, match=r"row 2: input_tokens must be at most 10000000 .got '1e3"):
        TraceFile.model_validate(str(file))
