"""Sending the requests of a probe on time."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from optikit_assets.benchmarker.client import Flight, RequestBody
from optikit_assets.benchmarker.endpoint import Target


@dataclass(frozen=True)
class Load:
    """Requests to send.

    Attributes
    ----------
    probe
        Number of the probe in the benchmark; selects the prompts.
    epoch_s
        The client's clock at the start of the probe.
    indices, offsets_s
        Numbers of the requests in the probe, increasing, and when each is due after the start.
    timeout_s
        Limit of a request, from its scheduled time.
    """

    probe: int
    epoch_s: float
    indices: Sequence[int]
    offsets_s: Sequence[float]
    timeout_s: float

    def share(self, number: int, of: int) -> "Load":
        """Return every `of`-th request, from request `number` on."""
        return replace(self, indices=self.indices[number::of], offsets_s=self.offsets_s[number::of])


class Journal(Protocol):
    """Is told of every request."""

    def begin(self, index: int, flight: Flight) -> None:
        """Note that a request is being sent."""
        ...

    def settle(self, index: int) -> None:
        """Note that a request is over, one way or the other."""
        ...


class Sender(Protocol):
    """Sends a load, here or elsewhere. ``fault`` says why it cannot, if so."""

    fault: str

    async def send(self) -> None:
        """Return when the last request was begun."""
        ...

    async def finish(self, *, cancel: bool) -> None:
        """Send no more; cancel what still runs or wait for it, within the requests' limits."""
        ...

    def known_s(self) -> float:
        """Return the time on the client's clock up to which everything was noted."""
        ...

    def cpu_s(self) -> list[float]:
        """Return the processor seconds that each event loop took since the load was given."""
        ...


class LocalSender:
    """Sends from this process."""

    fault = ""

    def __init__(self, target: Target, load: Load, journal: Journal) -> None:
        self._target = target
        self._load = load
        self._journal = journal
        self._tasks: set[asyncio.Task[None]] = set()
        self._cpu_at_start_s = target.client.cpu_s()
        # Requests that are due later than this are left out.
        self.until_s = float("inf")

    @property
    def busy(self) -> bool:
        """Whether a request is running."""
        return bool(self._tasks)

    def known_s(self) -> float:
        return self._target.client.now()

    def cpu_s(self) -> list[float]:
        return [self._target.client.cpu_s() - self._cpu_at_start_s]

    async def send(self) -> None:
        load, now = self._load, self._target.client.now
        for index, offset_s in zip(load.indices, load.offsets_s, strict=True):
            # Made before the wait: building a long prompt must not delay its request.
            body = self._target.body(load.probe, index)
            due_s = load.epoch_s + offset_s
            # Also when late: answers have to be read in between.
            await asyncio.sleep(max(0.0, due_s - now()))
            if due_s > self.until_s:
                return
            flight = Flight(due_s, sent_s=now())
            self._journal.begin(index, flight)
            task = asyncio.create_task(self._send(index, flight, body))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def finish(self, *, cancel: bool) -> None:
        if cancel:
            for task in self._tasks:
                task.cancel()
        # The requests' own limits end the wait.
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _send(self, index: int, flight: Flight, body: RequestBody) -> None:
        try:
            await self._target.client.complete(flight, body, self._load.timeout_s)
        finally:
            if flight.last_token_s != flight.last_token_s and flight.error is None:
                flight.error = "cancelled"
            self._journal.settle(index)
