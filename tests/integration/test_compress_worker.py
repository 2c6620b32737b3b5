"""The compress worker with the real llm-compressor, on tiny random models of six families."""

import hashlib
import json
import os
import random
import re
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from dagster_pipes import encode_param

from optikit_assets import clock
from optikit_assets.artifacts import LocalStore
from optikit_assets.optimizer.families import SMOOTHED
from optikit_assets.workers.manifests import CheckpointMaking
from optikit_assets.workers.records import TrialFinished, read_record
from tests.references import as_json

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
W8A8 = [{"type": "smoothquant", "smoothing_strength": 0.8}, {"type": "gptq", "scheme": "W8A8"}]
W4A16 = [{"type": "gptq", "scheme": "W4A16"}]
W4A16_64 = [{"type": "gptq", "scheme": "W4A16", "group_size": 64}]
FP8 = [{"type": "rtn", "scheme": "FP8_DYNAMIC"}]
AWQ = [{"type": "awq"}]
AUTOROUND = [{"type": "autoround", "scheme": "W4A16", "iters": 2}]
MIXED = [{"type": "gptq", "scheme": "W4A16"}]
UNREACHED = (6, 7)
"""Experts that the router of qwen3_moe never chooses."""
SAMPLES = 40


def compress_python() -> Path:
    home = Path(os.environ.get("OPTIKIT_HOME", ROOT / ".optikit"))
    python = home / "envs" / "compress" / "bin" / "python"
    if not python.exists():
        pytest.skip("the compress environment is not installed")
    return python


