"""Runs a plan without a daemon: ready partitions in parallel processes, no barrier between stages.

Each process keeps the definitions loaded and materializes one partition after the other with
``dg.materialize`` against the shared instance, so every run is in the UI. A partition that fails
blocks only what depends on it.
"""

import contextlib
import functools
import itertools
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from optikit_assets.errors import OptikitError
from optikit_assets.graph import Node
from optikit_assets.headless.agenda import Agenda, DriverReport, Event
from optikit_assets.headless.plan import NodePlan
from optikit_assets.locks import locked
from optikit_assets.processes import die_with_parent
from optikit_assets.workers.messages import trial_title
from optikit_assets.workers.records import (
    CandidateFailed,
    CandidateFinished,
    ProbeFinished,
    Progress,
    Record,
    ServerStarted,
    Told,
    TrialFailed,
    TrialFinished,
)

_POLL_S = 0.2
STOP_LIMIT_S = 45.0

Materialize = Callable[[Node, Callable[[str, Record], object]], str]


@dataclass(frozen=True)
class AsRuns:
    """Materializes a node as a run of Dagster's; see `materialize_node` for its parameters."""

    named: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    looked_at: Mapping[Node, Sequence[Node]] = field(default_factory=dict)

    def __call__(self, node: Node, listener: Callable[[str, Record], object]) -> str:
        # Loading the graph takes seconds, which a process spends where its output goes to its log.
        from optikit_assets.headless.materialize import materialize_node

        return materialize_node(node, listener, self.named, self.tags, self.looked_at.get(node, ()))


def run_plan(
    plan: list[NodePlan],
    *,
    width: int,
    log_folder: Path,
    materialize: Materialize,
    on_event: Callable[[Event], object] = lambda event: None,
    seconds: Mapping[Node, float] | None = None,
    rooms: Mapping[str, int] | None = None,
) -> DriverReport:
    """Run what is not fresh, upstream first.

    Parameters
    ----------
    plan
        From `make_plan`.
    width
        How many partitions run at a time; those that need an accelerator queue for it.
    log_folder
        Receives the output of the processes.
    materialize
        Runs in the processes, is told what hears of workers, and returns the outcome of a node.
    on_event
        Called in this process as things happen.
    seconds
        How long partitions took before, see `priorities`.
    rooms
        How many partitions of each pool run at a time, see `Agenda`.
    """
    agenda = Agenda(plan, seconds, rooms)
    width = min(width, agenda.to_run)
    start = functools.partial(_start, log_folder, materialize)
    with _workers(width, start) as workers:
        while True:
            for event in agenda.settled():
                on_event(event)
            if agenda.is_over:
                return agenda.report
            for place, worker in enumerate(workers):
                if worker.node is None and (node := agenda.begin()) is not None:
                    if worker.dead:
                        worker.connection.close()
                        workers[place] = start()
                    workers[place].give(node)
            for worker in _with_news(workers):
                for event in worker.news():
                    on_event(event)
                    if event.kind in ("finished", "failed"):
                        agenda.end(event)


@dataclass
class _Worker:
    """One process and what it is doing."""

    process: BaseProcess
    connection: Connection
    log_file: Path
    node: Node | None = None
    dead: bool = False

    def give(self, node: Node) -> None:
        self.node = node
        # A process that died while it had nothing to do shows in its news.
        with contextlib.suppress(OSError):
            self.connection.send(node)

    def news(self) -> Iterator[Event]:
        try:
            while self.connection.poll():
                event: Event = self.connection.recv()
                if event.kind in ("finished", "failed"):
                    self.node = None
                yield event
        except (EOFError, OSError):
            self.dead = True
            node, self.node = self.node, None
            self.process.join(1)
            if node is not None:
                code = self.process.exitcode
                text = f"its process died (exit code {code}); log: {self.log_file}"
                yield Event("failed", node, text)


