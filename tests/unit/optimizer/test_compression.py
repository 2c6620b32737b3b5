"""From recipe and seed to a plan, on model folders that nothing can be computed with."""

import json
import struct
from pathlib import Path

import pytest

from optikit_assets.errors import CompressionError, ModelError
from optikit_assets.model_files import read_config
from optikit_assets.optimizer import CalibrationData, CalibrationRow, prepare_compression
from optikit_assets.optimizer.architecture import (
    layers_from_config,
    read_linear_layers,
    select_layers,
)
from optikit_assets.specs import RecipeSpec
from tests.tiny_model import safetensors_bytes

CONFIG = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_hidden_layers": 1,
    "max_position_embeddings": 64,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    shapes = {f"{name}.weight": list(s) for name, s in layers_from_config(CONFIG).items()}
    shapes |= {
        "model.embed_tokens.weight": [100, 256],
        "model.norm.weight": [256],
        "lm_head.weight": [100, 256],
        "model.layers.0.self_attn.q_proj.bias": [256],
        "model.layers.0.mlp.experts.gate_up_proj": [8, 512, 256],
    }
    weights = safetensors_bytes(shapes, metadata={"format": "pt"})
    (folder / "model.safetensors").write_bytes(weights)
    return folder


@pytest.fixture
def data() -> tuple[CalibrationData, list[list[int]]]:
    rows = tuple(CalibrationRow(f"row {i} " + "x" * i, number=i) for i in range(100))
    return CalibrationData("c.jsonl", rows, empty_rows=0), [[1] * len(row.text) for row in rows]


GPTQ = RecipeSpec.model_validate(
    {
        "name": "r",
        "backend": "llmcompressor",
        "modifiers": [{"type": "gptq", "scheme": "W4A16"}],
        "calibration": {"samples": 16, "max_sequence_length": 2048},
        "trials": 5,
    }
)
FP8 = RecipeSpec.model_validate(
    {
        "name": "f",
        "backend": "llmcompressor",
        "modifiers": [{"type": "rtn", "scheme": "FP8_DYNAMIC"}],
    }
)


def compression(recipe: RecipeSpec, model: Path, data, seed: int = 1):
    calibration, tokens = data
    return prepare_compression(
        recipe,
        model_path=model,
        destination=model / "out",
        seed=seed,
        calibration=calibration,
        tokens=tokens,
    )


def test_headers_tell_linear_layers_from_embeddings_norms_and_fused_experts(model: Path) -> None:
    expected = {**layers_from_config(CONFIG), "lm_head": (100, 256)}
    assert read_linear_layers(model) == expected


def test_sharded_models_are_read_from_all_files(model: Path) -> None:
    second = safetensors_bytes({"extra.proj.weight": [8, 16]})
    (model / "model-00002-of-00002.safetensors").write_bytes(second)
    layers = read_linear_layers(model)
    assert layers["extra.proj"] == (8, 16)
    assert "lm_head" in layers


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is not a safetensors file"),
        (b"short", "is not a safetensors file"),
        (b"\xff" * 64, "is not a safetensors file"),
        (struct.pack("<Q", 4) + b"[12]", "has a damaged safetensors header"),
        (safetensors_bytes({"a.weight": [8, 8]})[:-1], "is truncated"),
    ],
)
def test_a_broken_weights_file_is_named(model: Path, content: bytes, problem: str) -> None:
    (model / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=rf"model\.safetensors {problem}"):
        read_linear_layers(model)


def test_a_folder_without_safetensors_or_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no \*\.safetensors file"):
        read_linear_layers(tmp_path)
    with pytest.raises(ModelError, match=r"has no config\.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json is not valid JSON"):
        read_config(tmp_path)


def test_layers_are_selected_as_the_compression_library_matches_them() -> None:
    layers = {"model.layers.0.mlp.gate": (8, 64), "model.layers.0.mlp.gate_proj": (64, 64)}
    assert list(select_layers(layers, ["Linear"], ["re:.*mlp\\.gate$"])) == [
        "model.layers.0.mlp.gate_proj"
    ]
    # A pattern is matched from the beginning, so this one matches nothing.
    assert not select_layers(layers, ["re:gate"], [])
    assert list(select_layers(layers, ["model.layers.0.mlp.gate"], [])) == [
        "model.layers.0.mlp.gate"
    ]


def test_a_plan_holds_the_rows_the_seed_draws(model: Path, data) -> None:
    first, again, other = (compression(GPTQ, model, data, seed) for seed in (1, 1, 2))
    assert first == again
    assert len(set(first.rows)) == 16
    assert set(first.rows) != set(other.rows)
    assert first.rows_digest == again.rows_digest != other.rows_digest


def test_a_plan_clamps_the_length_and_says_so(model: Path, data) -> None:
    made = compression(GPTQ, model, data)
    assert made.max_sequence_length == 64
    assert any("cut at 64 tokens instead of 2048" in note for note in made.notes)


def test_a_plan_counts_the_rows_that_are_cut_and_keeps_their_places(model: Path, data) -> None:
    made = compression(GPTQ, model, data)
    # Rows have 6 to 7 characters and as many "x" as their number; each token is a character.
    longer = sum(len(row.text) > 64 for row in made.rows)
    assert 0 < longer < 16
    assert f"{longer} of 16 drawn rows are longer than 64 tokens and cut" in made.notes
    assert made.row_numbers == tuple(row.number for row in made.rows)
    assert len(set(made.row_numbers)) == 16


def test_rows_without_tokens_are_never_drawn(model: Path, data) -> None:
    calibration, tokens = data
    tokens = [row if index < 10 else [] for index, row in enumerate(tokens)]
    made = compression(GPTQ, model, (calibration, tokens))
    assert set(made.rows) == set(calibration.rows[:10])
    assert any("only 10 exist" in note for note in made.notes)
    assert "90 empty calibration rows were left out" in made.notes


def test_no_usable_row_is_an_error(model: Path, data) -> None:
    calibration, tokens = data
    with pytest.raises(
        CompressionError, match=r"16 calibration rows are asked for and there are none"
    ):
        compression(GPTQ, model, (calibration, [[] for _ in tokens]))


def test_recipes_without_calibration_take_no_rows(model: Path, data) -> None:
    made = compression(FP8, model, data)
    assert made.rows == ()
    assert made.rows_digest is None
    assert made.max_sequence_length is None
    assert made.notes == ()


def test_the_baseline_has_no_plan(model: Path, data) -> None:
    with pytest.raises(CompressionError, match=r"there is nothing to compress"):
        compression(RecipeSpec(name="baseline", backend="none"), model, data)


def test_checks_use_the_layers_that_are_really_there(model: Path, data) -> None:
    weights = safetensors_bytes({"model.layers.0.mlp.odd_proj.weight": [64, 100]})
    (model / "model.safetensors").write_bytes(weights)
    with pytest.raises(CompressionError, match=r"odd_proj \(100 columns\)"):
        compression(GPTQ, model, data)
