"""Benchmarks in workers: one under a lease of its own, or several that share one and take turns."""

import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

from optikit_assets.artifacts import Artifact, ArtifactStore
from optikit_assets.benchmarker import RequestRecord, read_requests
from optikit_assets.defs.body import Partition
from optikit_assets.defs.evaluation.candidates import Representative
from optikit_assets.engines import Flags
from optikit_assets.errors import NodeLostError, OptikitError, ResultMissingError, StageError
from optikit_assets.execution import Lease, beyond_a_node, in_threads, on_some_node
from optikit_assets.faults import raise_machine_fault
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

# Processes and libraries of a server, beside weights and cache, and what is left to all else.
_SERVER_BYTES = 3 * 1024**3
_MEMORY_SHARE = 0.8


@dataclass(frozen=True)
class Benchmarked:
    """One benchmark, with its artifact if it came to an end.

    ``left_requests`` are the timelines of one that broke off, and ``worker_s`` the seconds that its
    worker ran.
    """

    outcome: BenchmarkOutcome
    artifact: Artifact | None = None
    left_requests: tuple[RequestRecord, ...] = ()
    worker_s: float = 0.0

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


@dataclass(frozen=True)
class Measurement:
    """A candidate to be served, and its rate to be searched, or the given rates to be probed."""

    partition: Partition
    slo: SloSpec
    candidate: Representative
    artifact_key: str
    flags: Flags
    seed: int
    initial_rate_rps: float | None = None
    worth_rps: float = 0.0
    rates_rps: tuple[float, ...] = ()
    config: str | None = None
    of: str = ""
    """Which of several it is, for people."""

    @property
    def store(self) -> ArtifactStore:
        """Where its artifact goes."""
        return self.partition.artifacts.store

    @property
    def gpus(self) -> int:
        """Accelerators that its server takes."""
        partition = self.partition
        return partition.engine.accelerators(
            partition.model_spec.engine, self.flags, partition.runner.hardware
        )

    def host_bytes(self) -> int:
        """Return what its server takes of a machine without a GPU."""
        partition, facts = self.partition, self.candidate.facts()
        spec, engine = partition.model_spec.engine, partition.engine
        hardware = partition.runner.hardware
        flags = engine.flags(spec, self.slo, self.flags, hardware=hardware, facts=facts)
        length = engine.context_length(spec, self.slo, facts)
        return engine.host_bytes(facts, hardware, flags, context_length=length) + _SERVER_BYTES

    def under(self, lease: Lease, beside: int = 0) -> Benchmarked:
        """Measure it under a lease, unless that was done before.

        Parameters
        ----------
        beside
            How many others are measured in turn with it, under the same lease.
        """
        request = self._request(lease, beside)
        if self.store.find(self.artifact_key) is None:
            probes: list[ProbeResult] = []
            begun = time.monotonic()
            try:
                self.partition.runner.run(
                    self.partition.context,
                    "benchmark",
                    request,
                    BenchmarkWorkerResult,
                    lease,
                    keep_probes(self.partition, probes),
                )
            except StageError as error:
                # What ended well is finished, whatever became of its last message.
                finished = isinstance(error, ResultMissingError) and self.store.find(
                    self.artifact_key
                )
                if not finished:
                    broken = _broken_off(self.store, request, str(error), self.gpus, probes)
                    return replace(broken, worker_s=time.monotonic() - begun)
        return Benchmarked.of(self.store.get(self.artifact_key))

    def _request(self, lease: Lease, beside: int) -> BenchmarkRequest:
        partition = self.partition
        return BenchmarkRequest(
            store=self.store.url,
            environment=partition.environment("serve"),
            artifact_key=self.artifact_key,
            model=self.candidate.model,
            served_model_name=partition.model_key,
            engine=partition.model_spec.engine,
            trust_remote_code=partition.model_spec.trust_remote_code,
            flags=self.flags,
            config=self.config,
            hardware=lease.hardware,
            slo=self.slo,
            seed=self.seed,
            mode="confirm" if self.rates_rps else "search",
            rates_rps=self.rates_rps,
            initial_rate_rps=self.initial_rate_rps,
            worth_rps=self.worth_rps,
            provenance=partition.provenance,
            left_key=digest(["left", self.artifact_key, uuid.uuid4().hex]),
            of=self.of,
            beside=beside,
        )


def benchmark(asked: Measurement, stop: threading.Event | None = None) -> Benchmarked:
    """Measure a candidate under a lease of its own; `stop` breaks it off.

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
    return on_some_node(asked.partition.runner.executor, asked.gpus, asked.under, stop)


def benchmark_together(asked: Sequence[Measurement]) -> list[Benchmarked]:
    """Measure several, side by side where the machine has room, else one after the other.

    Side by side their servers are up at a time and their probes take turns
    (`optikit_assets.workers.turns`), so that what disturbs the machine disturbs all of them. Who
    comes to no result so is measured once more alone: for what it lacked the others may be the
    reason.
    """
    todo = [one for one in asked if one.store.find(one.artifact_key) is None]
    found = _side_by_side(todo) if len(todo) > 1 and _have_room(todo) else {}
    return [found.get(one.artifact_key) or benchmark(one) for one in asked]


def _have_room(asked: Sequence[Measurement]) -> bool:
    """Whether servers of all of them can be up at a time.

    On a GPU they cannot: each takes what there is of its memory.
    """
    hardware = asked[0].partition.runner.hardware
    if hardware.kind != "cpu":
        return False
    return sum(one.host_bytes() for one in asked) <= _MEMORY_SHARE * hardware.memory_bytes


def _side_by_side(asked: Sequence[Measurement]) -> dict[str, Benchmarked]:
    """Return what came about, by the key of its artifact."""
    stop = threading.Event()
    partition = asked[0].partition
    try:
        with partition.runner.executor.lease(1, stop) as lease:
            measure = partial(Measurement.under, lease=lease, beside=len(asked) - 1)
            found = in_threads(asked, measure, len(asked), stop)
    except NodeLostError as error:
        partition.context.log.warning(f"{error}; each is measured alone")
        return {}
    kept: dict[str, Benchmarked] = {}
    for one, done in zip(asked, found, strict=True):
        if done.artifact is not None:
            kept[one.artifact_key] = done
        else:
            partition.context.log.warning(f"{done.outcome.reason}; it is measured once more, alone")
    return kept


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
            of = f"{record.of}: " if record.of else ""
            partition.context.log.info(
                f"{of}{probe.kind} probe at {probe.rate_rps:.3g} requests/s: "
                f"{probe.verdict}, {probe.reason}"
            )

    return keep
