"""One benchmark of a configuration under an SLO: how it ended, and what it found.

``kind`` tells the four ends apart. A search that came to its end is ``completed``, whatever it
found; ``infeasible`` is what was certain without a server, ``skipped`` what was not worth one, and
``failed`` what broke off, with the probes that were finished by then.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field

from optikit_assets.schemas.base import Result
from optikit_assets.schemas.document import Document
from optikit_assets.schemas.probe import ProbeResult

BenchmarkStatus = Literal["feasible", "infeasible", "never_steady", "unresolved", "dropped"]


class Rung(Result):
    """One level of the concurrency ladder: N clients, X in requests/s, mean latency R."""

    clients: int
    throughput_rps: float
    latency_s: float
    met: bool = Field(description="Whether every objective was met as observed.")

    @property
    def little(self) -> float:
        """X·R/N, which is 1 in a steady closed loop."""
        return self.throughput_rps * self.latency_s / self.clients


class _Benchmark(Result):
    """What every end has."""

    reason: str = Field(description="Why it ended so.")
    closest: str = Field(default="", description="If not feasible: what came closest, and why not.")
    load_seconds: float = 0.0
    certified_probe: int | None = Field(
        default=None, description="Index into `probes` of the one at the measured rate."
    )
    gpus: int = Field(default=1, ge=1, description="Accelerators that the server holds.")
    certified_rate_rps: float = Field(
        default=0.0, description="Measured by this search alone, whatever the key says."
    )
    ladder: tuple[Rung, ...] = Field(default=(), description="Where the search began from.")
    probes: tuple[ProbeResult, ...] = ()

    @property
    def rate_per_gpu_rps(self) -> float:
        """Measured rate divided by the number of accelerators."""
        return self.certified_rate_rps / self.gpus

    @property
    def telling_probe(self) -> ProbeResult | None:
        """The probe at the measured rate, else the last one; None if there is none."""
        if self.certified_probe is not None:
            return self.probes[self.certified_probe]
        return self.probes[-1] if self.probes else None


class CompletedBenchmark(_Benchmark):
    """A search that came to its end.

    ``certified_rate_rps`` is the highest rate whose probe met the SLO and that all probes together
    vouch for, 0.0 if there is none. ``rate_ci_rps`` holds the true highest rate with confidence
    0.95; its upper end is None if nothing bounded it within the budget. ``never_steady``: at every
    rate answers took longer and longer, although no objective was missed for it. ``dropped``: its
    limit is not likely to be above what it was compared with.
    """

    kind: Literal["completed"] = "completed"
    status: BenchmarkStatus
    rate_ci_rps: tuple[float, float | None]
    estimate_rps: float | None = Field(
        default=None, description="Where the SLO is expected to be missed, from all probes."
    )
    model: str
    slo: str
    seed: int


class _Unfinished(_Benchmark):
    certified_rate_rps: float = Field(default=0.0, ge=0.0, le=0.0)
    rate_ci_rps: None = None
    model: str | None = None
    slo: str | None = None
    seed: int | None = None


class InfeasibleBenchmark(_Unfinished):
    """Certain without a server: the workload or the engine does not fit."""

    kind: Literal["infeasible"] = "infeasible"
    status: Literal["infeasible"] = "infeasible"


class SkippedBenchmark(_Unfinished):
    """Not worth a server: the quality gate refused the checkpoint."""

    kind: Literal["skipped"] = "skipped"
    status: Literal["skipped"] = "skipped"


class FailedBenchmark(_Unfinished):
    """Broken off; ``probes`` were finished by then."""

    kind: Literal["failed"] = "failed"
    status: Literal["failed"] = "failed"

    @classmethod
    def after(cls, probes: Iterable[ProbeResult], **fields: Any) -> "FailedBenchmark":
        """Return what broke off after these probes."""
        found = tuple(probes)
        return cls(probes=found, load_seconds=sum(p.duration_s for p in found), **fields)


BenchmarkOutcome = Annotated[
    CompletedBenchmark | InfeasibleBenchmark | SkippedBenchmark | FailedBenchmark,
    Field(discriminator="kind"),
]


def upgrade_benchmark(fields: dict[str, Any]) -> dict[str, Any]:
    """Return version 2 of a benchmark of version 1, which had no ``kind``.

    Only a search that came to its end had an interval of the rate.
    """
    status = fields["status"]
    if status in ("failed", "skipped"):
        kind = status
    else:
        kind = "infeasible" if fields["rate_ci_rps"] is None else "completed"
    return {"kind": kind, **fields}


BENCHMARK_FILE: Document[BenchmarkOutcome] = Document(
    "benchmark.json", BenchmarkOutcome, version=2, upgrades={1: upgrade_benchmark}
)
