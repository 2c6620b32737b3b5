"""Client processes: what one event loop cannot send, several send together.

A probe has one schedule. Its requests are dealt out in turn, each process sends its share at the
times on the machine's monotonic clock that the schedule says, and reports in small batches; the log
in this process is the only one that is judged.
"""

import asyncio
import contextlib
import math
import os
import pickle
import struct
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from optikit_assets.benchmarker.client import Flight
from optikit_assets.benchmarker.endpoint import Target
from optikit_assets.benchmarker.probe_log import ProbeLog
from optikit_assets.benchmarker.sending import Load
from optikit_assets.errors import StageError
from optikit_assets.locations import WORKER_PATH
from optikit_assets.processes import OwnedProcess
from optikit_assets.scratch import scratch

# What a request and each of its tokens cost one core, and how busy a core sends on time (measured:
# benchmarks/client.py, tokens that come one by one).
_REQUEST_S = 450e-6
_TOKEN_S = 25e-6
_MOST_BUSY = 0.7

_START_LIMIT_S = 60.0
_POLL_S = 0.1
# Batches come twenty times a second, also when there is nothing to tell.
_SILENCE_S = 10.0
# So far ahead all processes stop together: the requests sent are then the first so many.
_STOP_LEAD_S = 0.1
_GRACE_S = 2.0
_BUFFER_BYTES = 2**22
_LENGTH = struct.Struct("!Q")


@dataclass(frozen=True)
class Stop:
    """Begin nothing that is due after ``until_s``; then cancel what runs, or let it end."""

    until_s: float
    cancel: bool


@dataclass(frozen=True)
class Batch:
    """What became of the requests of one process up to ``known_s``.

    Its event loop took ``cpu_s`` processor seconds since it was given the load.
    ``running`` were begun, or got their first token, since the last batch; ``settled`` are over.
    After the batch that is ``last`` comes none until the next load.
    """

    known_s: float
    cpu_s: float
    running: list[tuple[int, Flight]]
    settled: list[tuple[int, Flight]]
    last: bool


def tell(writer: asyncio.StreamWriter, message: object) -> None:
    """Send one message to the other side."""
    content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    writer.write(_LENGTH.pack(len(content)) + content)


async def hear(reader: asyncio.StreamReader) -> Any:
    """Return the next message.

    Raises
    ------
    asyncio.IncompleteReadError
        The other side is gone.
    """
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    # Both ends are ours, and the socket lies in a folder that only this user can enter.
    return pickle.loads(await reader.readexactly(length))


def processes_needed(rate_rps: float, output_tokens: int) -> int:
    """Return how many processes, each with a core of its own, send at this rate on time."""
    busy = rate_rps * (_REQUEST_S + output_tokens * _TOKEN_S)
    return max(1, math.ceil(busy / _MOST_BUSY))


@dataclass
class ClientProcess:
    """A running client process and the connection to it."""

    number: int
    owned: OwnedProcess
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def kill(self) -> None:
        """Leave nothing of it."""
        self.hang_up()
        self.owned.terminate()

    def hang_up(self) -> None:
        """Close the connection, which it takes as its end."""
        self.writer.transport.abort()


class ProcessPool:
    """The client processes of one benchmark, started when they are first needed.

    An async context manager that leaves none running. They end with this process, too.

    Parameters
    ----------
    target
        The endpoint that they send to.
    output_tokens
        Length of the longest answer.
    processes
        How many send each probe; None: as many as its rate needs, at most one per core.
    """

    def __init__(self, target: Target, output_tokens: int, processes: int | None = None) -> None:
        if processes is not None and processes < 1:
            raise ValueError(f"processes must be at least 1, got {processes}")
        self._target = target
        self._output_tokens = output_tokens
        self._processes = processes
        self._started: list[ClientProcess] = []
        self._hellos: dict[int, asyncio.Future[Any]] = {}
        self._open = contextlib.ExitStack()
        self._folder: Path | None = None
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> "ProcessPool":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self._started:
            process.hang_up()
        # One turn of the event loop closes the sockets.
        await asyncio.sleep(0)
        for process in self._started:
            process.owned.wait(_GRACE_S)
            process.kill()
        self._started.clear()
        if self._server is not None:
            self._server.close()
        self._open.close()

    def count(self, rate_rps: float) -> int:
        """Return how many processes send a probe at this rate."""
        needed = processes_needed(rate_rps, self._output_tokens)
        return self._processes or min(needed, len(os.sched_getaffinity(0)))

    async def for_rate(self, rate_rps: float) -> list[ClientProcess]:
        """Return the processes for a probe at this rate, ready; none if this one suffices.

        Raises
        ------
        StageError
            If a process does not come up.
        """
        count = self.count(rate_rps)
        if count == 1:
            return []
        alive = [process for process in self._started if process.owned.poll() is None]
        for process in self._started:
            if process not in alive:
                process.kill()
        self._started = alive
        while len(self._started) < count:
            await self._start()
        return self._started[:count]

    async def _start(self) -> None:
        if self._folder is None:
            # Only this user can enter it.
            self._folder = self._open.enter_context(scratch("client"))
            self._server = await asyncio.start_unix_server(
                self._connected, self._socket, limit=_BUFFER_BYTES
            )
        number = max((process.number for process in self._started), default=-1) + 1
        owned = OwnedProcess(
            [sys.executable, "-m", "optikit_assets.benchmarker.client_process", str(self._socket)],
            log_file=self._socket.parent / f"client-{number}.log",
            env={**os.environ, "PYTHONPATH": WORKER_PATH},
            name=f"client process {number}",
            grace_s=_GRACE_S,
        )
        with contextlib.ExitStack() as stack:
            stack.enter_context(owned)
            hello = self._hellos[owned.pid] = asyncio.get_running_loop().create_future()
            reader, writer = await _from_new(owned, hello)
            process = ClientProcess(number, owned, reader, writer)
            tell(writer, replace(self._target, client=self._target.client.unopened()))
            await _from_new(owned, asyncio.ensure_future(hear(reader)))
            self._started.append(process)
            stack.pop_all()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pid = await hear(reader)
        if pid in self._hellos:
            self._hellos.pop(pid).set_result((reader, writer))

    @property
    def _socket(self) -> Path:
        assert self._folder is not None
        return self._folder / "socket"


