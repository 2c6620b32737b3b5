"""The table of recipes in the documentation, from rows that were made up."""

from pathlib import Path

import pytest

from benchmarks.recipes import HEADER, SECTION, main, refusals_on, table
from benchmarks.tables import write_section
from optikit_assets.engines import Hardware
from optikit_assets.history import History
from optikit_assets.settings import REPOSITORY, settings
from optikit_assets.specs import ModelSpec, RecipeSpec
from tests.unit.history.conftest import Rows

RECIPES = {
    name: RecipeSpec.model_validate(
        {
            "name": name,
            "backend": "llmcompressor",
            "modifiers": [{"type": "rtn", "scheme": scheme}],
            "calibration": {"samples": 8},
        }
    )
    for name, scheme in {"int8": "W8A8", "int4": "W4A16", "slow": "FP8", "nvfp4": "NVFP4"}.items()
}
CPU = Hardware("cpu", "Test CPU", 1, 2**34, features=("avx512f",))


@pytest.fixture
def lines(history: History, rows: Rows) -> dict[str, str]:
    for trial, seconds in ((0, 2.0), (1, 4.0)):
        rows.add(
            "quantization_trials",
            recipe="int8",
            trial=trial,
            status="finished",
            bytes=2_500_000,
            base_bytes=5_000_000,
            seconds=seconds,
        )
    rows.add("quantization_trials", recipe="int8", trial=2, status="failed", reason="boom")
    rows.gate("int8", True, 0.991, mean_recovery_low=0.97, mean_recovery_high=1.01)
    rows.gate("int4", False, 0.8)
    rows.sweep("int8", 28.17)
    rows.sweep("int8", 99.0, slo="other")
    rows.sweep("slow", None)
    history.drain()
    refusals = refusals_on(CPU, RECIPES, ModelSpec(name="qwen"))
    made = table(history, RECIPES, "qwen@1", "chat", refusals).splitlines()
    assert tuple(made[:2]) == HEADER
    return {line.split("`")[1]: line for line in made[2:]}


def test_a_row_says_size_time_recovery_verdict_and_rate(lines: dict[str, str]) -> None:
    assert lines["int8"] == (
        "| `int8` | 2.50 MB (50%) | 3.0 s × 2 | 0.991 (0.970 to 1.010) | pass | 28.2 |"
    )


def test_what_was_not_measured_is_not_made_up(lines: dict[str, str]) -> None:
    assert lines["int4"] == "| `int4` | – | – | 0.800 | fail | – |"
    assert lines["slow"] == "| `slow` | – | – | – | not run | infeasible |"


def test_a_recipe_that_this_machine_cannot_serve_says_why(lines: dict[str, str]) -> None:
    assert "| vLLM has no CPU kernel for NVFP4: use a GPU or another recipe |" in lines["nvfp4"]


def test_the_fastest_recipe_comes_first(lines: dict[str, str]) -> None:
    assert next(iter(lines)) == "int8"


@pytest.mark.slow
def test_the_table_replaces_the_one_in_the_documentation(home: Path, tmp_path: Path) -> None:
    history = History(settings().history)
    Rows(history).sweep("int_w8a8", 28.17, slo="demo", model="demo-llama@1")
    history.drain()
    written = (REPOSITORY / "docs" / "recipes.md").read_text(encoding="utf-8")
    file = tmp_path / "recipes.md"
    file.write_text(written, encoding="utf-8")
    assert main(["--write", str(file)]) == 0
    before, begin, rest = file.read_text(encoding="utf-8").partition("<!-- results -->\n")
    made, end, after = rest.partition("<!-- /results -->")
    assert tuple(made.splitlines()[:2]) == HEADER
    assert "| `int_w8a8` | – | – | – | not run | 28.2 |" in made
    assert written.startswith(before + begin)
    assert written.endswith(end + after)


def test_a_document_without_the_section_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.md"
    file.write_text("# Title\n<!-- results -->\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no section between <!-- results --> and"):
        write_section(file, SECTION, "new")
    assert file.read_text(encoding="utf-8") == "# Title\n<!-- results -->\n"
