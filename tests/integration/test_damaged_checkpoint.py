"""A checkpoint that was really damaged: real worker, real engine, refused by the gate."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from optikit_assets.artifacts.store import ArtifactStore
from optikit_assets.defs.candidates import recovery_rows
from optikit_assets.deployment import select
from optikit_assets.stateval.comparison import compare
from optikit_assets.stateval.scores import EvaluatedCandidate, load_candidate
from tests.integration.evaluate_driver import MODEL, artifact_key, demo_suite, evaluate, request
from tests.unit.deployment.samples import arm, outcome

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

LIMIT = 40


def multiplied(model: Path, folder: Path, tensor: str, factor: int) -> Path:
    """Copy a checkpoint and multiply one bfloat16 tensor, as a wrong scale would."""
    shutil.copytree(model, folder)
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    entry = json.loads(content[8:start])[tensor]
    assert entry["dtype"] == "BF16"
    begin, end = (start + offset for offset in entry["data_offsets"])
    # The upper half of a float32 is a bfloat16.
    values = np.frombuffer(bytes(content[begin:end]), dtype="<u2").astype("<u4") << 16
    scaled = values.view("<f4") * np.float32(factor)
    content[begin:end] = (scaled.view("<u4") >> 16).astype("<u2").tobytes()
    file.write_bytes(content)
    return folder


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    damaged = multiplied(MODEL, tmp_path / "damaged", "model.layers.1.mlp.down_proj.weight", 16)
    suite, store = demo_suite(LIMIT), tmp_path / "store"
    engine = {"dtype": "float32", "flags": {"enforce_eager": True}}
    done = evaluate(tmp_path, request(store, suite, {0: MODEL, 1: damaged}, engine=engine))
    assert done.returncode == 0, done.log

    def scored(trial: int) -> EvaluatedCandidate:
        return load_candidate(ArtifactStore(store).get(artifact_key(store, trial)).path, trial)

    comparison = compare(suite, scored(0), [scored(1)], seed=1, resamples=500)
    assert (comparison.verdict, comparison.accepted) == ("fail", False), comparison.reasons
    offered = outcome(
        "int_w8a8",
        quality=comparison.verdict,
        accepted=comparison.accepted,
        reasons=comparison.reasons,
        recovery=recovery_rows(comparison),
        sweep=arm("int_w8a8", 100.0),
        tuned=arm("int_w8a8", 100.0, tuned=True),
    )
    selection = select([outcome("baseline", 3.0), offered])
    assert [candidate.recipe for candidate in selection.candidates] == ["baseline"]
