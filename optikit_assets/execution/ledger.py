"""Who held which cards when, and for what: every lease of a pool becomes a row of the history.

The row is written by a thread of its own as soon as the lease is used, again every minute while it
is held, and for the last time once the cards are given back. So a stage waits for no disk while it
holds them, and of one that is killed it is known until when it lived.
"""

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from optikit_assets.clock import now as time_of_day
from optikit_assets.engines import Hardware
from optikit_assets.errors import OptikitError
from optikit_assets.execution.base import (
    NOBODY,
    Executor,
    Lease,
    NodeStatus,
    OnRecord,
    Origin,
    ResultT,
    ignore,
    log,
)
from optikit_assets.execution.spans import waited_for, worker_span
from optikit_assets.workers.messages import Message

Keep = Callable[[Mapping[str, Any]], object]
"""Keeps a row; one with the same ``lease`` replaces it."""

_BEAT_S = 60.0


class RecordedExecutor:
    """An executor whose leases are recorded.

    Parameters
    ----------
    inner
        Grants the leases and runs the workers.
    pool
        Name of the pool that it serves.
    keep
        Is handed the rows of the table ``leases``. What it cannot keep is lost with a warning: no
        stage fails for that.
    beat_s
        Seconds between two rows of a lease that is held.
    clock
        Present time, with a time zone.
    """

    def __init__(
        self,
        inner: Executor,
        pool: str,
        keep: Keep,
        *,
        beat_s: float = _BEAT_S,
        clock: Callable[[], datetime] = time_of_day,
    ) -> None:
        self._inner = inner
        self._pool = pool
        self._keep = keep
        self._beat_s = beat_s
        self._clock = clock
        self._held: dict[int, _Held] = {}

    def hardware(self) -> Hardware:
        """Return that of the nodes that execute."""
        return self._inner.hardware()

    def environment(self, name: str) -> str:
        """Return the digest of what is installed there."""
        return self._inner.environment(name)

    def variables(self) -> Mapping[str, str]:
        """Return the variables there that results depend on."""
        return self._inner.variables()

    def nodes(self) -> Sequence[NodeStatus]:
        """Look at every node there is."""
        return self._inner.nodes()

    @property
    def slots(self) -> int:
        """How many leases of one accelerator can be held at a time."""
        return self._inner.slots

    @contextmanager
    def lease(self, accelerators: int = 1, stop: threading.Event | None = None) -> Iterator[Lease]:
        """Hold accelerators; see `Executor.lease`."""
        held: _Held | None = None
        try:
            with waited_for(self._inner.lease(accelerators, stop), self._pool) as lease:
                # What holds no card keeps nobody from one.
                if accelerators:
                    row = self._row(lease, accelerators)
                    held = self._held[id(lease)] = _Held(row, self._save, self._clock)
                try:
                    yield lease
                finally:
                    self._held.pop(id(lease), None)
                    if held is not None:
                        held.over()
        finally:
            # Whoever waits for these cards has them by now.
            if held is not None:
                held.close()

    def run(
        self,
        worker: str,
        request: Message,
        result_model: type[ResultT],
        lease: Lease,
        *,
        on_record: OnRecord = ignore,
        origin: Origin = NOBODY,
    ) -> ResultT:
        """Run a worker; see `Executor.run`."""
        held = self._held.get(id(lease))
        if held is not None:
            held.used_by(worker, origin, self._beat_s)
        with worker_span(worker, origin, lease, on_record) as heard:
            return self._inner.run(
                worker, request, result_model, lease, on_record=heard, origin=origin
            )

    def _row(self, lease: Lease, accelerators: int) -> dict[str, Any]:
        return {
            "lease": uuid.uuid4().hex,
            "pool": self._pool,
            "slots": self.slots,
            "node": lease.node,
            # A node without cards is one slot.
            "devices": list(lease.devices) or ["cpu"],
            "cards": accelerators,
            "held_from": self._clock(),
        }

    def _save(self, row: Mapping[str, Any]) -> None:
        try:
            self._keep(row)
        except (OptikitError, OSError) as error:
            log.warning("a lease of pool %s goes unrecorded: %s", self._pool, error)


class _Held:
    """One lease that is held, and the thread that says so."""

    def __init__(self, row: dict[str, Any], save: Keep, clock: Callable[[], datetime]) -> None:
        self._row = row
        self._save = save
        self._clock = clock
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def used_by(self, worker: str, origin: Origin, beat_s: float) -> None:
        """Say for whom it is, from now on."""
        self._row = {
            **self._row,
            "worker": worker,
            "asset": origin.asset,
            "partition": origin.partition,
            "run_id": origin.run_id,
        }
        if self._thread is None:
            self._thread = threading.Thread(target=self._tell, args=(beat_s,), daemon=True)
            self._thread.start()

    def over(self) -> None:
        """Note that the cards are given back now."""
        self._row = {**self._row, "held_to": self._clock(), "returned": True}
        self._ended.set()

    def close(self) -> None:
        """Write the last row."""
        if self._thread is not None:
            self._thread.join()
        self._save(self._row)

    def _tell(self, beat_s: float) -> None:
        while True:
            self._save({"held_to": self._clock(), "returned": False, **self._row})
            if self._ended.wait(beat_s):
                return
