"""``docs/specs.md`` names every key of the spec files, and its examples load."""

import re
from pathlib import Path

import pytest

from optikit_assets.specs import SpecModel, load_spec
from optikit_assets.specs.catalog import FOLDERS
from optikit_assets.specs.reference import filled, reference
from tests.unit.specs.conftest import Write

FILE = Path(__file__).parents[3] / "docs" / "specs.md"
PAGE = FILE.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n# recipes/(\S+)/(\w[\w-]*)\.yaml\n(.*?)```", PAGE, re.DOTALL)


def test_page_is_current() -> None:
    assert filled(PAGE) == PAGE, f"run python -m optikit_assets.specs.reference --write {FILE}"


def test_a_page_without_a_folder_is_refused() -> None:
    with pytest.raises(ValueError, match="<!-- slos -->"):
        filled(PAGE.replace("<!-- slos -->", ""))


def test_every_folder_has_an_example() -> None:
    assert sorted(folder for folder, _, _ in EXAMPLES) == sorted(FOLDERS)


@pytest.mark.parametrize(("folder", "name", "text"), EXAMPLES, ids=lambda text: text[:20])
def test_example_loads(write: Write, folder: str, name: str, text: str) -> None:
    assert load_spec(write(text, f"{folder}/{name}.yaml"), FOLDERS[folder]).name == name


def test_every_field_of_every_piece_has_a_description() -> None:
    nameless = [
        f"{piece.__name__}.{name}"
        for piece in _subclasses(SpecModel)
        if piece.__module__.startswith("optikit_assets.specs.")
        for name, field in piece.model_fields.items()
        if not field.description
    ]
    assert nameless == []


def test_keys_of_mappings_in_lists_and_in_mappings_are_there() -> None:
    tables = reference(FOLDERS["quantization"])
    assert "### `calibration.adaptive`" in tables
    assert "### `modifiers[]` with `type: gptq`" in tables
    assert "| `dampening_frac` | number, > 0, < 1 | `0.01` | Hessian dampening. |" in tables
    assert "### `parameters.NAME` with `low` and `high`" in reference(FOLDERS["search_spaces"])


def _subclasses(kind: type[SpecModel]) -> set[type[SpecModel]]:
    direct = kind.__subclasses__()
    return {*direct, *(further for piece in direct for further in _subclasses(piece))}
