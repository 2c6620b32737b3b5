"""A checkpoint that is not what was made: it is neither measured nor shipped, and is made anew."""

import os
from pathlib import Path
from typing import Any

import pytest

from optikit_assets import graph
from optikit_assets.artifacts import ArtifactStore, LocalStore, open_store
from optikit_assets.errors import StageError
from optikit_assets.graph import Node
from optikit_assets.headless.materialize import materialize_node, open_instance
from optikit_assets.headless.status import status
from optikit_assets.schemas import CHECKPOINTS_FILE, COMPARISON_FILE, DEPLOYMENT_FILE
from optikit_assets.settings import settings
from optikit_assets.workers.messages import CompressResult
from tests.definitions.test_candidates import (
    BASE,
    QUANTIZED,
    SCORES,
    Workers,
    artifact_of,
    finished_trial,
)
from tests.definitions.world import CHAT, HARDWARE, MODEL, World, in_process, pools_of
from tests.executors import execute_with
from tests.unit.deployment import samples

pytestmark = pytest.mark.slow

SLO = "demo"
SWEEP = Node.of("benchmark_sweep", f"{MODEL}|int_w8a8@{SLO}")
DEPLOYABLE = Node.of("deployable_config", f"{MODEL}|{SLO}")


class NoisyWorkers(Workers):
    """Stand-ins whose checkpoints can be made to differ from those made before."""

    noise = "first"

    def compress(self, request: Any, store: ArtifactStore, on_record: Any) -> CompressResult:
        for trial in request.trials:
            self.drawn.append((256, "random"))
            with store.create(trial.artifact_key, "checkpoint") as draft:
                draft.write_json("rows.json", 256)
                draft.write_json("weights", self.noise)
            on_record(finished_trial(trial))
        finished = {trial.trial: trial.artifact_key for trial in request.trials}
        return CompressResult(finished=finished, failed={}, versions={})


@pytest.fixture
def workers(real: World, monkeypatch: pytest.MonkeyPatch) -> NoisyWorkers:
    """Workers of a world in which one recipe was quantized and evaluated."""
    found = NoisyWorkers({256: 0})
    execute_with(monkeypatch, in_process(found.work))
    real.write(f"slos/{SLO}.yaml", CHAT.replace("name: chat", f"name: {SLO}"))
    for node in (BASE, QUANTIZED, SCORES):
        assert materialize_node(node) == "ok"
    with open_instance() as instance:
        # Asked for, so that a status judges what it needs.
        real.instance = instance
        real.materialize([SWEEP])
    return found


