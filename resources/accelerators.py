"""Leases of accelerators: one ``flock`` per device, released by the kernel when a holder dies."""

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import dagster as dg
from pydantic import Field, PrivateAttr

from optikit_assets.engines import Hardware, detect
from optikit_assets.errors import AcceleratorError
from optikit_assets.processes import kill_orphans

_POLL_S = 0.2


@dataclass(frozen=True)
class Lease:
    """Devices held; without a GPU the one CPU slot, and ``devices`` is empty."""

    hardware: Hardware
    devices: tuple[str, ...]

    def env(self) -> dict[str, str]:
        """Environment that shows a worker exactly the leased devices."""
        if self.hardware.kind == "cpu":
            return {"CUDA_VISIBLE_DEVICES": ""}
        return {"CUDA_VISIBLE_DEVICES": ",".join(self.devices)}


class AcceleratorsResource(dg.ConfigurableResource):
    """Hands out devices; a machine without a GPU has exactly one CPU slot."""

    root: str = Field(description="Folder of the lock files.")
    timeout_s: float = Field(default=24 * 3600.0, description="Longest wait for free devices.")
    _hardware: Hardware | None = PrivateAttr(default=None)

    @property
    def hardware(self) -> Hardware:
        """What this machine has; detected once."""
        if self._hardware is None:
            self._hardware = detect()
        return self._hardware

    @property
    def slots(self) -> int:
        """How many leases of one device can be held at a time."""
        return self.hardware.count if self.hardware.kind != "cpu" else 1

    @contextlib.contextmanager
    def lease(self, count: int = 1, stop: threading.Event | None = None) -> Iterator[Lease]:
        """Hold `count` devices for the time of the context.

        Parameters
        ----------
        count
            How many devices.
        stop
            Ends the wait for devices when it is set; another process may hold them for hours.

        Raises
        ------
        AcceleratorError
            If the machine has fewer devices, or they do not become free within ``timeout_s`` or
            before `stop`.
        """
        if not 1 <= count <= self.slots:
            raise AcceleratorError(
                f"{count} accelerators asked for, this machine has {self.slots} "
                f"({self.hardware.name}); lower tensor_parallel_size or use another machine"
            )
        held = self._acquire(count, stop)
        try:
            # A device is free for us only without the engine that a killed holder left on it.
            for orphan in kill_orphans():
                dg.get_dagster_logger().warning(str(orphan))
            devices = self.hardware.devices
            yield Lease(self.hardware, tuple(devices[slot] for slot in sorted(held) if devices))
        finally:
            for lock in held.values():
                lock.close()

    def _acquire(self, count: int, stop: threading.Event | None) -> dict[int, IO[str]]:
        Path(self.root).mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + self.timeout_s
        while True:
            held: dict[int, IO[str]] = {}
            for slot in range(self.slots):
                lock = self._try_lock(slot)
                if lock is not None:
                    held[slot] = lock
                if len(held) == count:
                    return held
            # All or nothing: two holders of half of what they need would wait for each other.
            for lock in held.values():
                lock.close()
            if time.monotonic() > deadline:
                raise AcceleratorError(
                    f"no {count} of {self.slots} accelerators became free within "
                    f"{self.timeout_s:.0f} s; holders are named in {self.root}"
                )
            if stop is not None and stop.is_set():
                raise AcceleratorError(f"the wait for {count} accelerators was broken off")
            time.sleep(_POLL_S)

    def _try_lock(self, slot: int) -> IO[str] | None:
        lock = (Path(self.root) / f"{self.hardware.kind}-{slot}.lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return None
        lock.truncate(0)
        lock.write(f"pid {os.getpid()}\n")
        lock.flush()
        return lock
