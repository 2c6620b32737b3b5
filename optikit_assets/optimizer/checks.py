"""What can be known to go wrong before any compute: a recipe against a model's config.json."""

from collections.abc import Mapping
from typing import Any

from optikit_assets.errors import CompressionError
from optikit_assets.model_files import language_config
from optikit_assets.optimizer.architecture import (
    LinearLayers,
    expert_count,
    layers_from_config,
    select_layers,
)
from optikit_assets.optimizer.families import family_problems
from optikit_assets.specs import RecipeSpec
from optikit_assets.specs.recipe import GPTQ, GROUPED_SCHEMES, AutoRound, SparseGPT, Wanda

_NAMED_AT_MOST = 3

GROUP_SIZES = {**dict.fromkeys(GROUPED_SCHEMES, 128), "NVFP4": 16}
"""Columns per scale of the schemes that quantize in groups (compressed-tensors presets)."""

_MASK_SIZE = 4


def check_plan(
    recipe: RecipeSpec,
    model_config: Mapping[str, Any],
    *,
    layers: LinearLayers | None = None,
    available_rows: int | None = None,
) -> list[str]:
    """Check that `recipe` can be applied to a model, without loading it.

    Parameters
    ----------
    recipe
        Any recipe; the baseline always fits.
    model_config
        Parsed config.json. An unknown architecture is fine: what cannot be derived is not checked.
    layers
        The model's linear layers (`read_linear_layers`); by default those that the config implies.
    available_rows
        Non-empty calibration rows, when known.

    Returns
    -------
    list of str
        What will be done differently from what the recipe says (rows or length reduced).

    Raises
    ------
    CompressionError
        With every reason why the recipe cannot be applied, each with the fix.
    """
    if recipe.is_baseline:
        return []
    known = layers_from_config(model_config) if layers is None else layers
    problems = [
        *_quantized_already(model_config),
        *family_problems(recipe, model_config),
        *_layer_problems(recipe, known),
        *_row_problems(recipe, available_rows),
    ]
    if problems:
        raise CompressionError(f"recipe {recipe.name!r} cannot be applied: " + "; ".join(problems))
    return _notes(recipe, model_config, available_rows)


def sequence_length(recipe: RecipeSpec, model_config: Mapping[str, Any]) -> int | None:
    """Return the tokens kept per calibration row: the recipe's number, clamped to the context.

    None for a recipe without calibration.
    """
    if recipe.calibration is None:
        return None
    context = _context(model_config)
    asked = recipe.calibration.max_sequence_length
    return asked if context is None else min(asked, context)


def group_sizes(recipe: RecipeSpec) -> dict[str, int]:
    """Return the columns that share a scale, by scheme; schemes without groups are left out.

    A modifier's own size is that of its scheme alone: sensitive layers get their scheme's preset.
    """
    presets = {name: GROUP_SIZES[name] for name in recipe.schemes if name in GROUP_SIZES}
    own = {
        modifier.scheme: modifier.group_size
        for modifier in recipe.modifiers
        if isinstance(modifier, GPTQ | AutoRound) and modifier.group_size is not None
    }
    return presets | own


def _context(model_config: Mapping[str, Any]) -> int | None:
    value = language_config(model_config).get("max_position_embeddings")
    return value if isinstance(value, int) and value > 0 else None


def _quantized_already(model_config: Mapping[str, Any]) -> list[str]:
    present = model_config.get("quantization_config")
    if not present:
        return []
    method = present.get("quant_method", "unknown") if isinstance(present, dict) else "unknown"
    return [f"the model is quantized already ({method}); use its full-precision version"]


