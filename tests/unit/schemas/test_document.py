"""Results on disk: what is written is read back, and so is what earlier versions wrote."""

import json
from pathlib import Path
from typing import Any

import pytest

from optikit_assets.artifacts import LocalStore
from optikit_assets.errors import StorageError
from optikit_assets.schemas import (
    BENCHMARK_FILE,
    CHECKPOINTS_FILE,
    COMPARISON_FILE,
    CONTAMINATION_FILE,
    DEPLOYMENT_FILE,
    EVALUATED_RECIPE,
    MEASURED_RECIPE,
    QUANTIZATION_FILE,
    SOURCES_FILE,
    STUDY_FILE,
    UNSUPPORTED_FILE,
    BenchmarkOutcome,
    Checkpoints,
    CompletedBenchmark,
    Contamination,
    Document,
    FailedBenchmark,
    InfeasibleBenchmark,
    Result,
    SkippedBenchmark,
    StudyResult,
    Trial,
    TunedConfiguration,
    Unsupported,
)
from tests.unit.deployment.samples import deployment
from tests.unit.schemas.samples import benchmark, probe

STORED = Path(__file__).parent / "stored"

PROBES = (
    probe(latency_ms={"ttft_p50": None}, latency_ci_ms={"ttft_p50": (40.0, None)}, beta=1.01),
    probe(kind="closed", beta_ci=(0.99, 1.02), error_examples=("HTTP 500",)),
)
ENDS: list[BenchmarkOutcome] = [
    benchmark(8.0, probes=PROBES, certified_probe=0),
    InfeasibleBenchmark(reason="it does not fit", closest="it does not fit", gpus=2),
    SkippedBenchmark(reason="the quality gate refused it"),
    FailedBenchmark.after(PROBES, reason="the server died", seed=7),
]
TUNED = TunedConfiguration(
    study=StudyResult(
        name="s",
        trials=(
            Trial(number=0, status="feasible", rate_rps=4.0, fitness=4.0),
            Trial(
                number=1,
                status="feasible",
                rate_rps=6.0,
                fitness=6.0,
                flags={"max_num_seqs": 32, "enforce_eager": True, "dtype": "auto", "share": 0.5},
            ),
            Trial(number=2, status="failed", reason="out of memory"),
        ),
        notes=("left out",),
        stopped="all 3 trials were used",
    ),
    benchmark=ENDS[0],
)


def stored(name: str) -> dict[str, Any]:
    return json.loads((STORED / name).read_text(encoding="utf-8"))


def through_json(document: Document[Any], result: object) -> dict[str, Any]:
    return json.loads(json.dumps(document.dump(result)))


@pytest.mark.parametrize("outcome", ENDS, ids=lambda outcome: outcome.kind)
def test_every_end_of_a_benchmark_is_read_back_as_what_it_was(outcome: BenchmarkOutcome) -> None:
    content = through_json(BENCHMARK_FILE, outcome)
    assert content["schema_version"] == 2
    found = BENCHMARK_FILE.load(content, "x")
    assert type(found) is type(outcome)
    assert found == outcome


def test_an_end_that_nobody_knows_is_refused_with_the_known_ones() -> None:
    content = through_json(BENCHMARK_FILE, ENDS[1]) | {"kind": "postponed"}
    with pytest.raises(StorageError, match=r"x is no benchmark\.json: .*'postponed'.*'completed'"):
        BENCHMARK_FILE.load(content, "x")


def test_what_did_not_come_to_its_end_certifies_no_rate() -> None:
    content = through_json(BENCHMARK_FILE, ENDS[3]) | {"certified_rate_rps": 5.0}
    with pytest.raises(StorageError, match="certified_rate_rps"):
        BENCHMARK_FILE.load(content, "x")


