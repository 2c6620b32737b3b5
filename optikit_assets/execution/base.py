"""Port Executor: runs the request of a stage where the hardware is.

What asks for a worker knows neither the machine that it will run on nor a path there. It takes a
*lease*, which names the hardware of the node that executes, derives from that record what depends
on hardware, and hands both to `Executor.run`.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from optikit_assets.engines import Hardware
from optikit_assets.errors import AcceleratorError
from optikit_assets.settings import Settings
from optikit_assets.specs import PoolSpec, plugins
from optikit_assets.workers.messages import Message, Request
from optikit_assets.workers.records import Record

log = logging.getLogger("optikit.execution")

ResultT = TypeVar("ResultT", bound=Message)
OnRecord = Callable[[Record], object]


@dataclass(frozen=True)
class Lease:
    """The right to use accelerators of one node until the context that gave it ends.

    Attributes
    ----------
    hardware
        Of the node that executes.
    devices
        The ones held, as ``CUDA_VISIBLE_DEVICES`` names them there; empty on a CPU.
    node
        Name of that node.
    stop
        Breaks off what runs under the lease once it is set, as it did the wait for it.
    """

    hardware: Hardware
    devices: tuple[str, ...] = ()
    node: str = field(default="", compare=False)
    stop: threading.Event = field(default_factory=threading.Event, compare=False)

    def env(self) -> dict[str, str]:
        """Environment that shows a worker exactly the leased devices."""
        # Devices are counted as the driver counts them; CUDA alone would begin with the fastest.
        return {
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": ",".join(self.devices),
        }


@dataclass(frozen=True)
class NodeStatus:
    """A node, or what the nodes have in common, as `optikit doctor` shows it.

    Attributes
    ----------
    details
        What it has, or what is wrong with it.
    what_to_do
        The next step; empty if it is ready.
    """

    name: str
    details: str
    what_to_do: str = ""

    @property
    def ready(self) -> bool:
        """Whether workers can run there."""
        return not self.what_to_do


def this_machine(hardware: Hardware) -> NodeStatus:
    """Return the status of a machine that is its own and only node."""
    return NodeStatus("accelerator", f"{hardware.count} × {hardware.name}")


@dataclass(frozen=True)
class Origin:
    """Who asks for a worker, for the ledger and the log."""

    asset: str | None = None
    partition: str | None = None
    run_id: str | None = None
    log: logging.Logger = field(default=log, compare=False)


NOBODY = Origin()


def ignore(record: Record) -> None:
    """Let a record pass."""


class Executor(Protocol):
    """Where workers run: this machine, or those nodes of a cluster that are in one pool.

    All nodes of an executor are alike in what results depend on (`Hardware.measured`): what is
    planned from `hardware` holds under every lease. `optikit_assets.execution.settle` keeps as many
    workers going as there are slots; `tests/contract/executor.py` says the rest.
    """

    def hardware(self) -> Hardware:
        """Return the hardware of the nodes that execute, which is not that of the caller."""
        ...

    def environment(self, name: str) -> str:
        """Return the digest of what is installed in a stage environment of the nodes.

        `optikit_assets.workers.inputs.environment_digest` makes it there: a worker compares.
        """
        ...

    def variables(self) -> Mapping[str, str]:
        """Return the environment variables of the nodes that results depend on.

        `optikit_assets.workers.inputs.variables_here` reads them there, where workers inherit them.
        """
        ...

    def nodes(self) -> Sequence[NodeStatus]:
        """Look at every node there is, those that cannot be used included.

        Raises
        ------
        MachineError
            If they cannot be asked for.
        """
        ...

    @property
    def slots(self) -> int:
        """How many leases of one accelerator can be held at a time; 1 per node without any."""
        ...

    def lease(
        self, accelerators: int = 1, stop: threading.Event | None = None
    ) -> AbstractContextManager[Lease]:
        """Hold accelerators of one node for the time of the context.

        Requests are served in turn: one for many is not overtaken by later ones for few. Whoever
        holds a lease asks for no second one, which may wait for the first.

        Parameters
        ----------
        accelerators
            How many; 0 for what runs beside them, which waits for nobody.
        stop
            Ends the wait when it is set, and later what runs under the lease.

        Raises
        ------
        AcceleratorError
            If no node has so many, or they do not become free in time or before `stop`.
        """
        ...

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
        """Run one worker under a lease of this executor and return its result.

        However this ends, no process of the worker is left.

        Parameters
        ----------
        worker
            Module in ``optikit_assets.workers``.
        on_record
            Called in this thread for every streamed record in order, also for those of a worker
            that fails later: what is finished is not lost.
        origin
            Who asks.

        Raises
        ------
        MachineError
            If the machine failed, with the class of the worker's own error where it has one;
            `EnvironmentMissingError` if the worker's environment is not installed, does not bring
            the worker up or has another version of it, `WorkerKilledError` if it was broken off,
            `NodeLostError` if its node went away: another lease may be on another one
            (`on_some_node`).
        StageError
            If the worker fails; names its log. `StageTimeoutError` past the limit;
            `ResultMissingError` if it ended well, and what it finished is to be looked up.
        """
        ...


ExecutorFactory = Callable[[Settings, PoolSpec], Executor]
"""Makes what serves one pool; refuses one that it cannot reach with an `AcceleratorError`."""

_EXECUTORS: plugins.Registry[ExecutorFactory] = plugins.Registry(
    "executor", plugins.EXECUTORS, "OPTIKIT_EXECUTOR names it"
)


def register_executor(name: str) -> Callable[[ExecutorFactory], ExecutorFactory]:
    """Register what makes an executor under the name that ``OPTIKIT_EXECUTOR`` chooses it by.

    Other packages register theirs as entry points in the group ``optikit.executors``.
    """
    return _EXECUTORS.register(name)


def get_executor(settings: Settings, pool: PoolSpec) -> Executor:
    """Return the executor of a pool: of the kind that the settings name, an own or a package's.

    Raises
    ------
    UnknownNameError
        If there is none.
    EnvironmentMissingError
        If the package that registered it cannot be imported.
    AcceleratorError
        If it does not reach this pool.
    """
    return _EXECUTORS.get(settings.executor)(settings, pool)


def limit_of(request: Message, least_s: float) -> float:
    """Return how many seconds a worker may run: no less than what it is asked for may take."""
    asked_s = request.longest_s if isinstance(request, Request) else 0.0
    return max(least_s, asked_s)


def check_count(accelerators: int, hardware: Hardware) -> None:
    """Refuse at once what no wait can bring.

    Raises
    ------
    AcceleratorError
        If a node has not so many accelerators.
    """
    if not 0 <= accelerators <= hardware.count:
        raise AcceleratorError(
            f"{accelerators} accelerators asked for, this machine has {hardware.count} "
            f"({hardware.name}); lower tensor_parallel_size or use another machine"
        )