async def _from_new(owned: OwnedProcess, awaited: asyncio.Future[Any]) -> Any:
    """Return what a process that is coming up has to say."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _START_LIMIT_S
    while loop.time() < deadline and owned.poll() is None:
        await asyncio.wait({awaited}, timeout=_POLL_S)
        if awaited.done() and awaited.exception() is None:
            return awaited.result()
    awaited.cancel()
    code = owned.poll()
    end = f"did not come up within {_START_LIMIT_S:g} s" if code is None else f"ended: {code}"
    raise StageError(f"{owned.name} {end}", owned.log_tail())


class SharedSender:
    """Has a load sent by client processes, and writes their reports into one log."""

    def __init__(
        self, processes: list[ClientProcess], target: Target, load: Load, log: ProbeLog
    ) -> None:
        self.fault = ""
        self._processes = processes
        self._client = target.client
        self._load = load
        self._log = log
        self._begun = asyncio.Event()
        self._readers: dict[int, asyncio.Task[None]] = {}
        self._known_s = dict.fromkeys(range(len(processes)), load.epoch_s)
        self._cpu_s = [0.0] * len(processes)
        self._cpu_at_start_s = target.client.cpu_s()
        # Begun, but not all before them are known to be: the log takes them in order.
        self._early: dict[int, tuple[Flight, bool]] = {}

    def known_s(self) -> float:
        return min(self._known_s.values(), default=self._client.now())

    def cpu_s(self) -> list[float]:
        return [*self._cpu_s, self._client.cpu_s() - self._cpu_at_start_s]

    async def send(self) -> None:
        for number, process in enumerate(self._processes):
            tell(process.writer, self._load.share(number, len(self._processes)))
            self._readers[number] = asyncio.create_task(self._follow(number, process))
        await self._begun.wait()

    async def finish(self, *, cancel: bool) -> None:
        stop = Stop(self._client.now() + _STOP_LEAD_S, cancel)
        for number, task in self._readers.items():
            if not task.done():
                tell(self._processes[number].writer, stop)
        if self._readers:
            limit_s = _SILENCE_S + (0.0 if cancel else self._load.timeout_s)
            _, late = await asyncio.wait(self._readers.values(), timeout=limit_s)
            for number, task in self._readers.items():
                if task in late:
                    task.cancel()
                    self._lose(number, f"did not end its requests within {limit_s:g} s")
            await asyncio.gather(*self._readers.values(), return_exceptions=True)
        self._write_off()

    async def _follow(self, number: int, process: ClientProcess) -> None:
        try:
            while True:
                async with asyncio.timeout(_SILENCE_S):
                    batch: Batch = await hear(process.reader)
                self._take(batch)
                self._known_s[number] = batch.known_s
                self._cpu_s[number] = batch.cpu_s
                if batch.last:
                    # Nothing is left to know of its requests.
                    del self._known_s[number]
                    return
        except TimeoutError:
            self._lose(number, f"reported nothing for {_SILENCE_S:g} s")
        except (asyncio.IncompleteReadError, OSError):
            process.owned.wait(_GRACE_S)
            self._lose(number, f"ended with code {process.owned.poll()}")

    def _lose(self, number: int, what: str) -> None:
        process = self._processes[number]
        tail = process.owned.log_tail(1)
        self.fault = f"{process.owned.name} {what}" + (f" ({tail})" if tail else "")
        process.kill()

    def _take(self, batch: Batch) -> None:
        log = self._log
        for part, over in ((batch.running, False), (batch.settled, True)):
            for index, flight in part:
                if index in log.in_flight:
                    log.in_flight[index] = flight
                    if over:
                        log.settle(index)
                else:
                    self._early[index] = (flight, over)
        while log.begun in self._early:
            self._release(log.begun, *self._early.pop(log.begun))
        if log.begun == len(self._load.indices):
            self._begun.set()

    def _release(self, index: int, flight: Flight, over: bool) -> None:
        self._log.begin(index, flight)
        if over:
            self._log.settle(index)

    def _write_off(self) -> None:
        """Close the log: what a lost process had begun, or left out, has no other end."""
        log, load = self._log, self._load
        for index, flight in list(log.in_flight.items()):
            flight.error = self.fault or "cancelled"
            log.settle(index)
        while self._early:
            index = log.begun
            due_s = load.epoch_s + load.offsets_s[index]
            missing = Flight(due_s, error=f"never sent: {self.fault or 'cancelled'}")
            flight, over = self._early.pop(index, (missing, True))
            if not over:
                flight.error = self.fault or "cancelled"
            self._release(index, flight, over=True)
