"""The table of recipes and architectures, from answers that were made up."""

from pathlib import Path

import pytest

from benchmarks.architectures import CALIBRATION, SECTION, TOKENIZER, Effort, Table
from optikit_assets.engines import Hardware
from optikit_assets.settings import REPOSITORY
from optikit_assets.specs import RecipeSpec, load_spec
from tests.tiny_model import write_model

RECIPES = {
    name: load_spec(REPOSITORY / "recipes" / "quantization" / f"{name}.yaml", RecipeSpec)
    for name in ("baseline", "autoround_w4a16", "int_w8a8", "nvfp4")
}


@pytest.fixture
def table() -> Table:
    made = Table(RECIPES, Hardware("cpu", "Test CPU", 1, 2**30), Path("nowhere"))
    made.weights["Llama"] = 1000
    made.refused["Llama/nvfp4"] = "no room"
    made.not_served["Llama/autoround_w4a16"] = "no kernel"
    figures = {"bytes": 280, "seconds": 1.26, "cosine": 0.9}
    made.compressed |= {"Llama/autoround_w4a16": figures, "Llama/int_w8a8": figures}
    made.served |= {"Llama/baseline": {"perplexity": 8.0}, "Llama/int_w8a8": {"perplexity": 9.0}}
    return made


def test_a_cell_says_what_became_of_a_recipe_and_a_number_leads_to_the_reason(table: Table) -> None:
    assert table.render(["Llama"]).splitlines()[2:] == [
        "| `baseline` | 8.00 |",
        "| `autoround_w4a16` | 28%, 1.3 s, 0.900; not here (1) |",
        "| `int_w8a8` | 28%, 1.3 s, 0.900; 9.00 |",
        "| `nvfp4` | refused (2) |",
        "",
        "1. no kernel",
        "2. no room",
    ]
    assert table.died() == []


def test_what_died_after_compute_is_told_apart_and_named(table: Table) -> None:
    table.compressed["Llama/autoround_w4a16"] = {"failed": "RuntimeError: dtype"}
    table.served["Llama/int_w8a8"] = {"failed": "ValueError: kernel"}
    cells = table.render(["Llama"])
    assert "| `autoround_w4a16` | died (1) |" in cells
    assert "0.900; died (2) |" in cells
    assert table.died() == [
        "Llama/autoround_w4a16: RuntimeError: dtype",
        "Llama/int_w8a8: ValueError: kernel",
    ]


def test_less_is_computed_than_the_recipe_says_and_nothing_else_changes(tmp_path: Path) -> None:
    effort = Effort(rows=24, length=128, autoround_steps=4)
    recipe = RECIPES["autoround_w4a16"]
    model = write_model(tmp_path / "Llama")
    content = effort.request(recipe, model, tmp_path / "store")["recipe"]
    assert content["calibration"]["samples"] == 24
    assert content["modifiers"][0]["iters"] == 4
    assert content["ignore"] == list(recipe.ignore)


def test_what_the_command_needs_is_in_the_repository() -> None:
    assert CALIBRATION.is_file()
    assert TOKENIZER.is_dir()
    assert f"<!-- {SECTION} -->" in (REPOSITORY / "docs" / "recipes.md").read_text()