@pytest.mark.parametrize(
    ("name", "kind", "type_"),
    [
        ("benchmark-completed-1.json", "completed", CompletedBenchmark),
        ("benchmark-infeasible-1.json", "infeasible", InfeasibleBenchmark),
        ("benchmark-skipped-1.json", "skipped", SkippedBenchmark),
        ("benchmark-failed-1.json", "failed", FailedBenchmark),
    ],
)
def test_a_benchmark_of_the_version_before_is_read(name: str, kind: str, type_: type) -> None:
    old = stored(name)
    found = BENCHMARK_FILE.load(old, name)
    assert isinstance(found, type_)
    assert "schema_version" not in old
    # Everything that it said is still said.
    again = through_json(BENCHMARK_FILE, found)
    for probe_before, probe_now in zip(old.pop("probes"), again["probes"], strict=True):
        assert probe_before.items() <= probe_now.items()
    assert {"kind": kind, **old}.items() <= again.items()


def test_an_old_search_that_found_nothing_is_a_completed_one() -> None:
    old = stored("benchmark-completed-1.json") | {
        "status": "infeasible",
        "certified_rate_rps": 0.0,
        "rate_ci_rps": [0.0, None],
        "certified_probe": None,
    }
    found = BENCHMARK_FILE.load(old, "x")
    assert (found.kind, found.status) == ("completed", "infeasible")


def test_a_study_is_read_back_as_it_was() -> None:
    found = STUDY_FILE.load(through_json(STUDY_FILE, TUNED), "x")
    assert found == TUNED
    assert found.study.best == TUNED.study.trials[1]
    values = found.flags.values()
    assert [type(value) for value in values] == [int, bool, str, float]


def test_a_study_of_the_version_before_is_read() -> None:
    old = stored("study-1.json")
    found = STUDY_FILE.load(old, "study.json")
    again = [trial.model_dump() for trial in found.study.trials]
    later = {"retuned": False, "boot_seconds": None, "load_seconds": 0.0, "estimate_rps": None}
    assert again == [{**later, **trial} for trial in old["trials"]]
    assert found.study.best is not None
    assert found.study.best.number == old["best"]["number"]
    assert found.flags == old["best"]["flags"]
    assert found.benchmark.certified_rate_rps == old["best"]["benchmark"]["certified_rate_rps"]
    assert (found.study.name, found.study.stopped) == (old["name"], old["stopped"])


def test_an_old_study_that_was_not_worth_a_search_is_read() -> None:
    found = STUDY_FILE.load(stored("study-skipped-1.json"), "study.json")
    assert (found.study.trials, found.flags, found.study.best) == ((), {}, None)
    assert isinstance(found.benchmark, SkippedBenchmark)


def test_a_comparison_of_the_version_before_is_read() -> None:
    old = stored("comparison-1.json")
    found = COMPARISON_FILE.load(old, "comparison.json")
    written = through_json(COMPARISON_FILE, found)
    assert written["schema_version"] == 2
    for spread in old["tasks"]:
        # Nobody read which trial was best in a task.
        for unused in ("best_trial", "best_score", "best_recovery"):
            del spread[unused]
    assert written == {"schema_version": 2, **old}


def test_calibration_trials_of_the_version_before_are_read() -> None:
    old = stored("quantization-1.json")
    found = QUANTIZATION_FILE.load(old, "quantization.json")
    again = {"schema_version": 1, "unsupported": None, **old}
    assert through_json(QUANTIZATION_FILE, found) == again
    assert list(found.checkpoints) == [0, 1]
    refused = QUANTIZATION_FILE.load({"finished": [], "failed": [], "unsupported": "why"}, "x")
    assert (refused.unsupported, refused.checkpoints) == ("why", {})


def test_the_sources_of_an_evaluation_of_the_version_before_are_read() -> None:
    old = stored("sources-1.json")
    found = SOURCES_FILE.load(old, "sources.json")
    assert {str(trial): key for trial, key in found.evaluations.items()} == old["evaluations"]
    assert found.rounds == (QUANTIZATION_FILE.load(stored("quantization-1.json"), "x"),)


@pytest.mark.parametrize(
    ("document", "old", "now"),
    [
        (CHECKPOINTS_FILE, {"0": "a1", "1": None}, Checkpoints(checkpoints={0: "a1", 1: None})),
        (CHECKPOINTS_FILE, {}, Checkpoints(checkpoints={})),
        (CONTAMINATION_FILE, {"sums": "clean"}, Contamination(tasks={"sums": "clean"})),
        (UNSUPPORTED_FILE, {"reason": "no kernel"}, Unsupported(reason="no kernel")),
    ],
)
def test_what_the_version_before_kept_of_an_evaluation_is_read(
    document: Document[Any], old: dict[str, Any], now: Result
) -> None:
    assert document.load(old, "x") == now
    assert document.load(through_json(document, now), "x") == now


