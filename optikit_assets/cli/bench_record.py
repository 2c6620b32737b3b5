"""What a bench leaves: a folder with everything, and its rows in the history."""

import contextlib
import secrets

from optikit_assets import clock
from optikit_assets.benchmarker import read_requests
from optikit_assets.cli.output_file import write_json
from optikit_assets.deployment import Series
from optikit_assets.deployment.canvas import encode
from optikit_assets.deployment.plots import latency_against_rate, steady_state
from optikit_assets.errors import HistoryError, StorageError
from optikit_assets.history import benchmark_rows
from optikit_assets.schemas import BENCHMARK_FILE, BenchmarkOutcome, FailedBenchmark, ProbeResult
from optikit_assets.settings import settings
from optikit_assets.specs import SloSpec, digest
from resources.history import open_history


class BenchRecord:
    """The record of one bench, below ``OPTIKIT_HOME/bench``.

    ::

        RUN_ID/
          result.json                `BenchmarkOutcome`, as with ``--json``
          requests.jsonl.gz          the timeline of every request
          latency_against_rate.svg   all open-loop probes
          steady_state.svg           completions over arrivals, with the regression

    Raises
    ------
    StorageError
        If the folder cannot be made.
    """

    def __init__(self, base_url: str, model: str, slo: SloSpec, seed: int) -> None:
        self.base_url = base_url
        self.model = model
        self.slo = slo
        self.seed = seed
        self.probes: list[ProbeResult] = []
        self.started_at = clock.now()
        self.run_id = f"{self.started_at:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        self.folder = settings().benches / self.run_id
        self.requests_file = self.folder / "requests.jsonl.gz"
        self.result_file = self.folder / "result.json"
        try:
            self.folder.mkdir(parents=True)
        except OSError as error:
            raise StorageError(
                f"{self.folder} cannot be made: {error.strerror}; set OPTIKIT_HOME to a folder "
                "that can be written"
            ) from error

    def broken_off(self, reason: str) -> FailedBenchmark:
        """Return the outcome of a bench that ended before its search did."""
        return FailedBenchmark.after(
            self.probes, reason=reason, seed=self.seed, model=self.model, slo=self.slo.name
        )

    def discard(self) -> None:
        """Remove the folder of a bench that measured nothing."""
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def keep(self, outcome: BenchmarkOutcome) -> None:
        """Write result and figures, and append to the history."""
        write_json(self.result_file, BENCHMARK_FILE.dump(outcome))
        series = Series(label=self.model, benchmark=outcome)
        tolerance = self.slo.budget.steady_state_tolerance
        figures = {
            "latency_against_rate": latency_against_rate([series], self.slo.objectives),
            "steady_state": steady_state(series.steady_state_probe, tolerance),
        }
        try:
            for name, figure in figures.items():
                (self.folder / f"{name}.svg").write_bytes(encode(figure))
        except OSError as error:
            raise StorageError(
                f"{self.folder}: the figures cannot be written: {error.strerror}; the result is "
                f"kept in {self.result_file}"
            ) from error
        finally:
            self._remember(outcome)

    def _remember(self, outcome: BenchmarkOutcome) -> None:
        history = open_history(settings())
        low, high = outcome.rate_ci_rps or (None, None)
        common = {
            "model": self.model,
            "slo": self.slo.name,
            "content_key": digest(["bench", self.run_id]),
            "seed": self.seed,
            "run_id": self.run_id,
            "started_at": self.started_at,
            "ended_at": clock.now(),
        }
        bench = {
            "base_url": self.base_url,
            "rate_low_rps": low,
            "rate_high_rps": high,
            "input_tokens": self.slo.workload.mean_input_tokens,
            "output_tokens": self.slo.workload.mean_output_tokens,
            "probes": len(outcome.probes),
            "folder": self.folder,
            "status": outcome.status,
            "certified_rate_rps": outcome.certified_rate_rps,
            "load_seconds": outcome.load_seconds,
            "reason": outcome.reason,
            "closest": outcome.closest,
        }
        history.append("benches", [common | bench])
        requests = read_requests(self.requests_file)
        for table, rows in benchmark_rows(outcome, requests).items():
            history.append(table, [common | {"stage": "bench"} | row for row in rows])
        # Where another process holds the history, the rows wait safely for the next drain.
        with contextlib.suppress(HistoryError, StorageError):
            history.drain(timeout_s=5)
