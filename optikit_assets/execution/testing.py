"""An executor for tests of what asks for workers: they are functions of the process that asks."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import psutil

from optikit_assets.engines import Hardware
from optikit_assets.environments.layout import environment_path
from optikit_assets.errors import OptikitError, StageError, WorkerKilledError
from optikit_assets.execution.base import (
    NOBODY,
    Lease,
    NodeStatus,
    OnRecord,
    Origin,
    ResultT,
    ignore,
    this_machine,
)
from optikit_assets.execution.conversation import Conversation
from optikit_assets.execution.leases import MachineLeases
from optikit_assets.faults import machine_fault
from optikit_assets.settings import settings
from optikit_assets.workers.channel import RECORD, Emit
from optikit_assets.workers.inputs import environment_digest, variables_here
from optikit_assets.workers.messages import Message
from optikit_assets.workers.records import Record

Work = Callable[[str, Message, Lease, Emit], Message]
"""Called with the worker's name, its request, its lease, and what takes its records."""


class InProcessExecutor:
    """Calls a function for every worker.

    Requests, records and results pass through JSON, as on their way to a worker and back. What is
    broken off ends with its next record, and the processes that it started with it.

    Parameters
    ----------
    work
        Does what the workers would do. A `StageError` or `WorkerKilledError` of it is the
        executor's own; any other error is the worker's.
    hardware
        What the machine is said to have.
    folder
        For the lock files of leases.
    lease_timeout_s
        Longest wait for accelerators.
    """

    def __init__(
        self, work: Work, hardware: Hardware, folder: Path, *, lease_timeout_s: float = 60.0
    ) -> None:
        self._work = work
        self._hardware = hardware
        self._leases = MachineLeases(folder, timeout_s=lease_timeout_s)

    def hardware(self) -> Hardware:
        """Return what the machine is said to have."""
        return self._hardware

    def environment(self, name: str) -> str:
        """Return the digest of what this machine has."""
        return environment_digest(environment_path(settings().envs_home, name))

    def variables(self) -> Mapping[str, str]:
        """Return those of this process."""
        return variables_here()

    def nodes(self) -> Sequence[NodeStatus]:
        """Return what the machine is said to have."""
        return [this_machine(self._hardware)]

    @property
    def slots(self) -> int:
        """How many leases of one device can be held at a time."""
        return self._hardware.count

    def lease(
        self, accelerators: int = 1, stop: threading.Event | None = None
    ) -> AbstractContextManager[Lease]:
        """Hold devices; see `Executor.lease`."""
        return self._leases.lease(self._hardware, accelerators, stop)

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
        """Call the function; see `Executor.run`."""
        conversation = Conversation(worker, on_record)

        def emit(record: Record) -> None:
            if lease.stop.is_set():
                raise WorkerKilledError(f"the {worker} worker was broken off")
            conversation.take([{"type": RECORD, "body": record.model_dump(mode="json")}])

        origin.log.info(f"called the {worker} worker")
        sent = type(request).model_validate_json(request.model_dump_json())
        try:
            with _nothing_left():
                result = self._work(worker, sent, lease, emit)
        except (StageError, WorkerKilledError):
            raise
        except Exception as error:
            fault = machine_fault(error)
            shown = fault or error
            name = type(shown).__name__
            said = str(shown) if isinstance(shown, OptikitError) else f"{name}: {shown}"
            message = f"the {worker} worker failed: {said}"
            raise (type(fault) if fault else StageError)(message) from error
        return result_model.model_validate_json(result.model_dump_json())


@contextmanager
def _nothing_left() -> Iterator[None]:
    """Kill the processes that were started in the context, by this one or by one of those.

    Whose they are cannot be told apart: work that starts processes is called one at a time.
    """
    ours = psutil.Process()
    before = set(ours.children(recursive=True))
    try:
        yield
    finally:
        for child in set(ours.children(recursive=True)) - before:
            with suppress(psutil.NoSuchProcess):
                child.kill()
                child.wait(5)
