"""What sweep, tuning and certification keep of a benchmark: rows of the history, metadata."""

from typing import Any

import dagster as dg

from optikit_assets.artifacts import Artifact
from optikit_assets.defs.benchmarking.serving import Benchmarked
from optikit_assets.defs.body import BENCHMARKS, BenchmarkUsed, Partition
from optikit_assets.deployment import Series
from optikit_assets.graph import FAILED, outcome_version
from optikit_assets.history import RowsByTable, benchmark_rows
from optikit_assets.specs import SloSpec


def remember_sweep(partition: Partition, recipe: str, slo: SloSpec, done: Benchmarked) -> None:
    """Append a sweep with its probes and requests to the history."""
    partition.remember(done.artifact, lambda: _sweep_rows(partition, recipe, slo, done))


def _sweep_rows(partition: Partition, recipe: str, slo: SloSpec, done: Benchmarked) -> RowsByTable:
    outcome = done.outcome
    low, high = outcome.rate_ci_rps or (None, None)
    row = partition.row(
        done.artifact,
        recipe=recipe,
        slo=slo.name,
        pool=partition.node.key.pool,
        seed=outcome.seed,
        versions=done.making.versions,
        status=outcome.status,
        certified_rate_rps=outcome.certified_rate_rps,
        rate_low_rps=low,
        rate_high_rps=high,
        gpus=outcome.gpus,
        rate_per_gpu=outcome.rate_per_gpu_rps,
        input_tokens=slo.workload.mean_input_tokens,
        output_tokens=slo.workload.mean_output_tokens,
        load_seconds=outcome.load_seconds,
        server_start_s=done.making.server_start_s,
        probes=len(outcome.probes),
        flags=done.making.flags,
        reason=outcome.reason,
        closest=outcome.closest,
        artifact_key=done.artifact.key if done.artifact else None,
    )
    yield "sweeps", [row]
    yield from _probe_rows(partition, recipe, slo, done, part="sweep")


def remember_probes(
    partition: Partition,
    recipe: str,
    slo: SloSpec,
    done: Benchmarked,
    *,
    part: str,
    arm: str = "",
    trial: int = 0,
) -> None:
    """Append every rung, probe and request of one benchmark; `part` is the table's ``stage``.

    The artifact that the stage makes of its benchmarks names them all: see `remember_benchmarks`.
    """
    if done.artifact is not None:
        used = BenchmarkUsed(
            recipe=recipe,
            part=part,
            arm=arm,
            trial=trial,
            artifact_key=done.artifact.key,
            pool=partition.node.key.pool,
        )
        if used not in partition.benchmarks:
            partition.benchmarks.append(used)
    partition.remember(
        done.artifact,
        lambda: _probe_rows(partition, recipe, slo, done, part=part, arm=arm, trial=trial),
        part,
        arm,
        trial,
    )


def remember_benchmarks(partition: Partition, slo: SloSpec, made: Artifact) -> None:
    """Append what is missing of the benchmarks that an artifact was made of."""
    for used in map(BenchmarkUsed.model_validate, made.manifest[BENCHMARKS]):
        found = partition.artifacts.find(used.artifact_key)
        if found is None:
            partition.context.log.warning(
                f"the history lacks the probes of {used.part} {used.trial} of {used.recipe}: "
                f"artifact {used.artifact_key[:12]}… is gone"
            )
            continue
        remember_probes(
            partition.on(used.pool),
            used.recipe,
            slo,
            Benchmarked.of(found),
            part=used.part,
            arm=used.arm,
            trial=used.trial,
        )


def _probe_rows(
    partition: Partition,
    recipe: str,
    slo: SloSpec,
    done: Benchmarked,
    *,
    part: str,
    arm: str = "",
    trial: int = 0,
) -> RowsByTable:
    """Yield the rows of one benchmark.

    What broke off has a content key of its own: the next attempt does not replace it, or mix with
    it.
    """
    broken_off = f"{outcome_version(partition.key, FAILED)}-{partition.context.run.run_id}"
    common = {
        "content_key": broken_off if done.outcome.kind == "failed" else partition.key,
        "recipe": recipe,
        "slo": slo.name,
        "pool": partition.node.key.pool,
        "seed": done.outcome.seed,
        "versions": done.making.versions,
        "stage": part,
        "arm": arm,
        "trial": trial,
    }
    for table, rows in benchmark_rows(done.outcome, done.requests()).items():
        yield table, [partition.row(done.artifact, **common, **row) for row in rows]


def benchmark_metadata(done: Benchmarked, slo: SloSpec, label: str) -> dict[str, Any]:
    """Return the numbers, the table of probes and the plots of a benchmark."""
    from optikit_assets.deployment.canvas import markdown_image
    from optikit_assets.deployment.plots import latency_against_rate, steady_state

    outcome = done.outcome
    metadata: dict[str, Any] = {
        "certified_rate_rps": outcome.certified_rate_rps,
        "rate_per_gpu": outcome.rate_per_gpu_rps,
        "reason": outcome.reason,
        "load_seconds": round(outcome.load_seconds, 1),
    }
    if not outcome.probes:
        return metadata
    labels = [objective.label for objective in slo.objectives]
    records = [
        dg.TableRecord(
            {
                "kind": probe.kind,
                "rate_rps": _shown(probe.rate_rps),
                "requests": probe.requests,
                **{f"{name}_ms": _shown(probe.latency_ms.get(name)) for name in labels},
                "beta": _shown(probe.beta),
                "verdict": probe.verdict,
                "reason": probe.reason,
            }
        )
        for probe in outcome.probes
    ]
    series = Series(label=label, benchmark=outcome)
    curve = latency_against_rate([series], slo.objectives)
    regression = steady_state(series.steady_state_probe, slo.budget.steady_state_tolerance)
    return {
        **metadata,
        "probes": dg.MetadataValue.table(records),
        "latency_against_rate": dg.MetadataValue.md(markdown_image(curve, "latency against rate")),
        "steady_state": dg.MetadataValue.md(markdown_image(regression, "steady state")),
    }


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
