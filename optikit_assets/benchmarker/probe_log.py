"""The log of a running probe: written by the client's tasks, read by the verdict."""

import math

import numpy as np

from optikit_assets.benchmarker.arrivals import FloatArray
from optikit_assets.benchmarker.client import Flight
from optikit_assets.benchmarker.records import Phase, RequestRecord
from optikit_assets.benchmarker.sample import Sample

_NO_GAPS: list[float] = []


class ProbeLog:
    """Everything that is known of a probe's requests, in arrays that grow no further.

    Finished requests are copied into the arrays once, so that a look costs little however long the
    probe has run.

    Parameters
    ----------
    schedule_s
        Scheduled send times after the start of the probe, shape (n,).
    epoch_s
        The client's clock at the start of the probe.
    """

    def __init__(self, schedule_s: FloatArray, epoch_s: float) -> None:
        n = len(schedule_s)
        self.epoch_s = epoch_s
        self.begun = 0
        self.finished = 0
        self.errors = 0
        self.refused = 0
        self.client_faults = 0
        self.in_flight: dict[int, Flight] = {}
        self._scheduled = schedule_s.copy()
        self._sent = np.full(n, np.nan)
        self._first = np.full(n, np.nan)
        self._last = np.full(n, np.nan)
        self._failed = np.zeros(n, dtype=np.bool_)
        self._input = np.full(n, -1, dtype=np.int64)
        self._output = np.full(n, -1, dtype=np.int64)
        self._expected_input = np.full(n, -1, dtype=np.int64)
        self._expected_output = np.full(n, -1, dtype=np.int64)
        self._gaps: list[list[float]] = [_NO_GAPS] * n
        self._errors: dict[int, str] = {}

    def begin(self, index: int, flight: Flight) -> None:
        """Note that request `index` is being sent; indices come in order.

        In a closed loop, the flight's scheduled time replaces the one given at the start.
        """
        self._scheduled[index] = flight.scheduled_s - self.epoch_s
        self.in_flight[index] = flight
        self.begun = index + 1

    def settle(self, index: int) -> None:
        """Note that request `index` is over, one way or the other."""
        flight = self.in_flight.pop(index)
        self._note_times(index, flight)
        if flight.ok:
            self._last[index] = flight.last_token_s - self.epoch_s
        else:
            self._failed[index] = True
            self._errors[index] = flight.error or "unknown"
            self.errors += 1
        self._input[index] = flight.input_tokens
        self._output[index] = flight.output_tokens
        self._expected_input[index] = flight.expected_input
        self._expected_output[index] = flight.expected_output
        self._gaps[index] = flight.gaps_s
        self.finished += 1
        self.refused = self.refused + 1 if flight.refused else 0
        self.client_faults += flight.client_fault

    def _note_times(self, index: int, flight: Flight) -> None:
        self._sent[index] = flight.sent_s - self.epoch_s
        self._first[index] = flight.first_token_s - self.epoch_s

    def sample(self, now_s: float, start: int) -> Sample:
        """Return what is known at clock time `now_s` of the requests from number `start` on."""
        for index, flight in self.in_flight.items():
            self._note_times(index, flight)
        part = slice(start, max(start, self.begun))
        return Sample(
            now_s=now_s - self.epoch_s,
            scheduled_s=self._scheduled[part].copy(),
            sent_s=self._sent[part].copy(),
            first_token_s=self._first[part].copy(),
            finished_s=self._last[part].copy(),
            failed=self._failed[part].copy(),
            input_tokens=self._input[part].copy(),
            output_tokens=self._output[part].copy(),
            gaps_s=self._gaps[part],
            expected_input=self._expected_input[part].copy(),
            expected_output=self._expected_output[part].copy(),
        )

    def error_examples(self, limit: int = 3) -> tuple[str, ...]:
        """Return the first few different error messages, without those of our own cancelling."""
        messages = [m for m in self._errors.values() if m != "cancelled"]
        return tuple(dict.fromkeys(messages))[:limit]

    def records(
        self, probe: int, warmup: int, measured: int, *, closed: bool
    ) -> list[RequestRecord]:
        """Return a record of every request begun.

        The first `warmup` requests are warm-up, the next `measured` are what the verdict rests on.
        """

        def phase(index: int) -> Phase:
            if index < warmup:
                return "warmup"
            if closed:
                return "closed"
            return "measured" if index < warmup + measured else "tail"

        # Lists, for one value of an array takes longer than all of them together.
        part = slice(0, self.begun)
        times = (self._scheduled, self._sent, self._first, self._last)
        scheduled_s, sent_s, first_s, last_s = (values[part].tolist() for values in times)
        inputs, outputs = self._input[part].tolist(), self._output[part].tolist()
        ok = np.isfinite(self._last[part]).tolist()
        return [
            RequestRecord(
                probe=probe,
                index=i,
                phase=phase(i),
                scheduled_s=round(scheduled_s[i], 6),
                sent_s=_known(sent_s[i]),
                first_token_s=_known(first_s[i]),
                finished_s=_known(last_s[i]),
                input_tokens=inputs[i],
                output_tokens=outputs[i],
                itl_s=tuple([round(gap, 6) for gap in self._gaps[i]]),
                ok=ok[i],
                # A task cancelled before its first step never got to say so.
                error=self._errors.get(i) or (None if ok[i] else "cancelled"),
            )
            for i in range(self.begun)
        ]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
