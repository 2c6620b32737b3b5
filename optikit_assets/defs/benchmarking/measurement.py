"""What sweep, tuning and certification share: what is certain beforehand, rows and metadata."""

from typing import Any

import dagster as dg

from optikit_assets.artifacts import Artifact
from optikit_assets.defs.benchmarking.serving import Benchmarked
from optikit_assets.defs.body import BENCHMARKS, BenchmarkUsed, Partition
from optikit_assets.defs.evaluation.candidates import Representative
from optikit_assets.deployment import Series
from optikit_assets.engines import Flags
from optikit_assets.errors import OptikitError
from optikit_assets.execution import beyond_a_node
from optikit_assets.faults import raise_machine_fault
from optikit_assets.graph import FAILED, outcome_version
from optikit_assets.history import RowsByTable, benchmark_rows
from optikit_assets.model_files import read_config
from optikit_assets.optimizer import expert_count
from optikit_assets.schemas import InfeasibleBenchmark, SkippedBenchmark
from optikit_assets.specs import SloSpec


def known_beforehand(
    partition: Partition, slo: SloSpec, candidate: Representative, flags: Flags
) -> InfeasibleBenchmark | SkippedBenchmark | None:
    """Return the outcome if it is certain without a server; no GPU time is spent then.

    A candidate that the quality gate refused is skipped; a workload that does not fit the model's
    context, or an engine that does not fit the accelerators' memory, is infeasible.
    """
    if not candidate.accepted:
        reason = "; ".join(candidate.reasons) or candidate.verdict
        return SkippedBenchmark(reason=f"the quality gate refused it: {reason}")
    hardware = partition.runner.hardware
    engine, spec = partition.engine, partition.model_spec.engine
    gpus = engine.accelerators(spec, flags, hardware)
    pool = partition.node.key.pool
    refused = None if pool is None else _refused_by(pool, partition, candidate.recipe, gpus)
    if refused is None and flags and gpus > hardware.count:
        # Without flags of a study it is the model's spec that asks for what is not there.
        refused = f"needs {gpus} accelerators, there are {hardware.count}"
    if refused is not None:
        return InfeasibleBenchmark(reason=refused, closest=refused, gpus=gpus)
    facts = candidate.facts()
    try:
        length = engine.context_length(spec, slo, facts)
        complete = engine.flags(spec, slo, flags, hardware=hardware, facts=facts)
        memory = engine.estimate(facts, hardware, complete, context_length=length)
    except OptikitError as error:
        raise_machine_fault(error)
        return InfeasibleBenchmark(reason=str(error), closest=str(error), gpus=gpus)
    if not memory.fits:
        return InfeasibleBenchmark(reason=memory.reason, closest=memory.reason, gpus=gpus)
    return None


def _refused_by(pool: str, partition: Partition, recipe: str, gpus: int) -> str | None:
    """Say why a named pool serves a recipe not at all, or not on so many cards.

    The machine itself refuses a recipe before it is made, and a model's spec as a whole; of several
    pools one may serve what another does not.
    """
    hardware = partition.runner.hardware
    if gpus > hardware.count:
        return beyond_a_node(pool, gpus, hardware)
    experts = expert_count(read_config(partition.base.path)) > 0
    spec = partition.model_spec.engine
    reason = partition.engine.unsupported(
        partition.catalog.recipe(recipe), spec, hardware, experts=experts
    )
    return None if reason is None else f"pool {pool}: {reason}"


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
