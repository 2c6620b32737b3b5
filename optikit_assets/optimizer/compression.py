"""From a recipe and a seed to a compression in which nothing is left to decide."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optikit_assets.errors import CompressionError
from optikit_assets.model_files import read_config
from optikit_assets.optimizer.architecture import read_linear_layers
from optikit_assets.optimizer.calibration import CalibrationData, CalibrationRow, rows_digest
from optikit_assets.optimizer.checks import check_plan, sequence_length
from optikit_assets.optimizer.samplers import draw
from optikit_assets.specs import RecipeSpec
from optikit_assets.specs.recipe import MixedPrecision, Modifier
from optikit_assets.telling import Tell, to_nobody


@dataclass(frozen=True)
class Compression:
    """Everything that determines a compressed checkpoint, and where it goes.

    Attributes
    ----------
    model_path
        Folder of the uncompressed safetensors model.
    destination
        Existing folder that receives weights, config and tokenizer.
    modifiers, targets, ignore, kv_cache, mixed_precision, options
        As in the recipe.
    rows
        Calibration rows in the order they were drawn; empty for recipes without calibration.
    max_sequence_length
        Tokens kept per row; None without calibration.
    seed
        Seeds whatever else the backend leaves to chance.
    trust_remote_code
        Whether Python code that comes with the model may run.
    notes
        What differs from what the recipe asks for.
    tell
        Hears of every layer that is done; what is made does not depend on it.
    """

    model_path: Path
    destination: Path
    modifiers: tuple[Modifier, ...]
    targets: tuple[str, ...]
    ignore: tuple[str, ...]
    rows: tuple[CalibrationRow, ...]
    max_sequence_length: int | None
    seed: int
    trust_remote_code: bool = False
    kv_cache: str = "auto"
    mixed_precision: MixedPrecision | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    notes: tuple[str, ...] = ()
    tell: Tell = field(default=to_nobody, compare=False)

    @property
    def row_numbers(self) -> tuple[int, ...]:
        """Where the rows stand in the calibration data, in the order they were drawn."""
        return tuple(row.number for row in self.rows)

    @property
    def rows_digest(self) -> str | None:
        """sha256 of the calibration rows in their order; None without calibration."""
        return rows_digest(self.rows) if self.rows else None


def prepare_compression(
    recipe: RecipeSpec,
    *,
    model_path: Path,
    destination: Path,
    seed: int,
    calibration: CalibrationData | None = None,
    tokens: Sequence[Sequence[int]] = (),
    trust_remote_code: bool = False,
    tell: Tell = to_nobody,
) -> Compression:
    """Check `recipe` against the model and draw the calibration rows.

    Parameters
    ----------
    recipe
        Anything but the baseline.
    model_path
        Folder with config.json and safetensors files.
    destination
        Where the checkpoint goes.
    seed
        Fixes the rows and the backend's own randomness.
    calibration
        Required by recipes with calibration, ignored by others.
    tokens
        Token ids of each row of `calibration`; the samplers look at the part that is kept. Rows
        that the tokenizer makes nothing of are left out.
    trust_remote_code, tell
        Passed on.

    Raises
    ------
    CompressionError
        If the recipe cannot be applied to this model, or there is no calibration row.
    """
    if recipe.is_baseline:
        raise CompressionError(
            f"recipe {recipe.name!r} has backend 'none': there is nothing to compress"
        )
    config: dict[str, Any] = read_config(model_path)
    usable = [index for index, row in enumerate(tokens) if len(row) > 0]
    notes = check_plan(
        recipe,
        config,
        layers=read_linear_layers(model_path),
        available_rows=len(usable) if recipe.calibration is not None else None,
    )
    length = sequence_length(recipe, config)
    rows: tuple[CalibrationRow, ...] = ()
    if recipe.calibration is not None and calibration is not None:
        if len(tokens) != len(calibration.rows):
            raise ValueError(f"{len(calibration.rows)} rows but {len(tokens)} token lists")
        kept = [tokens[index][:length] for index in usable]
        drawn = draw(recipe.calibration.sampler, kept, recipe.calibration.samples, seed)
        rows = tuple(calibration.rows[usable[index]] for index in drawn)
        dropped = calibration.empty_rows + len(tokens) - len(usable)
        if dropped:
            notes.append(f"{dropped} empty calibration rows were left out")
        cut = sum(length is not None and len(tokens[usable[index]]) > length for index in drawn)
        if cut:
            notes.append(
                f"{cut} of {len(drawn)} drawn rows are longer than {length} tokens and cut"
            )
    return Compression(
        model_path=model_path,
        destination=destination,
        modifiers=recipe.modifiers,
        targets=recipe.targets,
        ignore=recipe.ignore,
        rows=rows,
        max_sequence_length=length,
        seed=seed,
        trust_remote_code=trust_remote_code,
        kv_cache=recipe.kv_cache,
        mixed_precision=recipe.mixed_precision,
        options=recipe.options,
        notes=tuple(notes),
        tell=tell,
    )
