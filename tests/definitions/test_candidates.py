"""The stages before any load test, with workers that write numbers instead of computing them."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import dagster as dg
import pytest

from optikit_assets.artifacts import Artifact, ArtifactStore, open_store
from optikit_assets.defs.evaluation.jobs import repeatability
from optikit_assets.defs.recorded import recorded
from optikit_assets.engines import Hardware
from optikit_assets.errors import StageError, SuiteError
from optikit_assets.execution import Lease
from optikit_assets.graph import SAID_ELSEWHERE, Node
from optikit_assets.headless.materialize import (
    materialize_node,
    open_instance,
    register_model,
    run_job,
)
from optikit_assets.history import History
from optikit_assets.optimizer.contamination import CLEAN
from optikit_assets.schemas import CHECKPOINTS_FILE, UNSUPPORTED_FILE, CalibrationTrial
from optikit_assets.settings import settings
from optikit_assets.specs import plugins
from optikit_assets.stateval.scores import write_candidate
from optikit_assets.workers.channel import Emit
from optikit_assets.workers.manifests import CheckpointMaking
from optikit_assets.workers.messages import CompressResult, CompressTrial, EvaluateResult, Message
from optikit_assets.workers.records import TrialFinished
from tests.definitions.world import CHAT, HARDWARE, MODEL, World, in_process
from tests.executors import execute_with
from tests.tiny_model import write_model
from tests.unit.stateval.builders import candidate

pytestmark = pytest.mark.slow

ITEMS = 300
BASE = Node.of("base_model", MODEL)
QUANTIZED = Node.of("quantized_model", f"{MODEL}|int_w8a8")
SCORES = Node.of("eval_scores", f"{MODEL}|int_w8a8")
ONE_ROUND = "calibration: {samples: 256, max_sequence_length: 512}"
ROUNDS = "calibration: {samples: 64, adaptive: {max_rounds: 3, samplers: [token_stratified]}}"


def finished_trial(trial: CompressTrial) -> TrialFinished:
    ended = CalibrationTrial(**trial.model_dump())
    return TrialFinished(trial=ended, made=CheckpointMaking(), reused=False)


class Workers:
    """Stand-ins for both workers: a checkpoint loses as many items as its number of rows says.

    An evaluation ends at the first of the ``damaged`` trials, as the real worker's does.
    """

    def __init__(self, lost_with: dict[int, int]) -> None:
        self.lost_with = lost_with
        self.damaged: set[int] = set()
        self.away_after = 99
        self.contamination = CLEAN
        self.refuses = ""
        self.drawn: list[tuple[int, str]] = []
        self.seeds: list[int] = []
        self.evaluated: list[str] = []
        self.engines: list[tuple[str, tuple[str, ...]]] = []
        self.evaluation_batches: list[list[int]] = []

    def work(self, worker: str, request: Any, lease: Lease, on_record: Emit) -> Message:
        if worker == "evaluate":
            self.engines.append((request.engine.dtype, lease.devices))
        store = open_store(request.store, settings().home)
        return (self.compress if worker == "compress" else self.evaluate)(request, store, on_record)

    def compress(self, request: Any, store: ArtifactStore, on_record: Any) -> CompressResult:
        calibration = request.recipe.calibration
        samples = calibration.samples if calibration else 0
        for trial in request.trials:
            self.drawn.append((samples, calibration.sampler if calibration else "none"))
            self.seeds.append(trial.seed)
            with store.create(trial.artifact_key, "checkpoint") as draft:
                draft.write_json("rows.json", samples)
                draft.manifest.update(
                    row_numbers=[trial.trial, samples],
                    started_at=f"2026-01-01T00:00:0{trial.trial % 10}Z",
                    provenance=request.provenance,
                )
            on_record(finished_trial(trial))
        finished = {trial.trial: trial.artifact_key for trial in request.trials}
        return CompressResult(finished=finished, failed={}, versions={})

    def evaluate(self, request: Any, store: ArtifactStore, on_record: Any) -> EvaluateResult:
        self.evaluation_batches.append([item.trial for item in request.candidates])
        if self.refuses and request.calibration_data is not None:
            raise StageError(self.refuses)
        finished: dict[int, str] = {}
        for item in request.candidates:
            if len(self.evaluated) >= self.away_after:
                raise SuiteError("the judge is away")
            if item.trial in self.damaged:
                failed = {item.trial: "vLLM cannot load the checkpoint"}
                return EvaluateResult(finished=finished, failed=failed, versions={})
            self.evaluated.append(item.artifact_key)
            rows = store.local(item.model) / "rows.json"
            lost = self.lost_with[json.loads(rows.read_text())] if rows.exists() else 0
            scores = [0.0] * lost + [1.0] * (ITEMS - lost)
            with store.create(item.artifact_key, "evaluation") as draft:
                write_candidate(draft.path, candidate(item.trial, {"sums": scores}))
                if request.calibration_data is not None:
                    draft.manifest.update(contamination={"sums": self.contamination})
            finished[item.trial] = item.artifact_key
        return EvaluateResult(finished=finished, failed={}, versions={})


def work(
    monkeypatch: pytest.MonkeyPatch, hardware: Hardware = HARDWARE, **lost_with: int
) -> Workers:
    """Be the workers; ``rows_64=90``: with 64 rows a checkpoint loses 90 of 300 items."""
    workers = Workers({int(name.removeprefix("rows_")): n for name, n in lost_with.items()})
    execute_with(monkeypatch, in_process(workers.work, hardware))
    return workers


def artifact_of(node: Node) -> Artifact:
    with open_instance() as instance:
        known = recorded(instance, node)
    assert known is not None
    return open_store(settings().store, settings().home).get(known.version)


def recorded_metadata(node: Node) -> Mapping[str, Any]:
    with open_instance() as instance:
        wanted = dg.AssetRecordsFilter(
            asset_key=dg.AssetKey(node.asset), asset_partitions=[str(node.partition)]
        )
        (record,) = instance.fetch_materializations(wanted, limit=1).records
    assert record.asset_materialization is not None
    return record.asset_materialization.metadata


def test_no_candidate_is_made_before_its_model_was(real: World) -> None:
    for recipe in ("baseline", "int_w8a8"):
        with pytest.raises(
            StageError, match=rf"\|{recipe}\] needs base_model\[tiny@1\], which was"
        ):
            materialize_node(Node.of("quantized_model", f"{MODEL}|{recipe}"))


def test_a_recipe_that_cannot_be_served_here_is_refused_before_any_worker_starts(
    real: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hopper = dataclasses.replace(HARDWARE, kind="cuda", name="Test GPU", capability=9.0)
    workers = work(monkeypatch, hopper)
    native = "requires: {compute_capability: 10.0}\n"
    real.write("quantization/int_w8a8.yaml", real.recipe_text("int_w8a8") + native)
    assert materialize_node(BASE) == "ok"
    assert materialize_node(QUANTIZED) == "unsupported"
    assert materialize_node(SCORES) == "unsupported"
    reason = "recipe int_w8a8 cannot be served here: it requires compute capability 10.0, Test GPU"
    assert artifact_of(QUANTIZED).read_json("quantization.json")["unsupported"].startswith(reason)
    assert UNSUPPORTED_FILE.read(artifact_of(SCORES)).reason.startswith(reason)
    assert workers.drawn == workers.evaluated == []


EXPERTS = {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_experts": 8}
MIXTRAL = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_experts": 8}


@pytest.mark.parametrize(
    ("model", "features", "reason"),
    [
        (EXPERTS, (), "recipe int_w8a8 cannot be served here: vLLM's CPU kernel for experts in W8"),
        (MIXTRAL, ("amx_tile",), "recipe 'int_w8a8' cannot be applied: compressing experts is "),
    ],
)
def test_a_mixture_of_experts_is_refused_before_any_worker_starts(
    real: World,
    monkeypatch: pytest.MonkeyPatch,
    model: dict[str, object],
    features: tuple[str, ...],
    reason: str,
) -> None:
    workers = work(monkeypatch, dataclasses.replace(HARDWARE, features=features))
    config = real.root / "weights" / "1" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **model}))
    assert materialize_node(BASE) == "ok"
    assert materialize_node(QUANTIZED) == "unsupported"
    assert materialize_node(SCORES) == "unsupported"
    assert artifact_of(QUANTIZED).read_json("quantization.json")["unsupported"].startswith(reason)
    assert workers.drawn == workers.evaluated == []


def test_a_recipe_is_refused_for_the_models_whose_engine_cannot_serve_it(
    real: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = work(monkeypatch, rows_256=0)
    write_model(real.root / "weights" / "1", columns=256)
    # Without wide vectors, one of the two engines has no kernel for it.
    real.edit("quantization/int_w8a8.yaml", "scheme: W8A8", "scheme: W4A16")
    other = real.model_text().replace("engine:", "engine:\n  name: transformers")
    real.write("models/other.yaml", other.replace("name: tiny", "name: other"))
    with open_instance() as instance:
        register_model(instance, "other@1")
    for model, status in ((MODEL, "unsupported"), ("other@1", "ok")):
        assert materialize_node(Node.of("base_model", model)) == "ok"
        assert materialize_node(Node.of("quantized_model", f"{model}|int_w8a8")) == status
    assert len(workers.drawn) == 2
    refused = artifact_of(QUANTIZED).read_json("quantization.json")["unsupported"]
    assert "needs avx512f" in refused


def test_a_checkpoint_is_asked_for_again_when_another_engine_serves_the_model(
    world: World,
) -> None:
    support = Node.of("engine_support", f"{MODEL}|int_w8a8")
    # What the default engine can serve is a part of the recipe's version, and no second one.
    assert world.versions().of_source(support) == SAID_ELSEWHERE
    first = world.versions().expected(QUANTIZED)
    world.edit("models/tiny.yaml", "engine:", "engine:\n  name: transformers")
    second = world.versions().expected(QUANTIZED)
    assert second != first
    world.edit("quantization/int_w8a8.yaml", "name:", "requires: {accelerator: cuda}\nname:")
    refused = world.versions().of_source(support)
    world.hardware = dataclasses.replace(HARDWARE, kind="cuda", name="Test GPU")
    assert world.versions().of_source(support) != refused


def test_a_recipe_that_does_not_fit_the_model_ends_alone(
    real: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = work(monkeypatch, dataclasses.replace(HARDWARE, features=("avx512f",)))
    write_model(real.root / "weights" / "1", columns=576)
    real.edit("quantization/int_w8a8.yaml", "scheme: W8A8", "scheme: W4A16")
    assert materialize_node(BASE) == "ok"
    assert materialize_node(QUANTIZED) == "unsupported"
    assert materialize_node(SCORES) == "unsupported"
    reason = "recipe 'int_w8a8' cannot be applied: W4A16's group size 128 does not divide"
    assert UNSUPPORTED_FILE.read(artifact_of(SCORES)).reason.startswith(reason)
    real.write("slos/demo.yaml", CHAT.replace("name: chat", "name: demo"))
    for asset in ("benchmark_sweep", "tuned_config"):
        node = Node.of(asset, f"{MODEL}|int_w8a8@demo")
        assert materialize_node(node) == "skipped"
        assert reason in recorded_metadata(node)["reason"].value
    assert workers.drawn == workers.evaluated == []


def test_trials_go_on_with_more_rows_until_the_gate_is_passed(
    real: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = work(monkeypatch, rows_64=90, rows_128=0)
    real.edit("quantization/int_w8a8.yaml", ONE_ROUND, ROUNDS)
    for node in (BASE, QUANTIZED, SCORES):
        assert materialize_node(node) == "ok"
    # Two trials per round; the third round is not needed.
    assert workers.drawn == [(64, "random")] * 2 + [(128, "token_stratified")] * 2
    # The baseline and each checkpoint once.
    assert len(workers.evaluated) == len(set(workers.evaluated)) == 5
    comparison = artifact_of(SCORES).read_json("comparison.json")
    assert comparison["verdict"] == "pass"
    assert comparison["q_star"] in (2, 3)
    assert comparison["alpha"] == pytest.approx(0.05 / 3)
    assert len(CHECKPOINTS_FILE.read(artifact_of(SCORES)).checkpoints) == 4


def test_rounds_end_with_the_budget(real: World, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = work(monkeypatch, rows_64=90, rows_128=90, rows_256=90)
    real.edit("quantization/int_w8a8.yaml", ONE_ROUND, ROUNDS)
    for node in (BASE, QUANTIZED, SCORES):
        assert materialize_node(node) == "ok"
    assert [rows for rows, _ in workers.drawn] == [64, 64, 128, 128, 256, 256]
    assert artifact_of(SCORES).read_json("comparison.json")["verdict"] == "fail"


def test_rounds_of_equal_rows_and_samplers_draw_anew(
    real: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = work(monkeypatch, rows_64=90)
    adaptive = "{max_rounds: 3, growth: 1, samplers: [random]}"
    rounds = f"calibration: {{samples: 64, adaptive: {adaptive}}}"
    real.edit("quantization/int_w8a8.yaml", ONE_ROUND, rounds)
    for node in (BASE, QUANTIZED, SCORES):
        assert materialize_node(node) == "ok"
    assert workers.drawn == [(64, "random")] * 6
    assert len(set(workers.seeds)) == 6
    assert len(set(CHECKPOINTS_FILE.read(artifact_of(SCORES)).checkpoints.values())) == 6


def test_without_rounds_one_has_to_do(real: World, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = work(monkeypatch, rows_256=90)
    for node in (BASE, QUANTIZED, SCORES):
        assert materialize_node(node) == "ok"
    assert [rows for rows, _ in workers.drawn] == [256, 256]
    assert artifact_of(SCORES).read_json("comparison.json")["alpha"] == 0.05


def test_candidates_are_made_anew_by_a_backend_that_computes_otherwise_and_by_no_other(
    real: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = work(monkeypatch)
    for node in (BASE, QUANTIZED):
        assert materialize_node(node) == "ok"
    monkeypatch.setitem(plugins.REVISIONS, "autoround", "999")
    assert materialize_node(QUANTIZED) == "ok"
    assert len(workers.drawn) == 2
    monkeypatch.setitem(plugins.REVISIONS, "llmcompressor", "2")
    assert materialize_node(QUANTIZED) == "ok"
    assert len(workers.drawn) == 4
    # From the same rows.
    assert workers.seeds[:2] == workers.seeds[2:]


def test_the_calibration_rows_of_each_trial_are_in_the_history(
    real: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(monkeypatch)
    for node in (BASE, QUANTIZED):
        assert materialize_node(node) == "ok"
    frame = History(settings().history).query(
        "SELECT unnest(row_numbers) AS number FROM quantization_trials ORDER BY trial, number"
    )
    assert list(frame["number"]) == [0, 256, 1, 256]


def test_the_nodes_of_a_pool_without_cards_share_the_candidates(
    real: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_nodes = dataclasses.replace(HARDWARE, count=2)
    workers = work(monkeypatch, two_nodes, rows_256=0)
    for node in (BASE, QUANTIZED, SCORES):
        assert materialize_node(node) == "ok"
    assert sorted(workers.evaluation_batches) == [[-1, 0], [1]]


def test_candidates_behind_a_damaged_one_are_evaluated_by_a_fresh_worker_at_once(
    real: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = work(monkeypatch, rows_256=0)
    workers.damaged = {0}
    for node in (BASE, QUANTIZED, SCORES):
        assert materialize_node(node) == "ok"
    # The baseline is trial -1; the damaged trial's second attempt comes last.
    assert workers.evaluation_batches == [[-1, 0, 1], [1, 0]]
    comparison = artifact_of(SCORES).read_json("comparison.json")
    assert [trial["trial"] for trial in comparison["trials"]] == [1]
    left_out = recorded_metadata(SCORES)["left_out"].records
    assert [record.data for record in left_out] == [
        {"trial": 0, "why": "vLLM cannot load the checkpoint"}
    ]


def test_a_suite_that_is_away_for_a_while_takes_no_trial_out(
    real: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = work(monkeypatch, rows_256=0)
    workers.away_after = 2
    for node in (BASE, QUANTIZED):
        assert materialize_node(node) == "ok"
    with pytest.raises(StageError, match="the judge is away"):
        materialize_node(SCORES)
    workers.away_after = 99
    assert materialize_node(SCORES) == "ok"
    comparison = artifact_of(SCORES).read_json("comparison.json")
    assert [trial["trial"] for trial in comparison["trials"]] == [0, 1]
    assert "left_out" not in recorded_metadata(SCORES)


def test_another_gate_judges_the_same_answers(real: World, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = work(monkeypatch, rows_256=0)
    for node in (BASE, QUANTIZED, SCORES):
        assert materialize_node(node) == "ok"
    asked = list(workers.evaluated)
    before = artifact_of(SCORES).key
    suite = real.recipes / "evaluations" / "quick.yaml"
    real.write("evaluations/quick.yaml", suite.read_text() + "gate: {margin: 0.01}\n")
    for node in (BASE, QUANTIZED, SCORES):
        assert materialize_node(node) == "ok"
    assert artifact_of(SCORES).key != before
    assert workers.evaluated == asked
    # How they are scored is another matter.
    monkeypatch.setattr("optikit_assets.defs.evaluation.eval_scores.SCORING", "2")
    real.write("evaluations/quick.yaml", suite.read_text().replace("0.01", "0.02"))
    assert materialize_node(SCORES) == "ok"
    assert len(workers.evaluated) == 2 * len(asked)


def evaluate_baseline_thrice() -> None:
    """Make the scores of the baseline, then two of its repetitions."""
    for asset in ("base_model", "quantized_model", "eval_scores"):
        node = BASE if asset == "base_model" else Node.of(asset, f"{MODEL}|baseline")
        assert materialize_node(node) == "ok"
    run_job(repeatability, "evaluate_repeatedly", {"model": MODEL, "times": 2})


def test_what_is_evaluated_computes_in_the_type_that_is_served(
    real: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = work(monkeypatch)
    real.write("models/tiny.yaml", real.model_text(tensor_parallel_size=2))
    real.edit("models/tiny.yaml", "dtype: bfloat16", "dtype: auto")
    evaluate_baseline_thrice()
    # A processor without AVX-512 emulates bfloat16.
    assert workers.engines == [("float32", ())] * 2


# A server alone has copies of the model.
@pytest.mark.parametrize("flags", [{}, {"data_parallel_size": 2}])
def test_an_engine_gets_as_many_gpus_as_it_is_told_to_use(
    real: World, monkeypatch: pytest.MonkeyPatch, flags: dict[str, int]
) -> None:
    two = dataclasses.replace(HARDWARE, kind="cuda", count=2, devices=("0", "1"))
    workers = work(monkeypatch, two)
    real.write("models/tiny.yaml", real.model_text(tensor_parallel_size=2, **flags))
    evaluate_baseline_thrice()
    assert workers.engines == [("bfloat16", ("0", "1"))] * 3


@pytest.mark.parametrize("outcome", [CLEAN, "not checked: hf:org/rows cannot be fetched"])
def test_the_scores_say_whether_calibration_rows_hold_their_items(
    real: World, monkeypatch: pytest.MonkeyPatch, outcome: str
) -> None:
    work(monkeypatch, rows_256=0).contamination = outcome
    for node in (BASE, QUANTIZED, SCORES):
        assert materialize_node(node) == "ok"
    assert recorded_metadata(SCORES)["contamination"].value == {"sums": outcome}


def test_a_recipe_without_calibration_is_compared_with_nothing(
    real: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(monkeypatch)
    baseline = Node.of("eval_scores", f"{MODEL}|baseline")
    for node in (BASE, Node.of("quantized_model", f"{MODEL}|baseline"), baseline):
        assert materialize_node(node) == "ok"
    assert "contamination" not in recorded_metadata(baseline)


def test_an_item_that_was_added_to_the_suite_is_looked_for_in_the_calibration_data(
    real: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(monkeypatch, rows_256=0, rows_0=0)
    for node in (BASE, QUANTIZED):
        assert materialize_node(node) == "ok"
    real.write("evaluations/quick/sums.jsonl", '{"prompt": "One and one is two."}\n')
    # Of the recipe that is calibrated with them; the others go on.
    assert materialize_node(SCORES) == "failed"
    reason = recorded_metadata(SCORES)["reason"].value
    assert "calibration.jsonl, line 1 holds sums.jsonl, line 1; remove these rows" in reason
    for recipe in ("baseline", "fp8_dynamic"):
        for asset in ("quantized_model", "eval_scores"):
            assert materialize_node(Node.of(asset, f"{MODEL}|{recipe}")) == "ok"


def test_calibration_rows_that_the_worker_refuses_end_their_recipe_alone(
    real: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(monkeypatch).refuses = "rows.jsonl, line 1 holds item 0 of sums"
    for node in (BASE, QUANTIZED):
        assert materialize_node(node) == "ok"
    # Evaluated before the baseline recipe is: no scores of the baseline are there yet.
    assert materialize_node(SCORES) == "failed"
    assert "line 1 holds item 0 of sums" in recorded_metadata(SCORES)["reason"].value
    for asset in ("quantized_model", "eval_scores"):
        assert materialize_node(Node.of(asset, f"{MODEL}|baseline")) == "ok"
