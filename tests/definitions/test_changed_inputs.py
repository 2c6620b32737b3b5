"""Inputs that change under a stage: it fails, stores nothing, and says what to do."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from optikit_assets.artifacts import LocalStore, Reference
from optikit_assets.artifacts.models import ModelRegistry
from optikit_assets.environments.layout import environment_path
from optikit_assets.errors import ChangedInputError, StageError
from optikit_assets.graph import DEPLOYABLE_CONFIG, Node
from optikit_assets.headless.materialize import materialize_node
from optikit_assets.settings import REPOSITORY, settings
from optikit_assets.specs import Catalog, EngineSpec, SloSpec
from optikit_assets.workers.benchmark import handle
from optikit_assets.workers.inputs import environment_digest
from optikit_assets.workers.messages import BenchmarkRequest
from optikit_assets.workers.records import Record, ServerStarted
from tests.definitions.test_candidates import BASE, QUANTIZED, SCORES, work
from tests.definitions.world import HARDWARE, MODEL, World
from tests.servers.vllm_stand_in import install
from tests.tiny_model import write_model

pytestmark = pytest.mark.slow

SLO = SloSpec.model_validate(
    {
        "name": "demo",
        "workload": {"input_tokens": 16, "output_tokens": 4},
        "objectives": [{"metric": "e2e_latency", "percentile": 80, "max_ms": 2000}],
        "budget": {
            "strategy": "paper",
            "min_probe_seconds": 1,
            "max_probe_seconds": 2,
            "min_probe_requests": 10,
            "warmup_requests": 2,
            "closed_loop_requests": 3,
            "max_probes": 1,
            "max_load_seconds": 8,
            "tolerance": 0.5,
        },
    }
)


def test_weights_that_are_edited_between_two_stages_make_no_checkpoint(
    real: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = work(monkeypatch, rows_256=0)
    weights, kept = real.root / "weights" / "1", real.root / "kept"
    shutil.copytree(weights, kept)
    assert materialize_node(BASE) == "ok"
    write_model(weights, fill=2)
    with pytest.raises(StageError, match=r"the files of tiny@1 changed since base_model\[tiny@1\]"):
        materialize_node(QUANTIZED)
    assert workers.drawn == []
    # Put back, they are the ones that were recorded.
    shutil.copytree(kept, weights, dirs_exist_ok=True)
    assert materialize_node(QUANTIZED) == "ok"


def test_candidates_of_other_calibration_data_are_not_mixed_with_new_ones(
    real: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = work(monkeypatch, rows_64=90, rows_128=0)
    rounds = "calibration: {samples: 64, adaptive: {max_rounds: 2}}"
    real.edit(
        "quantization/int_w8a8.yaml",
        "calibration: {samples: 256, max_sequence_length: 512}",
        rounds,
    )
    for node in (BASE, QUANTIZED):
        assert materialize_node(node) == "ok"
    made = len(workers.drawn)
    real.write("calibration.jsonl", '{"text": "two and two is four"}\n')
    with pytest.raises(StageError, match=r"is older than calibration_data.*again first"):
        materialize_node(SCORES)
    assert len(workers.drawn) == made


def test_a_decision_is_not_made_without_what_changed_after_it_was_looked_at(
    real: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(monkeypatch, rows_256=0)
    for node in (BASE, QUANTIZED):
        assert materialize_node(node) == "ok"
    real.edit("quantization/int_w8a8.yaml", "samples: 256", "samples: 128")
    said = (
        r"changed after it was looked at: quantized_model\[tiny@1\|int_w8a8\] is older than "
        r"recipe_spec\[int_w8a8\]; run again"
    )
    with pytest.raises(StageError, match=said):
        materialize_node(Node.of(DEPLOYABLE_CONFIG, f"{MODEL}|demo"), looked_at=[BASE, QUANTIZED])


def test_a_worker_is_told_what_its_inputs_were(
    real: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    workers = work(monkeypatch, rows_256=0)
    compress, evaluate = workers.compress, workers.evaluate

    def seen(run: Callable[..., Any]) -> Callable[..., Any]:
        return lambda request, *rest: (asked.append(request), run(request, *rest))[1]

    workers.compress, workers.evaluate = seen(compress), seen(evaluate)  # type: ignore[method-assign]
    for node in (BASE, QUANTIZED, SCORES):
        assert materialize_node(node) == "ok"
    model = ModelRegistry(settings().home, REPOSITORY, Catalog.load(settings().recipes)).describe(
        real.root / "weights" / "1"
    )
    inputs = [{item.what: item for item in request.inputs()} for request in asked]
    assert set(inputs[0]) == {f"model {MODEL}", "calibration data"}
    checkpoints = {name for name in inputs[1] if name.startswith("checkpoint ")}
    sources = {f"model {MODEL}", "calibration data", "task files of quick"}
    assert set(inputs[1]) == sources | checkpoints
    assert inputs[0][f"model {MODEL}"].sha256 == model.digest
    for request, environment in zip(asked, ("compress", "serve"), strict=True):
        folder = environment_path(settings().envs_home, environment)
        assert request.environment == environment_digest(folder)


def test_a_model_that_changes_while_it_is_served_gives_no_result(
    home: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "weights"
    write_model(folder, fill=1)
    request = BenchmarkRequest(
        store=(home / "artifacts").as_uri(),
        artifact_key="b" * 64,
        model=Reference.to(folder, "model", f"model {MODEL}"),
        served_model_name=MODEL,
        engine=EngineSpec(),
        hardware=HARDWARE,
        slo=SLO,
        seed=1,
    )
    python = install(tmp_path / "serve" / "python", MODEL, 10_000)

    def emit(record: Record) -> None:
        if isinstance(record, ServerStarted):
            write_model(folder, fill=2)

    with pytest.raises(ChangedInputError, match=r"model tiny@1 .* changed while it was used"):
        handle(request, emit, python=python)
    assert list(LocalStore(home / "artifacts").all()) == []
    # Changed before it began, it is not even served.
    with pytest.raises(ChangedInputError):
        handle(request, lambda record: pytest.fail(f"{record.kind} came"), python=python)
