"""The compress worker's bookkeeping, with a backend that writes a file instead of compressing."""

import errno
import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from optikit_assets.artifacts import LocalStore, open_store
from optikit_assets.errors import (
    AcceleratorError,
    ChangedInputError,
    CompressionError,
    EnvironmentMissingError,
    StorageError,
    UnknownNameError,
)
from optikit_assets.optimizer.backends import CompressedModel, backend_names, base, get_backend
from optikit_assets.optimizer.compression import Compression
from optikit_assets.schemas import FailedCalibrationTrial
from optikit_assets.specs import RecipeSpec
from optikit_assets.workers import compress
from optikit_assets.workers.messages import CompressRequest, CompressTrial
from optikit_assets.workers.records import Progress, Record, TrialFailed, TrialFinished
from tests.references import refer
from tests.tiny_model import safetensors_bytes


class FakeBackend:
    """Writes the plan's seed; fails on the seeds it is told to."""

    failures: dict[int, Exception] = {}  # noqa: RUF012
    plans: list[Compression] = []  # noqa: RUF012

    def versions(self) -> dict[str, str]:
        return {"fake": "1.0"}

    def compress(self, compression: Compression) -> CompressedModel:
        self.plans.append(compression)
        (compression.destination / "model.safetensors").write_text(str(compression.seed))
        if compression.seed in self.failures:
            raise self.failures[compression.seed]
        return CompressedModel(compression.destination, total_bytes=1, elapsed_s=2.5)


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> dict[int, Exception]:
    monkeypatch.setattr(FakeBackend, "failures", {})
    monkeypatch.setattr(FakeBackend, "plans", [])
    monkeypatch.setitem(base._BACKENDS.own, "llmcompressor", FakeBackend)
    for name in (*compress._QUIET, *compress._OFFLINE):
        monkeypatch.setenv(name, "1")
    return FakeBackend.failures


@pytest.fixture
def request_for(tmp_path: Path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"hidden_size": 64}))
    weights = safetensors_bytes({"model.layers.0.mlp.up_proj.weight": (64, 64)})
    (model / "model.safetensors").write_bytes(weights)
    recipe = RecipeSpec.model_validate(
        {
            "name": "fp8_dynamic",
            "backend": "llmcompressor",
            "modifiers": [{"type": "rtn", "scheme": "FP8_DYNAMIC"}],
        }
    )

    def make(*seeds: int, **changes: Any) -> CompressRequest:
        request = CompressRequest(
            store=(tmp_path / "store").as_uri(),
            model=refer(model),
            recipe=recipe,
            calibration_data="hf:org/data",
            trials=tuple(
                CompressTrial(trial=i, seed=seed, artifact_key=key_of(i))
                for i, seed in enumerate(seeds)
            ),
        )
        return request.model_copy(update=changes)

    return make


def key_of(trial: int) -> str:
    return hashlib.sha256(str(trial).encode()).hexdigest()


def ticking_clock():
    now = datetime(2026, 1, 1, tzinfo=UTC)
    while True:
        yield now
        now += timedelta(seconds=10)


def test_a_failing_trial_does_not_stop_the_others(failures, request_for) -> None:
    failures[8] = RuntimeError("boom\nwith a second line")
    failures[9] = CompressionError("out of memory while compressing m: lower samples")
    records: list[Record] = []
    ticks = ticking_clock()
    result = compress.handle(request_for(7, 8, 9, 10), records.append, clock=lambda: next(ticks))
    assert result.finished == {0: key_of(0), 3: key_of(3)}
    assert result.failed == {
        1: "RuntimeError: boom with a second line",
        2: "out of memory while compressing m: lower samples",
    }
    assert [type(record) for record in records] == [
        *(Progress, TrialFinished, Progress, TrialFailed),
        *(Progress, TrialFailed, Progress, TrialFinished),
    ]
    assert records[3] == TrialFailed(
        trial=FailedCalibrationTrial(
            trial=1,
            seed=8,
            artifact_key=key_of(1),
            started_at="2026-01-01T00:00:30+00:00",
            # In between the making of its checkpoint began.
            ended_at="2026-01-01T00:00:50+00:00",
            reason=result.failed[1],
        )
    )


def test_a_failed_trial_leaves_nothing_in_the_store(failures, request_for, tmp_path) -> None:
    failures[7] = RuntimeError("boom")
    request = request_for(7)
    compress.handle(request, lambda record: None)
    store = LocalStore(tmp_path / "store")
    assert store.find(key_of(0)) is None
    assert list((store.root / "staging").glob("*")) == []


