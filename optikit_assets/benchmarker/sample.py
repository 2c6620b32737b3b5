"""What has been observed of a probe's requests at one moment, as arrays.

All times are seconds after the start of the probe. A request is *settled* for a metric when its
latency is known, or is already known to be beyond the bound (it failed, or it is still running past
the bound). Statistics use the requests before the first unsettled one: leaving out only those that
still run would favour the quick ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optikit_assets.benchmarker.arrivals import FloatArray
from optikit_assets.specs.slo import Metric, Objective


@dataclass(frozen=True)
class Sample:
    """Measured requests of a probe in order of arrival; every array has shape (n,).

    ``first_token_s`` and ``finished_s`` (last token) are NaN while unknown. ``failed`` includes
    time-outs. ``gaps_s`` holds the times between successive tokens of each request. Token counts
    are the server's, ``expected_…`` what was asked for; -1 where it is not known.
    """

    now_s: float
    scheduled_s: FloatArray
    sent_s: FloatArray
    first_token_s: FloatArray
    finished_s: FloatArray
    failed: NDArray[np.bool_]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    gaps_s: Sequence[Sequence[float]]
    expected_input: NDArray[np.int64]
    expected_output: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scheduled_s)

    @property
    def completed(self) -> NDArray[np.bool_]:
        """Which requests finished without error."""
        return ~self.failed & ~np.isnan(self.finished_s)

    @property
    def pending(self) -> NDArray[np.bool_]:
        """Which requests are still running."""
        return ~self.failed & np.isnan(self.finished_s)

    @property
    def lag_s(self) -> FloatArray:
        """Actual minus scheduled send time."""
        return self.sent_s - self.scheduled_s

    def head(self, count: int) -> "Sample":
        """Return the first `count` requests."""
        return Sample(
            self.now_s,
            self.scheduled_s[:count],
            self.sent_s[:count],
            self.first_token_s[:count],
            self.finished_s[:count],
            self.failed[:count],
            self.input_tokens[:count],
            self.output_tokens[:count],
            self.gaps_s[:count],
            self.expected_input[:count],
            self.expected_output[:count],
        )

    def from_sending(self) -> "Sample":
        """Return the sample as a client that is never late might have seen it.

        Each request is scheduled when it was in fact sent, and everything was read earlier by the
        99th percentile of the lag: an event loop reads as late as it sends.
        """
        late_s = float(np.percentile(self.lag_s, 99)) if len(self) else 0.0
        return Sample(
            self.now_s - late_s,
            self.sent_s,
            self.sent_s,
            np.maximum(self.first_token_s - late_s, self.sent_s),
            np.maximum(self.finished_s - late_s, self.sent_s),
            self.failed,
            self.input_tokens,
            self.output_tokens,
            [[gap - late_s for gap in gaps] for gaps in self.gaps_s],
            self.expected_input,
            self.expected_output,
        )

    def latency_s(self, metric: Metric, bound_s: float = np.inf) -> FloatArray:
        """Return the latencies of the settled requests, shape (m,), m ≤ n.

        Infinite for a failed request and for one that is already later than `bound_s`. For ``itl``
        the mean gap of each request is returned (see `gap_values_s` for the gaps themselves).
        """
        running_s = np.full(len(self), np.nan)
        if metric == "ttft":
            values = self.first_token_s - self.scheduled_s
            running_s = self.now_s - self.scheduled_s
        elif metric == "e2e_latency":
            values = self.finished_s - self.scheduled_s
            running_s = self.now_s - self.scheduled_s
        else:
            # One token has no inter-token time: nothing to miss.
            steps = np.maximum(self.output_tokens - 1, 1)
            values = (self.finished_s - self.first_token_s) / steps
        values = np.where(self.failed, np.inf, values)
        values = np.where(np.isnan(values) & (running_s > bound_s), np.inf, values)
        return values[: _settled(values)]

    def missed(self, objective: Objective) -> FloatArray:
        """Return the missed share of every settled request, shape (m,), values in [0, 1]."""
        return self.beyond(objective.metric, objective.max_ms / 1000.0)

    def late(self, objective: Objective) -> NDArray[np.bool_]:
        """Return which settled requests miss the objective by themselves, shape (m,).

        A request misses an ``itl`` objective if the percentile of its own gaps does.
        """
        allowed = objective.allowed_share if objective.metric == "itl" else 0.0
        return self.missed(objective) > allowed

    def beyond(self, metric: Metric, bound_s: float) -> FloatArray:
        """Return the share of each settled request that is later than `bound_s`, shape (m,)."""
        values = self.latency_s(metric, bound_s)
        if metric != "itl":
            return (values > bound_s).astype(np.float64)
        shares = np.ones(len(values))
        for i in np.flatnonzero(np.isfinite(values)).tolist():
            gaps = self.gaps_s[i]
            shares[i] = sum(gap > bound_s for gap in gaps) / len(gaps) if gaps else 0.0
        return shares

    def values_s(self, metric: Metric, bound_s: float = np.inf) -> FloatArray:
        """Return what a percentile of the metric is taken over: requests, or all gaps for itl.

        A failed request counts as one infinite value per expected gap.
        """
        values = self.latency_s(metric, bound_s)
        if metric != "itl":
            return values
        known = [len(gaps) for gaps in self.gaps_s[: len(values)] if gaps]
        expected = max(known, default=1)
        parts = [
            np.asarray(self.gaps_s[i], dtype=np.float64)
            if np.isfinite(values[i])
            else np.full(expected, np.inf)
            for i in range(len(values))
        ]
        return np.concatenate(parts) if parts else np.empty(0)


def _settled(values: FloatArray) -> int:
    """Return the number of leading values that are known."""
    unknown = np.flatnonzero(np.isnan(values))
    return int(unknown[0]) if len(unknown) else len(values)