def _with_news(workers: list[_Worker]) -> list[_Worker]:
    living = [worker for worker in workers if not worker.dead]
    ready = wait([worker.connection for worker in living], timeout=_POLL_S) if living else []
    return [worker for worker in living if worker.connection in ready]


@contextlib.contextmanager
def _workers(width: int, start: Callable[[], _Worker]) -> Iterator[list[_Worker]]:
    """Start processes; on leaving let them end their stage (and its workers), then kill them."""
    workers: list[_Worker] = []
    try:
        workers.extend(start() for _ in range(width))
        yield workers
    finally:
        with _interrupts_ignored():
            _stop(workers)


_numbers = itertools.count()


def _start(log_folder: Path, materialize: Materialize) -> _Worker:
    log_folder.mkdir(parents=True, exist_ok=True)
    spawn = get_context("spawn")
    ours, theirs = spawn.Pipe()
    number = next(_numbers)
    log_file = log_folder / f"driver-{os.getpid()}-{number}.log"
    process = spawn.Process(
        target=_serve, args=(theirs, log_file, materialize), name=f"optikit-driver-{number}"
    )
    process.start()
    theirs.close()
    return _Worker(process, ours, log_file)


def _stop(workers: list[_Worker]) -> None:
    for worker in workers:
        # The last thing each reads, after the stage that it may have to break off first.
        with contextlib.suppress(OSError):
            worker.connection.send(None)
        if worker.node is not None and worker.process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.process.pid, signal.SIGINT)
    deadline = time.monotonic() + STOP_LIMIT_S
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
        if worker.process.is_alive():
            for child in psutil.Process(worker.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            worker.process.kill()
            worker.process.join(5)
        worker.connection.close()


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Keep a second Ctrl-C from breaking off the clean-up, which has a limit of its own."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _serve(connection: Connection, log_file: Path, materialize: Materialize) -> None:
    """Materialize nodes as they come, in a process of its own, whose log is locked meanwhile."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log = log_file.open("a", buffering=1)
    os.dup2(log.fileno(), sys.stdout.fileno())
    os.dup2(log.fileno(), sys.stderr.fileno())
    # Ours alone: a terminal's Ctrl-C reaches the parent, which then asks us to stop.
    os.setpgid(0, 0)
    with contextlib.ExitStack() as held, contextlib.suppress(EOFError, KeyboardInterrupt):
        # One of the same number in another container may have it, and not every disk has locks.
        with contextlib.suppress(OSError):
            held.enter_context(locked(log_file))
        while (node := connection.recv()) is not None:
            connection.send(Event("started", node))

            def tell(worker: str, record: Record, node: Node = node) -> None:
                connection.send(Event("progress", node, describe_record(record)))

            try:
                outcome = materialize(node, tell)
            except OptikitError as error:
                connection.send(Event("failed", node, str(error)))
            except Exception as error:
                traceback.print_exc()
                connection.send(Event("failed", node, f"{type(error).__name__}: {error}"))
            else:
                connection.send(Event("finished", node, outcome=outcome))


def describe_record(record: Record) -> str:
    """Return one line for people about a worker's record."""
    of = f"{record.of}: " if isinstance(record, Told) and record.of else ""
    return of + _described(record)


def _described(record: Record) -> str:
    match record:
        case Progress(text=text):
            return text
        case ServerStarted(engine=engine, server_start_s=seconds):
            return f"{engine} up after {seconds:.0f} s"
        case ProbeFinished(probe=probe):
            return f"{probe.kind} probe at {probe.rate_rps:.2f} req/s: {probe.verdict}"
        case TrialFinished(trial=ended):
            return f"{trial_title(ended.trial)} finished"
        case TrialFailed(trial=ended):
            return f"{trial_title(ended.trial)} failed: {ended.reason}"
        case CandidateFinished(trial=trial):
            return f"{trial_title(trial)} finished"
        case CandidateFailed(trial=trial, reason=reason):
            return f"{trial_title(trial)} failed: {reason}"