def in_compress_environment(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    # Byte code is kept: compiling the libraries anew costs more than all that is tested here.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | extra
    return subprocess.run(
        [str(compress_python()), *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )


def artifact_key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    done = in_compress_environment("-m", "tests.integration.compress_driver", "models", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 120 rows of 3 to 30 words, some empty, one longer than the models' context."""
    rng = random.Random(5)
    rows = [
        " ".join(f"w{rng.randrange(200)}" for _ in range(rng.randint(3, 30))) for _ in range(120)
    ]
    rows += ["", "  ", " ".join(["w1"] * 100)]
    file = tmp_path_factory.mktemp("data") / "calibration.jsonl"
    file.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return file


class Run:
    """What the driver emitted and returned, by scenario."""

    def __init__(self, store: Path, job: dict[str, Any], answers: dict[str, Any]) -> None:
        self.store, self.job, self.answers = LocalStore(store), job, answers
        self.scaled: dict[str, list[str]] = answers.pop("scaled")

    def finished(self, scenario: str) -> list[TrialFinished]:
        records = map(read_record, self.answers[scenario]["records"])
        return [record for record in records if isinstance(record, TrialFinished)]

    def checkpoint(self, scenario: str, trial: int = 0) -> Path:
        return self.store.get(self.answers[scenario]["result"]["finished"][str(trial)]).folder()


def request(
    scenario: str,
    model: Path,
    modifiers: list[dict[str, Any]],
    calibration: Path,
    store: Path,
    seeds: tuple[int, ...] = (1,),
) -> dict[str, Any]:
    recipe: dict[str, Any] = {
        "name": "r",
        "backend": "autoround" if modifiers is AUTOROUND else "llmcompressor",
        "modifiers": modifiers,
        "ignore": ["lm_head", "re:.*mlp\\.gate$", "re:.*shared_expert_gate$"],
    }
    if modifiers is not FP8:
        recipe |= {
            "calibration": {"samples": SAMPLES, "max_sequence_length": 128},
            "trials": len(seeds),
        }
    if modifiers is MIXED:
        recipe["mixed_precision"] = {"scheme": "W8A8", "share": 0.3}
    return {
        "store": store.as_uri(),
        "model": as_json(model),
        "recipe": recipe,
        "calibration_data": as_json(calibration),
        "trials": [
            {"trial": trial, "seed": seed, "artifact_key": artifact_key(scenario, trial)}
            for trial, seed in enumerate(seeds)
        ],
    }


@pytest.fixture(scope="module")
def ran(models: Path, calibration: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    store = folder / "store"
    scenarios: dict[str, tuple[str, list[dict], tuple[int, ...]]] = {
        "llama_w8a8": ("llama", W8A8, (1, 1, 2)),
        "llama_w8a8_unbatched": ("llama", W8A8, (1,)),
        "llama_w4a16": ("llama", W4A16, (1,)),
        "llama_fp8": ("llama", FP8, (1,)),
        "llama_awq": ("llama", AWQ, (1,)),
        "qwen2_w8a8": ("qwen2", W8A8, (1,)),
        "mistral_w4a16": ("mistral", W4A16_64, (1,)),
        "mistral_indivisible": ("mistral", W4A16, (1, 2)),
        "qwen2_moe_fp8": ("qwen2_moe", FP8, (1,)),
        "qwen2_moe_w8a8": ("qwen2_moe", W8A8, (1,)),
        "qwen3_moe_w8a8": ("qwen3_moe", W8A8, (1,)),
        "qwen3_moe_mixed_w4a16": ("qwen3_moe", MIXED, (1,)),
        "qwen3_moe_autoround_w4a16": ("qwen3_moe", AUTOROUND, (1,)),
        "gemma3_w8a8": ("gemma3", W8A8, (1,)),
    }
    job: dict[str, Any] = {
        name: {"request": request(name, models / model, modifiers, calibration, store, seeds)}
        for name, (model, modifiers, seeds) in scenarios.items()
    }
    job["llama_w8a8_unbatched"]["tokens_per_batch"] = 1
    job["llama_w8a8_again"] = job["llama_w8a8"]
    file = folder / "job.json"
    file.write_text(json.dumps(job))
    done = in_compress_environment("-m", "tests.integration.compress_driver", "run", str(file))
    assert done.returncode == 0, done.stderr
    noise = [line for line in (done.stdout + done.stderr).splitlines() if "it/s]" in line]
    assert noise == [], "progress bars in a log"
    return Run(store, job, json.loads(file.with_suffix(".answers.json").read_text()))


def header(checkpoint: Path) -> dict[str, dict[str, Any]]:
    with (checkpoint / "model.safetensors").open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length))


def weights_digest(checkpoint: Path) -> str:
    return hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()


ALL = [
    "llama_w8a8",
    "llama_w4a16",
    "llama_fp8",
    "llama_awq",
    "qwen2_w8a8",
    "mistral_w4a16",
    "qwen2_moe_fp8",
    "qwen2_moe_w8a8",
    "qwen3_moe_w8a8",
    "qwen3_moe_mixed_w4a16",
    "qwen3_moe_autoround_w4a16",
    "gemma3_w8a8",
]


@pytest.mark.parametrize("scenario", ALL)
def test_checkpoints_are_complete_and_compressed(ran: Run, models: Path, scenario: str) -> None:
    checkpoint = ran.checkpoint(scenario)
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    assert "lm_head" in config["quantization_config"]["ignore"]
    types = {entry["dtype"] for name, entry in header(checkpoint).items() if name != "__metadata__"}
    expected = {"w8a8": "I8", "fp8": "F8_E4M3", "w4a16": "I32", "awq": "I32"}
    assert expected[scenario.rsplit("_", 1)[-1]] in types
    original = Path(ran.job[scenario]["request"]["model"]["where"])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (checkpoint / name).read_bytes() == (original / name).read_bytes()
    assert not list(checkpoint.rglob("*.bin"))


@pytest.mark.parametrize("scenario", ALL)
def test_checkpoints_still_compute_what_the_model_computes(ran: Run, scenario: str) -> None:
    # Random weights have no outliers to spare: four bits and three mantissa bits show in full.
    bound = {"w8a8": 0.995, "fp8": 0.98, "w4a16": 0.9, "awq": 0.9}[scenario.rsplit("_", 1)[-1]]
    assert all(value > bound for value in ran.answers[scenario]["similarity"].values())


@pytest.mark.parametrize("scenario", ALL)
def test_routers_and_output_layers_keep_their_weights(ran: Run, scenario: str) -> None:
    tensors = header(ran.checkpoint(scenario))
    original = header(Path(ran.job[scenario]["request"]["model"]["where"]))
    kept = [name for name in tensors if name.endswith(("lm_head.weight", "mlp.gate.weight"))]
    assert all(tensors[name]["dtype"] == original[name]["dtype"] for name in kept)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(ran: Run) -> None:
    first, again, other = (weights_digest(ran.checkpoint("llama_w8a8", t)) for t in range(3))
    assert first == again
    assert first != other
    made = [record.made for record in ran.finished("llama_w8a8")]
    assert made[0].rows_digest == made[1].rows_digest != made[2].rows_digest
    assert made[0].row_numbers == made[1].row_numbers != made[2].row_numbers


def test_batching_rows_of_equal_length_changes_nothing_but_rounding(ran: Run) -> None:
    import numpy as np

    batched, single = ran.checkpoint("llama_w8a8"), ran.checkpoint("llama_w8a8_unbatched")
    total = different = 0
    for name, entry in header(batched).items():
        if entry.get("dtype") == "I8":
            a, b = (tensor(path, name) for path in (batched, single))
            total += a.size
            different += int((a != b).sum())
            assert np.abs(a.astype(int) - b.astype(int)).max() <= 1
    assert total > 100_000
    assert different / total < 1e-3


EXPERT = re.compile(r"\.mlp\.experts\.(\d+)\.\w+_proj\.weight$")


def test_every_expert_is_quantized_and_near_its_weights_also_one_without_tokens(
    ran: Run, models: Path
) -> None:
    import numpy as np

    checkpoint = ran.checkpoint("qwen3_moe_w8a8")
    experts = {n: int(e[1]) for n in header(models / "qwen3_moe") if (e := EXPERT.search(n))}
    assert sorted(experts.values()) == sorted(list(range(8)) * 2 * 3)
    for name in experts:
        weight, scale = (tensor(checkpoint, n) for n in (name, f"{name}_scale"))
        restored = weight.reshape(len(scale), -1) * scale[:, None]
        original = tensor(models / "qwen3_moe", name).reshape(restored.shape)
        # Rounding to nearest is off by half a step at most; GPTQ adds what other columns lost.
        assert np.abs(restored - original).max() < 3 * scale.max(), name
    (record,) = ran.finished("qwen3_moe_w8a8")
    assert any("experts per layer is calibrated with all tokens" in n for n in record.made.notes)


def test_learnt_rounding_leaves_an_expert_without_tokens_rounded_to_nearest(
    ran: Run, models: Path
) -> None:
    import numpy as np

    checkpoint = ran.checkpoint("qwen3_moe_autoround_w4a16")
    packed = [n for n in header(checkpoint) if n.endswith(".weight_packed")]
    unreached = [n for n in packed if f"experts.{UNREACHED[0]}." in n]
    assert len(unreached) == 2 * 3
    for name in unreached:
        layer = name.removesuffix("_packed")
        scale = tensor(checkpoint, f"{layer}_scale")
        words = tensor(checkpoint, name).astype(np.int64)
        values = np.stack([(words >> shift) & 15 for shift in range(0, 32, 4)], axis=-1) - 8
        original = tensor(models / "qwen3_moe", layer)
        # One group of 128 columns per row.
        restored = values.reshape(len(scale), -1) * scale[:, None]
        step = np.repeat(np.abs(scale), restored.shape[1])
        inside = np.abs(original) < 7 * step
        assert (np.abs(restored.ravel() - original) <= 0.51 * step)[inside].all(), name


def test_of_mixed_precision_the_experts_of_a_layer_have_one_scheme(ran: Run) -> None:
    file = ran.checkpoint("qwen3_moe_mixed_w4a16") / "config.json"
    groups = json.loads(file.read_text())["quantization_config"]["config_groups"].values()
    by_bits = {group["weights"]["num_bits"]: set(group["targets"]) for group in groups}
    assert sorted(by_bits) == [4, 8]
    assert len(by_bits[4] | by_bits[8]) == 2 * (4 + 8 * 3)
    for layer in range(2):
        experts = {
            f"model.layers.{layer}.mlp.experts.{number}.{part}_proj"
            for number in range(8)
            for part in ("gate", "up", "down")
        }
        assert experts <= by_bits[4] or experts <= by_bits[8]


def tensor(checkpoint: Path, name: str) -> Any:
    """Return a tensor's values in one row; bfloat16 as float32, packed words as unsigned."""
    import numpy as np

    content = (checkpoint / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    entry = header(checkpoint)[name]
    begin, end = (8 + length + offset for offset in entry["data_offsets"])
    kinds = {"I8": np.int8, "I32": np.uint32, "F16": np.float16, "F32": np.float32}
    if entry["dtype"] == "BF16":
        return (np.frombuffer(content[begin:end], np.uint16).astype(np.uint32) << 16).view(
            np.float32
        )
    return np.frombuffer(content[begin:end], kinds[entry["dtype"]])


def test_records_and_manifest_say_how_the_checkpoint_came_about(ran: Run) -> None:
    (record, *_) = ran.finished("llama_w8a8")
    artifact, made = ran.store.get(record.trial.artifact_key or ""), record.made
    assert made.bytes == sum(
        f.stat().st_size for f in artifact.folder().rglob("*") if f.name != "manifest.json"
    )
    assert made.rows == SAMPLES == len(set(made.row_numbers))
    assert (made.seconds or 0) > 0
    assert "" < (made.started_at or "") <= (made.ended_at or "")
    assert "2 empty calibration rows were left out" in made.notes
    assert any("cut at 64 tokens instead of 128" in note for note in made.notes)
    assert artifact.manifest["seed"] == record.trial.seed
    assert CheckpointMaking.of(artifact.manifest) == made
    assert set(artifact.manifest["versions"]) == {
        "llmcompressor",
        "compressed-tensors",
        "torch",
        "transformers",
    }
    assert len(artifact.manifest["recipe_digest"]) == 64


def test_finished_trials_are_not_made_again(ran: Run) -> None:
    again, before = ran.finished("llama_w8a8_again"), ran.finished("llama_w8a8")
    assert [record.reused for record in again] == [True, True, True]
    assert [record.made for record in again] == [record.made for record in before]


def test_a_recipe_that_cannot_be_applied_fails_every_trial_with_the_fix(ran: Run) -> None:
    answer = ran.answers["mistral_indivisible"]["result"]
    assert answer["finished"] == {}
    assert set(answer["failed"]) == {"0", "1"}
    reason = answer["failed"]["0"]
    assert "model.layers.0.mlp.down_proj (192 columns)" in reason
    assert "set group_size: 64" in reason
    assert ran.store.find(artifact_key("mistral_indivisible", 0)) is None


def test_fp8_needs_no_calibration_rows(ran: Run) -> None:
    (record,) = ran.finished("llama_fp8")
    assert record.made.rows == 0
    assert record.made.rows_digest is None


def test_the_library_scales_each_architecture_that_is_said_to_be_known(ran: Run) -> None:
    assert {m: sorted(known - set(ran.scaled[m])) for m, known in SMOOTHED.items()} == {
        "SmoothQuant": [],
        "AWQ": [],
    }


def test_nothing_is_left_in_staging(ran: Run) -> None:
    assert list((ran.store.root / "staging").glob("*")) == []


def pipes_environment(folder: Path, payload: dict[str, Any]) -> dict[str, str]:
    extras = {"request": payload, "clock": clock.reading()}
    context = {"extras": extras, "run_id": "test", "retry_number": 0}
    return {
        "DAGSTER_PIPES_CONTEXT": encode_param({"data": context}),
        "DAGSTER_PIPES_MESSAGES": encode_param({"path": str(folder / "messages")}),
    }


def custom_messages(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "messages").read_text().splitlines()]
    return [
        line["params"]["payload"] for line in lines if line["method"] == "report_custom_message"
    ]


PARQUET = """
import json, sys
from pathlib import Path
import pyarrow as pa
from pyarrow import parquet
from optikit_assets.errors import CompressionError
from optikit_assets.optimizer.calibration import load_calibration

folder = Path(sys.argv[1])
chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
rows = [{"messages": chat, "text": None}, {"messages": None, "text": " "}, {"text": "two"}]
parquet.write_table(pa.Table.from_pylist(rows), folder / "c.parquet")
render = lambda messages: "|".join(m["role"] + " " + m["content"] for m in messages)
data = load_calibration("c.parquet", repo_root=folder, render_chat=render)
print(json.dumps([[r.text, r.templated, r.number] for r in data.rows] + [data.empty_rows]))
(folder / "broken.parquet").write_text("no table")
try:
    load_calibration("broken.parquet", repo_root=folder)
except CompressionError as error:
    print(error)
"""


def test_parquet_files_are_calibration_data_too(tmp_path: Path) -> None:
    done = in_compress_environment("-c", PARQUET, str(tmp_path))
    assert done.returncode == 0, done.stderr
    rows, broken = done.stdout.splitlines()
    assert json.loads(rows) == [["user hello|assistant hi", True, 0], ["two", False, 2], 1]
    assert broken.startswith("calibration data broken.parquet cannot be read: ")


def test_calibration_rows_that_hold_an_evaluation_item_stop_the_request(
    models: Path, calibration: Path, tmp_path: Path
) -> None:
    item = json.loads(calibration.read_text().splitlines()[3])["text"]
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "items.jsonl").write_text(json.dumps({"prompt": item.upper()}) + "\n")
    payload = request("held", models / "llama", W8A8, calibration, tmp_path / "store")
    payload["evaluation_data"] = as_json(tmp_path / "suite")
    done = in_compress_environment(
        "-m", "optikit_assets.workers.compress", **pipes_environment(tmp_path, payload)
    )
    assert done.returncode == 1
    message = custom_messages(tmp_path)[-1]["body"]["message"]
    assert "calibration.jsonl, line 4 holds items.jsonl, line 1; remove these rows" in message


def test_the_entry_point_speaks_pipes(models: Path, calibration: Path, tmp_path: Path) -> None:
    payload = request("pipes", models / "llama", FP8, calibration, tmp_path / "store")
    done = in_compress_environment(
        "-m", "optikit_assets.workers.compress", **pipes_environment(tmp_path, payload)
    )
    assert done.returncode == 0, done.stderr
    messages = custom_messages(tmp_path)
    kinds = [m["body"].get("kind") for m in messages if m["type"] == "record"]
    assert kinds == ["progress", "trial_finished"]
    assert messages[-1]["type"] == "result"
    assert messages[-1]["body"]["finished"] == {"0": artifact_key("pipes", 0)}


def test_the_entry_point_reports_an_error_and_exits_with_1(
    models: Path, calibration: Path, tmp_path: Path
) -> None:
    payload = request("none", models / "llama", FP8, calibration, tmp_path / "store")
    payload["recipe"] = {"name": "baseline", "backend": "none"}
    done = in_compress_environment(
        "-m", "optikit_assets.workers.compress", **pipes_environment(tmp_path, payload)
    )
    assert done.returncode == 1
    error = custom_messages(tmp_path)[-1]
    assert error["type"] == "error"
    assert error["body"]["error_class"] == "CompressionError"
    assert "there is nothing to compress" in error["body"]["message"]
