"""The servers of certification: a worker for every arm and round, remembered by its key."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from optikit_assets import graph
from optikit_assets.benchmarker import near_search, read_probes
from optikit_assets.defs.benchmarking.recording import remember_probes
from optikit_assets.defs.benchmarking.serving import (
    Benchmarked,
    Measurement,
    benchmark,
    benchmark_together,
)
from optikit_assets.defs.body import Partition
from optikit_assets.defs.evaluation.candidates import Representative, representative_of
from optikit_assets.deployment import Held, Served, Start
from optikit_assets.engines import Flags, Hardware
from optikit_assets.schemas import ArmMeasurement, ProbeResult
from optikit_assets.specs import SloSpec, digest
from optikit_assets.workers.manifests import BenchmarkMaking


def all_flags(partition: Partition, slo: SloSpec, candidate: Representative, tuned: Flags) -> Flags:
    """Return every engine flag of a configuration."""
    return partition.engine.flags(
        partition.model_spec.engine,
        slo,
        tuned,
        hardware=_measured_on(partition, candidate.recipe),
        facts=candidate.facts(),
        trust_remote_code=partition.model_spec.trust_remote_code,
    )


def _measured_on(partition: Partition, recipe: str) -> Hardware:
    """Return the hardware that a recipe's sweep kept the record of, from its lease.

    What was certain without a server, or measured by an earlier release, kept none.
    """
    swept = partition.artifact_of(partition.node.needed(graph.BENCHMARK_SWEEP, recipe))
    kept = BenchmarkMaking.of(swept.manifest).hardware if swept else None
    return kept or partition.runner.hardware


def config_text(partition: Partition, slo: SloSpec, candidate: Representative, tuned: Flags) -> str:
    """Return the file of a configuration: what is certified is what is shipped.

    The symbol of the model stands for its folder, which each machine has elsewhere and puts in.
    """
    flags = all_flags(partition, slo, candidate, tuned)
    return partition.engine.config_text(
        flags, model=candidate.model.symbol, served_model_name=partition.model_key
    )


@dataclass
class Servers(ABC):
    """What a fresh server shows, in the terms of a race; see `FreshServers`."""

    slo: SloSpec
    made: dict[str, BenchmarkMaking] = field(default_factory=dict, init=False)
    """Arm -> where and with what its newest server ran."""

    def search(self, starts: Sequence[Start], seed: int) -> list[Served]:
        """Look for the limit of every arm near its start, side by side where there is room."""
        slo = near_search(self.slo)
        servers = [self._of(start) for start in starts]
        asked = [
            one.asked(start.arm, slo, seed, initial_rate_rps=start.rate_rps)
            for one, start in zip(servers, starts, strict=True)
        ]
        found: list[Served] = []
        for one, start, done in zip(servers, starts, benchmark_together(asked), strict=True):
            one.note(start.arm, slo, done)
            found.append(_searched(done, slo))
        return found

    def confirm(self, arm: ArmMeasurement, rates_rps: tuple[float, ...], seed: int) -> Served:
        """Probe these rates."""
        done = benchmark(self.asked(arm, self.slo, seed, rates_rps=rates_rps))
        self.note(arm, self.slo, done)
        if done.artifact is None:
            return _failed(done)
        return Served(_open_probes(done), load_seconds=done.outcome.load_seconds)

    def pool(self, probes: Sequence[ProbeResult]) -> Held | None:
        """Read probes of one arm together."""
        found = read_probes(probes, self.slo)
        if found.held is None or found.held_rps is None:
            return None
        return Held(found.held_rps, found.held)

    def note(self, arm: ArmMeasurement, slo: SloSpec, done: Benchmarked) -> None:
        """Keep what a server showed."""
        if done.artifact is not None:
            self.made[arm.label] = done.making

    @abstractmethod
    def asked(self, arm: ArmMeasurement, slo: SloSpec, seed: int, **how: Any) -> Measurement:
        """Return what is to be measured of an arm, with `how` of `Measurement`."""

    def _of(self, start: Start) -> "Servers":
        """Return what serves a start."""
        servers = self if start.on is None else start.on
        if not isinstance(servers, Servers):
            raise TypeError(f"{servers} cannot be measured beside {self}")
        return servers


@dataclass
class StageServers(Servers):
    """Fresh servers for the arms of one model and SLO, each served from the text it ships with.

    Every result is an artifact, so a certification that was killed goes on where it was. Probes go
    into the history as ``certification``, one of the `trials` for each server of a decision, on
    whichever pool.
    """

    partition: Partition
    trials: Iterator[int]

    def asked(self, arm: ArmMeasurement, slo: SloSpec, seed: int, **how: Any) -> Measurement:
        """Return what is to be measured of an arm, with `how` of `Measurement`."""
        partition = self.partition
        candidate = representative_of(partition, arm.recipe)
        config = config_text(partition, self.slo, candidate, arm.flags)
        budget = slo.budget.model_dump(mode="json")
        key = digest(
            [
                "certification",
                partition.key,
                candidate.digest,
                config,
                budget,
                sorted(how.items()),
                seed,
            ]
        )
        return Measurement(
            partition,
            slo,
            candidate,
            artifact_key=key,
            flags=arm.flags,
            seed=seed,
            config=config,
            of=arm.label,
            **how,
        )

    def note(self, arm: ArmMeasurement, slo: SloSpec, done: Benchmarked) -> None:
        """Keep what a server showed, in the history too."""
        super().note(arm, slo, done)
        name = f"{arm.recipe}{'+tuned' if arm.tuned else ''}"
        trial = next(self.trials)
        remember_probes(
            self.partition, arm.recipe, slo, done, part="certification", arm=name, trial=trial
        )


def _open_probes(done: Benchmarked) -> tuple[ProbeResult, ...]:
    return tuple(probe for probe in done.outcome.probes if probe.kind == "open")


def _searched(done: Benchmarked, slo: SloSpec) -> Served:
    if done.artifact is None:
        return _failed(done)
    probes = _open_probes(done)
    reading = read_probes(probes, slo)
    return Served(
        probes,
        reading.limit_rps,
        reading.log_sd,
        done.outcome.load_seconds,
        held_nothing=not probes and done.outcome.status == "infeasible",
    )


def _failed(done: Benchmarked) -> Served:
    return Served(load_seconds=done.outcome.load_seconds, failure=done.outcome.reason)
