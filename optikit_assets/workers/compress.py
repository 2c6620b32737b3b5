"""Worker of the compress environment: one candidate checkpoint per calibration trial.

``python -m optikit_assets.workers.compress``
"""

import logging
import os
import traceback
from collections.abc import Callable
from datetime import datetime

from optikit_assets.artifacts import ArtifactStore
from optikit_assets.clock import now
from optikit_assets.errors import (
    CompressionError,
    EnvironmentMissingError,
    one_line,
)
from optikit_assets.faults import raise_machine_fault
from optikit_assets.optimizer.backends import CompressionBackend, get_backend
from optikit_assets.optimizer.calibration import (
    CalibrationData,
    load_calibration,
    load_texts,
)
from optikit_assets.optimizer.compression import Compression, prepare_compression
from optikit_assets.optimizer.contamination import check_contamination, read_items
from optikit_assets.schemas import CalibrationTrial, FailedCalibrationTrial
from optikit_assets.telling import Tell
from optikit_assets.workers.channel import Emit, worker_main
from optikit_assets.workers.inputs import calibration_location, check_inputs, local, store_of
from optikit_assets.workers.manifests import CheckpointMaking
from optikit_assets.workers.messages import (
    CompressRequest,
    CompressResult,
    CompressTrial,
)
from optikit_assets.workers.parts import Parts
from optikit_assets.workers.records import TrialFailed, TrialFinished

log = logging.getLogger("optikit.compress")

CHECKPOINT = "checkpoint"
"""Artifact kind; the artifact's folder is the model folder."""

Clock = Callable[[], datetime]
Tokens = list[list[int]]

_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "LLM_COMPRESSOR_LOG_LEVEL": "WARNING",
    "TOKENIZERS_PARALLELISM": "false",
    # Some bars are enabled explicitly, against TQDM_DISABLE; a delay keeps those quiet too.
    "TQDM_DELAY": "1000000",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