def damage_q_star() -> str:
    """Change a byte of the representative checkpoint, size and times stay; return its key."""
    scores = artifact_of(SCORES)
    q_star = scores.read_json("comparison.json")["q_star"]
    key = CHECKPOINTS_FILE.read(scores).checkpoints[q_star]
    assert key is not None
    file = open_store(settings().store, settings().home).get(key).file("weights")
    before = file.stat()
    file.write_text(file.read_text().replace("st", "ts"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    return key


def not_fresh(real: World) -> dict[str, str]:
    """Return why a run would make the recipe's checkpoints and scores."""
    with open_instance() as instance:
        plan = status(real.catalog(), [MODEL], instance, pools_of(HARDWARE))
    mine = (QUANTIZED, SCORES)
    return {i.node.asset: i.reason for i in plan if i.node in mine and i.state != "fresh"}


GONE = "its artifact is not in the store"


def test_a_damaged_checkpoint_is_not_measured_and_the_next_run_makes_it_anew(
    real: World, workers: NoisyWorkers
) -> None:
    assert not_fresh(real) == {}
    key = damage_q_star()
    with pytest.raises(StageError, match=r"was damaged \(weights: .* run again, it is made anew"):
        materialize_node(SWEEP)
    (aside,) = open_store(settings().store, settings().home).quarantined()
    assert aside.key == key
    assert not_fresh(real) == {"quantized_model": GONE, "eval_scores": GONE}

    made, evaluated = len(workers.drawn), len(workers.evaluated)
    assert materialize_node(QUANTIZED) == "ok"
    assert len(workers.drawn) == made + 1
    # Made with the same content, its scores are still its scores.
    assert materialize_node(SCORES) == "ok"
    assert len(workers.evaluated) == evaluated
    assert not_fresh(real) == {}


def test_a_checkpoint_that_was_made_anew_with_another_content_is_evaluated_anew(
    real: World, workers: NoisyWorkers
) -> None:
    key = damage_q_star()
    with pytest.raises(StageError, match="was damaged"):
        materialize_node(SWEEP)
    workers.noise = "other"
    assert materialize_node(QUANTIZED) == "ok"
    with pytest.raises(StageError, match=r"made anew after it was evaluated.*run again"):
        materialize_node(SWEEP)
    assert not_fresh(real) == {"eval_scores": GONE}
    evaluated = len(workers.evaluated)
    assert materialize_node(SCORES) == "ok"
    assert len(workers.evaluated) == evaluated + 1
    assert (
        artifact_of(SCORES).references[key]
        == open_store(settings().store, settings().home).get(key).digest
    )
    assert not_fresh(real) == {}


def test_a_damaged_checkpoint_is_not_evaluated(real: World, workers: NoisyWorkers) -> None:
    open_store(settings().store, settings().home).remove(artifact_of(SCORES).key)
    key = artifact_of(QUANTIZED).read_json("quantization.json")["finished"][0]["artifact_key"]
    (LocalStore(settings().home / "artifacts").folder(key) / "weights").write_text('"wrong"\n')
    with pytest.raises(StageError, match="was damaged"):
        materialize_node(SCORES)
    assert len(workers.evaluated) == 3


@pytest.fixture
def bundle(real: World, workers: NoisyWorkers) -> Path:
    """The folder of a bundle that serves q*, decided and not published yet."""
    with open_instance() as instance:
        real.instance = instance
        done = {BASE, QUANTIZED, SCORES}
        others = [n for n in real.nodes(slos=(SLO,)) if n not in {*done, DEPLOYABLE}]
        real.materialize(others)
        key = real.versions().actual(DEPLOYABLE)[0]
        known = [real.versions().recorded(node) for node in others]
        made = {item.version for item in known if item is not None}
    scores = artifact_of(SCORES)
    q_star = CHECKPOINTS_FILE.read(scores).checkpoints[COMPARISON_FILE.read(scores).q_star]
    assert q_star is not None
    store = open_store(settings().store, settings().home)
    # What was decided from is there; nobody reads it again.
    for version in made:
        with store.create(version, "result"):
            pass
    with store.create(key, graph.DEPLOYABLE_CONFIG) as draft:
        DEPLOYMENT_FILE.write(draft, samples.deployment())
        draft.file("vllm.yaml").write_text("model: here\n")
        draft.file("report.html").touch()
        draft.references[q_star] = store.get(q_star).digest
    return store.get(key).folder()


def link() -> Path:
    return settings().home / "deployments" / MODEL / SLO


def test_a_whole_bundle_is_published(bundle: Path) -> None:
    assert materialize_node(DEPLOYABLE) == "feasible"
    assert link().resolve() == bundle.resolve()


def test_a_bundle_is_not_published_when_its_checkpoint_is_damaged(bundle: Path) -> None:
    damage_q_star()
    with pytest.raises(StageError, match=r"checkpoint artifact .* was damaged"):
        materialize_node(DEPLOYABLE)
    assert not link().exists()


def test_a_damaged_bundle_is_not_published(bundle: Path) -> None:
    (bundle / "vllm.yaml").write_text("model: hers\n")
    with pytest.raises(StageError, match=r"deployable_config artifact .* was damaged"):
        materialize_node(DEPLOYABLE)
    assert not link().exists()
