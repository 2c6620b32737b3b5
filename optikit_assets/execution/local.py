"""The executor that needs no set-up: workers are subprocesses on this machine."""

import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from optikit_assets.engines import Hardware, detect
from optikit_assets.environments.layout import environment_path
from optikit_assets.errors import AcceleratorError, StageTimeoutError, WorkerKilledError
from optikit_assets.execution.base import (
    NOBODY,
    Lease,
    NodeStatus,
    OnRecord,
    Origin,
    ResultT,
    ignore,
    limit_of,
    register_executor,
    this_machine,
)
from optikit_assets.execution.conversation import Conversation
from optikit_assets.execution.leases import MachineLeases
from optikit_assets.execution.started_workers import note_start
from optikit_assets.execution.worker_process import WorkerProcess
from optikit_assets.processes import log_tail
from optikit_assets.settings import Settings
from optikit_assets.specs import PoolSpec
from optikit_assets.workers.inputs import environment_digest, variables_here
from optikit_assets.workers.messages import Message

_POLL_S = 0.1


class LocalExecutor:
    """Runs every worker as a subprocess in its stage environment on this machine.

    Parameters
    ----------
    home
        OPTIKIT_HOME: leases, logs and the ledger of started workers.
    environments_home
        OPTIKIT_HOME of the stage environments; the same by default.
    detect_hardware
        Says what this machine has; asked once.
    timeout_s
        Longest run of a worker, but of one whose request may take longer (`limit_of`).
    lease_timeout_s
        Longest wait for accelerators.
    clock
        Seconds of a clock that never goes back, for both limits.
    """

    def __init__(
        self,
        home: Path,
        environments_home: Path | None = None,
        *,
        detect_hardware: Callable[[], Hardware] = detect,
        timeout_s: float = 6 * 3600.0,
        lease_timeout_s: float = 24 * 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.home = home
        self.timeout_s = timeout_s
        self._environments_home = environments_home or home
        self._detect = detect_hardware
        self._leases = MachineLeases(home / "leases", timeout_s=lease_timeout_s, clock=clock)
        self._clock = clock
        self._hardware: Hardware | None = None

    def hardware(self) -> Hardware:
        """Return what this machine has."""
        if self._hardware is None:
            self._hardware = self._detect()
        return self._hardware

    def environment(self, name: str) -> str:
        """Return the digest of what is installed now."""
        return environment_digest(environment_path(self._environments_home, name))

    def variables(self) -> Mapping[str, str]:
        """Return those of this process."""
        return variables_here()

    def nodes(self) -> Sequence[NodeStatus]:
        """Return what this machine has."""
        return [this_machine(self.hardware())]

    @property
    def slots(self) -> int:
        """How many leases of one device can be held at a time; 1 without a GPU."""
        return self.hardware().count

    def lease(
        self, accelerators: int = 1, stop: threading.Event | None = None
    ) -> AbstractContextManager[Lease]:
        """Hold devices; see `Executor.lease`."""
        return self._leases.lease(self.hardware(), accelerators, stop)

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
        process = WorkerProcess(
            worker,
            request.model_dump(mode="json"),
            lease.env(),
            home=self.home,
            environments_home=self._environments_home,
        )
        note_start(self.home, worker, platform.node(), str(process.log_file), origin)
        conversation = Conversation(worker, on_record)
        limit_s = limit_of(request, self.timeout_s)
        deadline = self._clock() + limit_s
        try:
            with process:
                while (code := process.wait(_POLL_S)) is None:
                    conversation.take(process.messages())
                    if lease.stop.is_set():
                        raise WorkerKilledError(f"the {worker} worker was broken off")
                    if self._clock() > deadline:
                        raise StageTimeoutError(
                            f"the {worker} worker ran past its limit of {limit_s:.0f} s and "
                            f"was killed; log: {process.log_file}",
                            log_tail(process.log_file),
                        )
        finally:
            # Finished work may be among what it sent on its way out.
            conversation.take_last(process.messages())
            for problem in process.problems:
                origin.log.error(f"the {worker} worker wrote {problem}")
        return conversation.outcome(process.ended(code), result_model)


@register_executor("local")
def local_executor(settings: Settings, pool: PoolSpec) -> LocalExecutor:
    """Return the executor of this machine."""
    if pool.labels:
        raise AcceleratorError(
            f"pool {pool.name} is selected by labels of a Ray cluster, and OPTIKIT_EXECUTOR is "
            "local: set it to ray, or name pools that this machine is"
        )
    return LocalExecutor(settings.home, settings.envs_home)
