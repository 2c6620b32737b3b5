"""Every shipped recipe with the real libraries, on the demo model and a few of its rows."""

import hashlib
import json
import os
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from optikit_assets.artifacts import LocalStore
from optikit_assets.settings import settings
from optikit_assets.specs import RecipeSpec, load_spec
from optikit_assets.workers.manifests import CheckpointMaking
from optikit_assets.workers.records import TrialFinished, read_record
from tests.references import as_json

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "demo" / "models" / "demo-llama" / "1"
NAMES = sorted(
    file.stem
    for file in (ROOT / "recipes" / "quantization").glob("*.yaml")
    if file.stem != "baseline"
)
# Whatever draws at random or learns, twice with one seed.
TWICE = ("autoround_w4a16", "mixed_w4_w8", "sparse24")
BOUNDS = {"nvfp4": 0.9, "sparse24": 0.8, "sparse24_w8a8": 0.8}
"""Least cosine between the logits before and after; 0.95 for the others."""


def artifact_key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def request(name: str, store: Path) -> dict[str, Any]:
    """Return the recipe's request with little data and few steps."""
    spec = load_spec(ROOT / "recipes" / "quantization" / f"{name}.yaml", RecipeSpec)
    recipe = {**spec.model_dump(mode="json"), "trials": 1}
    if spec.calibration:
        recipe["calibration"] |= {"samples": 24, "max_sequence_length": 128}
        recipe["trials"] = 2 if name in TWICE else 1
    if recipe["modifiers"][0]["type"] == "awq":
        # It computes every layer's output on all of them for each of twenty scales.
        recipe["calibration"]["samples"] = 8
    if recipe["backend"] == "autoround":
        recipe["modifiers"][0]["iters"] = 4
    return {
        "store": store.as_uri(),
        "model": as_json(MODEL),
        "recipe": recipe,
        "calibration_data": as_json(ROOT / "demo" / "calibration.jsonl"),
        "trials": [
            {"trial": trial, "seed": 7, "artifact_key": artifact_key(name, trial)}
            for trial in range(recipe["trials"])
        ],
    }


class Made:
    """Checkpoints and records by recipe."""

    def __init__(self, store: Path, answers: dict[str, Any]) -> None:
        self.store, self.answers = LocalStore(store), answers

    def checkpoint(self, name: str, trial: int = 0) -> Path:
        return self.store.get(self.answers[name]["result"]["finished"][str(trial)]).folder()

    def quantization(self, name: str) -> dict[str, Any]:
        return json.loads((self.checkpoint(name) / "config.json").read_text()).get(
            "quantization_config", {}
        )

    def making(self, name: str) -> CheckpointMaking:
        records = map(read_record, self.answers[name]["records"])
        return next(record.made for record in records if isinstance(record, TrialFinished))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    python = settings().envs_home / "envs" / "compress" / "bin" / "python"
    if not python.exists():
        pytest.skip("the compress environment is not installed")
    folder = tmp_path_factory.mktemp("recipes")
    job = {name: {"request": request(name, folder / "store")} for name in NAMES}
    file = folder / "job.json"
    file.write_text(json.dumps(job))
    done = subprocess.run(
        [str(python), "-m", "tests.integration.compress_driver", "run", str(file)],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"},
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Made(folder / "store", json.loads(file.with_suffix(".answers.json").read_text()))


def header(checkpoint: Path) -> dict[str, dict[str, Any]]:
    with (checkpoint / "model.safetensors").open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length))


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_makes_a_smaller_checkpoint_that_computes_nearly_the_same(
    made: Made, name: str
) -> None:
    assert made.answers[name]["result"]["failed"] == {}
    assert all(
        value > BOUNDS.get(name, 0.95) for value in made.answers[name]["similarity"].values()
    )
    size, original = (
        (folder / "model.safetensors").stat().st_size for folder in (made.checkpoint(name), MODEL)
    )
    # Pruned weights are stored like others.
    assert size < (0.56 if name != "sparse24" else 1.01) * original
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (made.checkpoint(name) / file).read_bytes() == (MODEL / file).read_bytes()
    assert not (made.checkpoint(name) / "chat_template.jinja").exists()


@pytest.mark.parametrize("name", NAMES)
def test_the_output_layer_keeps_its_weights_and_their_type(made: Made, name: str) -> None:
    assert header(made.checkpoint(name))["lm_head.weight"]["dtype"] == "BF16"
    if made.quantization(name):
        assert "lm_head" in made.quantization(name)["ignore"]


@pytest.mark.parametrize("name", TWICE)
def test_the_same_seed_gives_the_same_rows_and_the_same_bytes(made: Made, name: str) -> None:
    first, second = (
        hashlib.sha256((made.checkpoint(name, t) / "model.safetensors").read_bytes()).hexdigest()
        for t in (0, 1)
    )
    assert first == second


def test_each_scheme_is_written_as_the_engine_reads_it(made: Made) -> None:
    def group(name: str) -> dict[str, Any]:
        return made.quantization(name)["config_groups"]["group_0"]

    static = group("int_w8a8_static")["input_activations"]
    assert (static["dynamic"], static["strategy"]) == (False, "tensor")
    assert group("awq_w4a16")["weights"]["symmetric"] is False
    actorder = group("gptq_w4a16_actorder")["weights"]
    assert (actorder["actorder"], actorder["group_size"]) == ("static", 32)
    assert group("nvfp4")["format"] == "nvfp4-pack-quantized"
    assert group("autoround_w4a16")["format"] == "pack-quantized"
    cache = made.quantization("fp8_kv_cache")["kv_cache_scheme"]
    assert (cache["num_bits"], cache["type"], cache["dynamic"]) == (8, "float", False)
    scales = [
        n for n in header(made.checkpoint("fp8_kv_cache")) if n.endswith(("k_scale", "v_scale"))
    ]
    assert len(scales) == 2 * 4


def test_sensitive_layers_are_named_and_fused_layers_stay_together(made: Made) -> None:
    groups = made.quantization("mixed_w4_w8")["config_groups"].values()
    by_bits = {group["weights"]["num_bits"]: set(group["targets"]) for group in groups}
    assert sorted(by_bits) == [4, 8]
    assert len(by_bits[4] | by_bits[8]) == 4 * 7
    for layer in range(4):
        qkv = {f"model.layers.{layer}.self_attn.{part}_proj" for part in "qkv"}
        assert qkv <= by_bits[4] or qkv <= by_bits[8]
    (note,) = (n for n in made.making("mixed_w4_w8").notes if n.startswith("sensitive layers: "))
    assert set(note.removeprefix("sensitive layers: ").split(", ")) == by_bits[8]


@pytest.mark.parametrize("name", ["sparse24", "sparse24_w8a8"])
def test_two_of_four_weights_are_zero_also_after_quantization(made: Made, name: str) -> None:
    import numpy as np

    checkpoint = made.checkpoint(name)
    content = (checkpoint / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    kinds = {"I8": np.int8, "BF16": np.uint16}
    for tensor, entry in header(checkpoint).items():
        if tensor.startswith("model.layers.") and tensor.endswith("proj.weight"):
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            values = np.frombuffer(content[begin:end], kinds[entry["dtype"]]).reshape(-1, 4)
            # Both zeros of bfloat16.
            zeros = (values == 0) | ((values == 0x8000) if entry["dtype"] == "BF16" else False)
            assert (zeros.sum(axis=1) >= 2).all(), tensor