def _layer_problems(recipe: RecipeSpec, layers: LinearLayers) -> list[str]:
    if not layers:
        return []
    selected = select_layers(layers, recipe.targets, recipe.ignore)
    if not selected:
        # A class name other than Linear cannot be told from tensor names.
        if not all(t == "Linear" or t.startswith("re:") or "." in t for t in recipe.targets):
            return []
        problem = (
            f"targets {list(recipe.targets)} without ignore {list(recipe.ignore)} match none of "
            f"the {len(layers)} linear layers, e.g. {next(iter(layers))}"
        )
        return [problem]
    problems = []
    # Which layers are sensitive is known only once the model runs: each has to fit both schemes.
    for scheme, size in group_sizes(recipe).items():
        settable = any(
            isinstance(m, GPTQ | AutoRound) and m.scheme == scheme for m in recipe.modifiers
        )
        problems += _indivisible(selected, size, f"{scheme}'s group size", settable=settable)
    if any(isinstance(m, SparseGPT | Wanda) and m.mask == "2:4" for m in recipe.modifiers):
        problems += _indivisible(selected, _MASK_SIZE, "the 2:4 mask's width")
    return problems


def _indivisible(
    selected: LinearLayers, size: int, what: str, *, settable: bool = False
) -> list[str]:
    """Name the layers whose columns `size` does not divide; `settable`: by ``group_size``."""
    bad = {name: columns for name, (_, columns) in selected.items() if columns % size}
    if not bad:
        return []
    shown = ", ".join(f"{n} ({c} columns)" for n, c in list(bad.items())[:_NAMED_AT_MOST])
    more = f" and {len(bad) - _NAMED_AT_MOST} more" if len(bad) > _NAMED_AT_MOST else ""
    return [
        f"{what} {size} does not divide {shown}{more}; {_fix(selected, bad, settable=settable)}"
    ]


def _fix(selected: LinearLayers, bad: Mapping[str, int], *, settable: bool) -> str:
    suffixes = sorted({name.rsplit(".", 1)[-1] for name in bad})
    ignore = ", ".join(f"'re:.*{suffix}$'" for suffix in suffixes)
    # Kernels exist for these sizes; the largest one costs the fewest scales.
    fitting = [g for g in (128, 64, 32) if all(c % g == 0 for _, c in selected.values())]
    choices = []
    if fitting and settable:
        choices.append(f"set group_size: {fitting[0]}")
    if len(bad) < len(selected):
        choices.append(f"add {ignore} to ignore")
    return " or ".join(choices) if choices else "use a scheme without groups, such as W8A8"


def _row_problems(recipe: RecipeSpec, available_rows: int | None) -> list[str]:
    if recipe.calibration is None or available_rows is None or available_rows > 0:
        return []
    return [f"{recipe.calibration.samples} calibration rows are asked for and there are none"]


def _notes(
    recipe: RecipeSpec, model_config: Mapping[str, Any], available_rows: int | None
) -> list[str]:
    calibration = recipe.calibration
    if calibration is None:
        return []
    notes = []
    if experts := expert_count(model_config):
        notes.append(_how_experts_are_calibrated(recipe, experts))
    length = sequence_length(recipe, model_config)
    if length is not None and length < calibration.max_sequence_length:
        notes.append(
            f"calibration rows are cut at {length} tokens instead of "
            f"{calibration.max_sequence_length}: the model's context ends there"
        )
    if available_rows is not None and available_rows <= calibration.samples:
        what = (
            "all calibration rows are used"
            if available_rows == calibration.samples
            else f"{calibration.samples} calibration rows are asked for and only "
            f"{available_rows} exist: all are used"
        )
        trials = ", so trials differ in row order only" if recipe.trials > 1 else ""
        notes.append(what + trials)
    return notes


def _how_experts_are_calibrated(recipe: RecipeSpec, experts: int) -> str:
    if recipe.backend == "autoround":
        return (
            f"an expert (of {experts} per layer) learns from the tokens that the router sends to "
            "it; one without any is rounded to nearest"
        )
    return (
        f"each of the {experts} experts per layer is calibrated with all tokens, not only with "
        "those that the router sends to it"
    )
