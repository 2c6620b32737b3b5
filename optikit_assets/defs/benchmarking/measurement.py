"""What sweep, tuning and certification share: one benchmark worker, its rows and its metadata."""

import threading
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import dagster as dg

from optikit_assets.artifacts import Artifact, ArtifactStore
from optikit_assets.benchmarker import RequestRecord, read_requests
from optikit_assets.defs.body import BENCHMARKS, BenchmarkUsed, Partition
from optikit_assets.defs.evaluation.candidates import Representative
from optikit_assets.deployment import Series
from optikit_assets.engines import Flags
from optikit_assets.errors import OptikitError, ResultMissingError, StageError
from optikit_assets.execution import Lease, beyond_a_node, on_some_node
from optikit_assets.faults import raise_machine_fault
from optikit_assets.graph import FAILED, outcome_version
from optikit_assets.history import RowsByTable, benchmark_rows
from optikit_assets.model_files import read_config
from optikit_assets.optimizer import expert_count
from optikit_assets.schemas import (
    BENCHMARK_FILE,
    BenchmarkOutcome,
    FailedBenchmark,
    InfeasibleBenchmark,
    ProbeResult,
    SkippedBenchmark,
)
from optikit_assets.specs import SloSpec, digest
from optikit_assets.workers.benchmark import REQUESTS_FILE
from optikit_assets.workers.manifests import BenchmarkMaking
from optikit_assets.workers.messages import BenchmarkRequest, BenchmarkWorkerResult
from optikit_assets.workers.records import ProbeFinished, Record


@dataclass(frozen=True)
class Benchmarked:
    """One benchmark, with its artifact if it came to an end.

    ``left_requests`` are the timelines of one that broke off.
    """

    outcome: BenchmarkOutcome
    artifact: Artifact | None = None
    left_requests: tuple[RequestRecord, ...] = ()

    @classmethod
    def of(cls, artifact: Artifact) -> "Benchmarked":
        """Read the benchmark that an artifact holds."""
        return cls(BENCHMARK_FILE.read(artifact), artifact)

    def requests(self) -> Iterable[RequestRecord]:
        """Return the timelines of the requests, as far as there are any."""
        if self.artifact is None or not self.artifact.has(REQUESTS_FILE):
            return self.left_requests
        return read_requests(self.artifact.file(REQUESTS_FILE))

    @cached_property
    def making(self) -> BenchmarkMaking:
        """How it was made; of one without an artifact nothing is known."""
        return BenchmarkMaking.of(self.artifact.manifest if self.artifact else {})


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


def benchmark(
    partition: Partition,
    slo: SloSpec,
    candidate: Representative,
    *,
    artifact_key: str,
    flags: Flags,
    seed: int,
    initial_rate_rps: float | None = None,
    worth_rps: float = 0.0,
    rates_rps: tuple[float, ...] = (),
    config: str | None = None,
    stop: threading.Event | None = None,
) -> Benchmarked:
    """Serve a candidate and search its rate, or probe the given rates; `stop` breaks it off.

    Returns
    -------
    Benchmarked
        A `FailedBenchmark` if the worker failed; no artifact is kept then, and the next run tries
        again.

    Raises
    ------
    MachineError
        If the machine failed: that is no result of this candidate or these flags.
    """
    store = partition.artifacts.store
    gpus = partition.engine.accelerators(
        partition.model_spec.engine, flags, partition.runner.hardware
    )

    def measure(lease: Lease) -> Benchmarked:
        request = BenchmarkRequest(
            store=store.url,
            environment=partition.environment("serve"),
            artifact_key=artifact_key,
            model=candidate.model,
            served_model_name=partition.model_key,
            engine=partition.model_spec.engine,
            trust_remote_code=partition.model_spec.trust_remote_code,
            flags=flags,
            config=config,
            hardware=lease.hardware,
            slo=slo,
            seed=seed,
            mode="confirm" if rates_rps else "search",
            rates_rps=rates_rps,
            initial_rate_rps=initial_rate_rps,
            worth_rps=worth_rps,
            provenance=partition.provenance,
            left_key=digest(["left", artifact_key, uuid.uuid4().hex]),
        )
        if store.find(artifact_key) is None:
            probes: list[ProbeResult] = []
            try:
                partition.runner.run(
                    partition.context,
                    "benchmark",
                    request,
                    BenchmarkWorkerResult,
                    lease,
                    keep_probes(partition, probes),
                )
            except StageError as error:
                # What ended well is finished, whatever became of its last message.
                finished = isinstance(error, ResultMissingError) and store.find(artifact_key)
                if not finished:
                    return _broken_off(store, request, str(error), gpus, probes)
        return Benchmarked.of(store.get(artifact_key))

    return on_some_node(partition.runner.executor, gpus, measure, stop)


def _broken_off(
    store: ArtifactStore,
    request: BenchmarkRequest,
    reason: str,
    gpus: int,
    probes: list[ProbeResult],
) -> Benchmarked:
    """Return what was measured by then; the worker left its timelines in the store."""
    outcome = FailedBenchmark.after(probes, reason=reason, seed=request.seed, gpus=gpus)
    left = store.find(request.left_key)
    if left is None:
        return Benchmarked(outcome)
    requests = tuple(read_requests(left.file(REQUESTS_FILE)))
    # The history has them from here on.
    store.remove(request.left_key)
    return Benchmarked(outcome, left_requests=requests if probes else ())


def keep_probes(partition: Partition, probes: list[ProbeResult]) -> Callable[[Record], object]:
    """Return what adds the probes that a worker finishes to `probes`, and logs them."""

    def keep(record: Record) -> None:
        if isinstance(record, ProbeFinished):
            probe = record.probe
            probes.append(probe)
            partition.context.log.info(
                f"{probe.kind} probe at {probe.rate_rps:.3g} requests/s: "
                f"{probe.verdict}, {probe.reason}"
            )

    return keep


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
