"""A digest changes when the meaning of a file changes, and only then."""

import pytest
import yaml

from optikit_assets.specs import RecipeSpec, digest, load_spec
from optikit_assets.specs.plugins import REVISIONS
from tests.unit.specs.conftest import RECIPE, Write


@pytest.mark.parametrize(
    "same",
    [
        "# a comment\n" + RECIPE.replace("trials: 5", "trials:   5   # five"),
        "\n\n" + RECIPE.replace("\n", "\n\n").replace("\n\n\n", "\n\n"),
        yaml.safe_dump(yaml.safe_load(RECIPE), sort_keys=True),
        yaml.safe_dump(dict(reversed(yaml.safe_load(RECIPE).items())), sort_keys=False),
        RECIPE.replace("description: example", "description: quite different"),
        RECIPE.replace("description: example\n", ""),
        RECIPE + "max_attempts: 2\nignore: [lm_head]\n",  # the defaults, spelled out
        RECIPE.replace("0.8", "8.0e-1"),
        RECIPE.replace("name: int_w8a8", "name: 'int_w8a8'"),
    ],
)
def test_form_does_not_change_the_digest(write: Write, same: str) -> None:
    before = load_spec(write(), RecipeSpec).digest()
    assert load_spec(write(same), RecipeSpec).digest() == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("trials: 5", "trials: 4"),
        ("samples: 256", "samples: 255"),
        ("0.8", "0.81"),
        ("sampler: random", "sampler: length_weighted"),
        ("scheme: W8A8", "scheme: W8A8, dampening_frac: 0.02"),
        ("backend: llmcompressor", "backend: llmcompressor\nignore: []"),
    ],
)
def test_content_changes_the_digest(write: Write, old: str, new: str) -> None:
    before = load_spec(write(), RecipeSpec).digest()
    assert load_spec(write(RECIPE.replace(old, new)), RecipeSpec).digest() != before


def test_the_revision_of_a_recipes_own_backend_changes_the_digest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learnt = {**yaml.safe_load(RECIPE), "backend": "autoround"}
    learnt["modifiers"] = [{"type": "autoround", "scheme": "W4A16"}]
    recipes = [RecipeSpec.model_validate(raw) for raw in (yaml.safe_load(RECIPE), learnt)]
    before = [recipe.digest() for recipe in recipes]
    monkeypatch.setitem(REVISIONS, "autoround", "999")
    after = [recipe.digest() for recipe in recipes]
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_the_order_of_modifiers_is_content() -> None:
    smooth, prune = {"type": "smoothquant"}, {"type": "wanda"}
    quantize = {"type": "rtn", "scheme": "W8A8"}
    raw = {**yaml.safe_load(RECIPE), "modifiers": [smooth, prune, quantize]}
    swapped = {**raw, "modifiers": [prune, smooth, quantize]}
    first, second = RecipeSpec.model_validate(raw), RecipeSpec.model_validate(swapped)
    assert first.digest() != second.digest()


def test_canonical_json_is_what_is_hashed() -> None:
    # sha256 of '{"a":[1,"\\u00e9"],"b":null}', from coreutils' sha256sum
    expected = "e6ad993c7a569e941cdd65aa57c817cb74d20d9877b15dfc8cc0ac151c74785d"
    assert digest({"b": None, "a": [1, "é"]}) == expected