def test_a_row_tells_of_q_star_and_of_the_spread_over_trials() -> None:
    comparison = COMPARISON_FILE.load(stored("comparison-1.json"), "comparison.json")
    spread, row = comparison.tasks[0], comparison.rows()[0]
    task = comparison.representative.tasks[0]
    assert (row.task, row.score, row.baseline_score) == (task.task, task.score, task.baseline_score)
    assert (row.recovery, row.low, row.high) == (
        task.recovery,
        task.recovery_low,
        task.recovery_high,
    )
    assert (row.items, row.gained, row.lost, row.mcnemar_p, row.margin, row.verdict) == (
        task.n,
        task.gained,
        task.lost,
        task.mcnemar_p,
        task.margin,
        task.verdict,
    )
    assert (row.mean, row.std, row.rsd) == (spread.mean, spread.std, spread.rsd)
    assert (row.calibration_std, row.noise_std) == (spread.calibration_std, spread.noise_std)
    assert row.trial_scores == {comparison.q_star: task.score}
    reference = comparison.model_copy(update={"is_baseline": True}).rows()[0]
    assert reference == row.model_copy(update={"verdict": "reference"})


def test_a_deployment_that_compared_with_no_fresh_baseline_is_not_read_any_more() -> None:
    """Version 1 had a certified rate and no race, so no interval of the gain."""
    old = through_json(DEPLOYMENT_FILE, deployment()) | {"schema_version": 1}
    with pytest.raises(StorageError, match=r"earlier version \(schema_version 1\)"):
        DEPLOYMENT_FILE.load(old, "deployment.json")


@pytest.mark.parametrize(
    "document",
    [
        BENCHMARK_FILE,
        STUDY_FILE,
        COMPARISON_FILE,
        DEPLOYMENT_FILE,
        QUANTIZATION_FILE,
        SOURCES_FILE,
        CHECKPOINTS_FILE,
        UNSUPPORTED_FILE,
        CONTAMINATION_FILE,
        EVALUATED_RECIPE,
        MEASURED_RECIPE,
    ],
    ids=lambda item: item.file,
)
def test_a_file_of_a_newer_version_asks_for_an_upgrade(document: Document[Any]) -> None:
    newer = {"schema_version": document.version + 1, "anything": "else"}
    with pytest.raises(StorageError, match=r"a/b was made by a newer version .*: upgrade OptiKIT"):
        document.load(newer, "a/b")


@pytest.mark.parametrize("content", [[], None, {}, {"schema_version": "2"}, {"status": "failed"}])
def test_what_is_no_result_is_refused_with_its_file(content: object) -> None:
    with pytest.raises(StorageError, match="a/b"):
        BENCHMARK_FILE.load(content, "a/b")


def test_a_version_that_no_upgrade_leads_from_is_refused() -> None:
    document: Document[Trial] = Document("trial.json", Trial, version=3, upgrades={2: dict})
    with pytest.raises(StorageError, match=r"earlier version \(schema_version 1\)"):
        document.load({"number": 0, "status": "failed"}, "a/b")
    found = document.load({"schema_version": 2, "number": 0, "status": "failed"}, "a/b")
    assert found == Trial(number=0, status="failed")


def test_the_best_of_equals_is_the_earliest() -> None:
    trials = tuple(Trial(number=n, status="feasible", rate_rps=1.0, fitness=1.0) for n in range(3))
    assert StudyResult(name="s", trials=trials).best == trials[0]


def test_an_artifact_without_the_result_is_told_from_one_with_it(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with store.create("a" * 64, "benchmark") as draft:
        draft.write_json("unsupported.json", {"reason": "no kernel"})
    with store.create("b" * 64, "benchmark") as draft:
        BENCHMARK_FILE.write(draft, benchmark())
    assert not BENCHMARK_FILE.is_in(store.get("a" * 64))
    assert BENCHMARK_FILE.is_in(store.get("b" * 64))
    assert BENCHMARK_FILE.read(store.get("b" * 64)) == benchmark()