_OFFLINE = {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def handle(request: CompressRequest, emit: Emit, *, clock: Clock = now) -> CompressResult:
    """Make the candidate of every trial in the request, one after the other.

    A trial whose artifact exists already is reported as finished without computing anything. A
    trial that fails is reported with its reason and the next one is begun.

    Parameters
    ----------
    request
        What is to be made, of what.
    emit
        Receives `Progress`, `TrialFinished` and `TrialFailed`.
    clock
        Time of day, for records and manifests.

    Raises
    ------
    CompressionError
        If the recipe is the baseline, or the calibration data cannot be read or hold an evaluation
        item.
    MachineError
        If no later trial could do better: the disk is full, the backend's library is not installed,
        a package behind the recipe differs from the one it was planned with, an input changed, …
    """
    if request.recipe.is_baseline:
        raise CompressionError(
            f"recipe {request.recipe.name!r} has backend 'none': there is nothing to compress"
        )
    if request.packages != request.recipe.packages:
        raise EnvironmentMissingError(
            f"recipe {request.recipe.name!r} is planned with {_listed(request.packages)}, and this "
            f"environment has {_listed(request.recipe.packages)}; install the same version of each "
            "package in the control and the compress environment"
        )
    # Before the first import of a library that reads them.
    _set_environment(online=isinstance(request.calibration_data, str))
    backend = get_backend(request.recipe.backend)
    versions = backend.versions()
    check_inputs(request)
    store = store_of(request)
    calibration, tokens = _load_rows(request)
    finished: dict[int, str] = {}
    failed: dict[int, str] = {}
    parts = Parts(emit, len(request.trials))
    for number, trial in enumerate(request.trials):
        parts.begin(number, f"compressing trial {trial.trial} of {request.recipe.name}")
        started_at = clock()
        try:
            with store.turn(trial.artifact_key):
                made = _run_trial(
                    request, trial, backend, store, calibration, tokens, versions, clock, parts.of()
                )
        except Exception as error:
            raise_machine_fault(error)
            # The log gets the whole story, the record one line of it.
            traceback.print_exc()
            failed[trial.trial] = one_line(error)
            ended = FailedCalibrationTrial(
                **trial.model_dump(),
                started_at=started_at.isoformat(),
                ended_at=clock().isoformat(),
                reason=failed[trial.trial],
            )
            emit(TrialFailed(trial=ended))
        else:
            finished[trial.trial] = trial.artifact_key
            emit(made)
    return CompressResult(finished=finished, failed=failed, versions=versions)


def _run_trial(
    request: CompressRequest,
    trial: CompressTrial,
    backend: CompressionBackend,
    store: ArtifactStore,
    calibration: CalibrationData | None,
    tokens: Tokens,
    versions: dict[str, str],
    clock: Clock,
    tell: Tell,
) -> TrialFinished:
    """Make one checkpoint, or find it, which keeps the times at which it was made."""
    ended = CalibrationTrial(**trial.model_dump())
    existing = store.find(trial.artifact_key)
    if existing is not None:
        log.info("trial %d: found in the store", trial.trial)
        return TrialFinished(trial=ended, made=CheckpointMaking.of(existing.manifest), reused=True)
    begin = clock()
    with store.create(trial.artifact_key, CHECKPOINT, _model_bytes(request)) as draft:
        compression = prepare_compression(
            request.recipe,
            model_path=local(request, request.model),
            destination=draft.path,
            seed=trial.seed,
            calibration=calibration,
            tokens=tokens,
            trust_remote_code=request.trust_remote_code,
            tell=tell,
        )
        _log_plan(trial, compression)
        compressed = backend.compress(compression)
        made = CheckpointMaking(
            rows_digest=compression.rows_digest,
            rows=len(compression.rows),
            row_numbers=compression.row_numbers,
            max_sequence_length=compression.max_sequence_length,
            notes=(*compression.notes, *compressed.notes),
            seconds=round(compressed.elapsed_s, 3),
            bytes=compressed.total_bytes,
            started_at=begin.isoformat(),
            ended_at=clock().isoformat(),
        )
        draft.manifest.update(
            trial=trial.trial,
            seed=trial.seed,
            recipe=request.recipe.name,
            recipe_digest=request.recipe.digest(),
            calibration_data=None if calibration is None else calibration.reference,
            versions=versions,
            provenance=request.provenance,
            **made.as_notes(),
        )
        check_inputs(request)
    log.info(
        "trial %d: %.1f s, %d bytes", trial.trial, compressed.elapsed_s, compressed.total_bytes
    )
    return TrialFinished(trial=ended, made=made, reused=False)


def _load_rows(request: CompressRequest) -> tuple[CalibrationData | None, Tokens]:
    """Read and tokenize the calibration data once for all trials."""
    if request.recipe.calibration is None or request.calibration_data is None:
        return None, []
    from optikit_assets.optimizer.backends.models import load_tokenizer, tokenize

    tokenizer = load_tokenizer(local(request, request.model), request.trust_remote_code)
    render = None
    if getattr(tokenizer, "chat_template", None):
        render = lambda messages: tokenizer.apply_chat_template(messages, tokenize=False)  # noqa: E731
    where = calibration_location(request, request.calibration_data)
    calibration = load_calibration(where, render_chat=render)
    if request.evaluation_data is not None:
        items = read_items(local(request, request.evaluation_data))
        check_contamination(load_texts(where), items)
    # One token more than is kept shows which rows are cut.
    length = request.recipe.calibration.max_sequence_length + 1
    return calibration, tokenize(tokenizer, calibration.rows, length)


def _model_bytes(request: CompressRequest) -> int:
    """Return the size of the uncompressed weights: no candidate is larger."""
    return sum(f.stat().st_size for f in local(request, request.model).glob("*.safetensors"))


def _set_environment(*, online: bool) -> None:
    for name, value in {**_QUIET, **({} if online else _OFFLINE)}.items():
        os.environ.setdefault(name, value)


def _log_plan(trial: CompressTrial, compression: Compression) -> None:
    log.info("trial %d: seed %d, %d rows", trial.trial, trial.seed, len(compression.rows))
    for note in compression.notes:
        log.info("trial %d: %s", trial.trial, note)


def _listed(packages: dict[str, str]) -> str:
    return ", ".join(f"{name} from {package}" for name, package in packages.items()) or "none"


if __name__ == "__main__":
    worker_main(CompressRequest, handle)