def test_a_second_call_reuses_what_the_first_finished(failures, request_for) -> None:
    failures[8] = RuntimeError("transient")
    before: list[Record] = []
    compress.handle(request_for(7, 8), before.append)
    failures.clear()
    FakeBackend.plans.clear()
    records: list[Record] = []
    result = compress.handle(request_for(7, 8), records.append)
    assert result.finished == {0: key_of(0), 1: key_of(1)}
    assert [compression.seed for compression in FakeBackend.plans] == [8]
    (first,) = (r for r in before if isinstance(r, TrialFinished))
    again, other = (r for r in records if isinstance(r, TrialFinished))
    assert (first.reused, again.reused, other.reused) == (False, True, False)
    # With the times at which it was made.
    assert (again.trial, again.made) == (first.trial, first.made)
    assert again.made.seconds == 2.5
    assert again.made.started_at is not None


def test_the_manifest_holds_the_provenance(failures, request_for) -> None:
    request = request_for(7)
    compress.handle(request, lambda record: None)
    manifest = open_store(request.store, Path()).get(key_of(0)).manifest
    assert manifest["seed"] == 7
    assert manifest["recipe_digest"] == request.recipe.digest()
    assert manifest["versions"] == {"fake": "1.0"}
    assert manifest["rows_digest"] is None
    assert manifest["started_at"] <= manifest["ended_at"]


def test_a_full_disk_stops_the_whole_request(failures, request_for) -> None:
    failures[7] = StorageError("disk full while writing")
    with pytest.raises(StorageError, match="disk full"):
        compress.handle(request_for(7, 8), lambda record: None)
    assert len(FakeBackend.plans) == 1


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded"), StorageError),
        (OSError(errno.EIO, "Input/output error"), StorageError),
        (RuntimeError("No CUDA GPUs are available"), AcceleratorError),
        (ChangedInputError("the weights changed"), ChangedInputError),
    ],
)
def test_a_fault_of_the_machine_is_no_failed_trial(failures, request_for, error, fault) -> None:
    failures[8] = error
    records: list[Record] = []
    with pytest.raises(fault):
        compress.handle(request_for(7, 8, 9), records.append)
    assert [compression.seed for compression in FakeBackend.plans] == [7, 8]
    assert [type(record) for record in records] == [Progress, TrialFinished, Progress]


def test_accelerator_memory_that_runs_out_is_the_trials_failure(failures, request_for) -> None:
    failures[7] = RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
    assert compress.handle(request_for(7, 8), lambda record: None).finished == {1: key_of(1)}


def test_another_version_of_a_package_than_planned_stops_the_whole_request(
    failures, request_for
) -> None:
    with pytest.raises(EnvironmentMissingError, match=r"planned with x from y==1, .* has none"):
        compress.handle(request_for(7, packages={"x": "y==1"}), lambda record: None)
    assert FakeBackend.plans == []


def test_the_baseline_is_refused(failures, request_for) -> None:
    baseline = RecipeSpec(name="baseline", backend="none")
    with pytest.raises(CompressionError, match="nothing to compress"):
        compress.handle(request_for(7, recipe=baseline), lambda record: None)


def test_a_missing_library_stops_the_whole_request(
    failures, request_for, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The control environment has no llm-compressor, so the real backend is that case.
    real = __import__("optikit_assets.optimizer.backends.llmcompressor", fromlist=["x"])
    monkeypatch.setitem(base._BACKENDS.own, "llmcompressor", real.LLMCompressorBackend)
    with pytest.raises(EnvironmentMissingError, match=r"compress environment.*optikit doctor"):
        compress.handle(request_for(7), lambda record: None)


def test_a_library_counts_once_it_is_installed_and_can_be_imported() -> None:
    assert base.library_versions("pytest", "pytest", ["pytest"]) == {"pytest": pytest.__version__}
    for module, distribution in (("pytest", "no-such-library"), ("no_such_module", "pytest")):
        with pytest.raises(EnvironmentMissingError, match="Some Library cannot be imported"):
            base.library_versions("Some Library", module, [distribution])


def test_a_long_reason_is_recorded_as_one_readable_line(failures, request_for) -> None:
    failures[7] = ValueError("layer 3 has\n" + "x " * 1000)
    failures[8] = MemoryError()
    result = compress.handle(request_for(7, 8), lambda record: None)
    assert result.failed[0].startswith("ValueError: layer 3 has x x")
    assert result.failed[0].endswith("...")
    assert len(result.failed[0]) < 650
    assert result.failed[1] == "MemoryError"


def test_backends_are_found_by_name() -> None:
    assert backend_names() == ("autoround", "llmcompressor")
    with pytest.raises(UnknownNameError, match=r"compression backend 'magic'; known: autoround, l"):
        get_backend("magic")
    with pytest.raises(ValueError, match="registered already"):
        base.register_backend("llmcompressor")(FakeBackend)
