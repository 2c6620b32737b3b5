"""The executor of a Ray cluster: a placement group is the lease, a streaming task runs a worker."""

import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from optikit_assets.engines import Hardware
from optikit_assets.errors import MachineError, NodeLostError, StageTimeoutError, WorkerKilledError
from optikit_assets.execution.base import (
    NOBODY,
    Lease,
    NodeStatus,
    OnRecord,
    Origin,
    ResultT,
    ignore,
    limit_of,
)
from optikit_assets.execution.conversation import Conversation, machine_error
from optikit_assets.execution.ray.groups import PlacementGroups
from optikit_assets.execution.ray.guard import Order, Report
from optikit_assets.execution.ray.leases import ClusterLease, ClusterLeases
from optikit_assets.execution.ray.node import converse, end
from optikit_assets.execution.ray.pool import GPU, SLOT, Pool, condition
from optikit_assets.execution.ray.session import Session, faults_of
from optikit_assets.execution.started_workers import note_start
from optikit_assets.execution.worker_process import Ended
from optikit_assets.workers.messages import Message

_POLL_S = 0.1
# More than a node takes to end a worker (`node.end`), and to start the task that does.
_END_LIMIT_S = 60.0
# Nothing but the end of a task comes after the end of its worker.
_LAST_WORD_S = 5.0

_converse = ray.remote(num_cpus=0, max_retries=0, num_returns="streaming")(converse)
_end = ray.remote(num_cpus=0, max_retries=0)(end)


class RayExecutor:
    """Runs every worker in its stage environment on a node of a Ray cluster.

    The process that asks is in the control environment, on a machine that joined the cluster as a
    node without resources. Where a node has its state and its stage environments, the node says.

    Parameters
    ----------
    address
        HOST:PORT of the cluster's head.
    home
        OPTIKIT_HOME of this machine: the ledger of started workers.
    selector
        Ray's label selector of the nodes that are this executor's hardware pool, e.g.
        ``{"ray.io/accelerator-type": "H100"}``; by default all that have cards.
    without_cards
        Whether nodes of the pool have no GPUs; asked for only while the pool has no node.
    scale_up_s
        Longest wait for a node of a pool that has none.
    timeout_s
        Longest run of a worker, but of one whose request may take longer (`limit_of`).
    lease_timeout_s
        Longest wait for accelerators.
    clock
        Seconds of a clock that never goes back, for both limits.
    """

    def __init__(
        self,
        address: str,
        home: Path,
        *,
        selector: Mapping[str, str] | None = None,
        without_cards: bool = False,
        scale_up_s: float = 0.0,
        timeout_s: float = 6 * 3600.0,
        lease_timeout_s: float = 24 * 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.home = home
        self.timeout_s = timeout_s
        self._clock = clock
        self._session = Session(address)
        resource = SLOT if without_cards else GPU
        self._pool = Pool(
            self._session, selector or {}, resource=resource, scale_up_s=scale_up_s, clock=clock
        )
        self._leases = ClusterLeases(
            PlacementGroups(self._pool),
            timeout_s=lease_timeout_s,
            grows_within_s=scale_up_s,
            clock=clock,
        )

    def hardware(self) -> Hardware:
        """Return what the nodes of the pool have."""
        return self._pool.hardware()

    def environment(self, name: str) -> str:
        """Return the digest of what is installed on the nodes of the pool."""
        return self._pool.environment(name)

    def variables(self) -> Mapping[str, str]:
        """Return the variables of the nodes that results depend on."""
        return self._pool.variables()

    def nodes(self) -> Sequence[NodeStatus]:
        """Look at the head and at every node that has cards."""
        every = self._pool.all_nodes()
        head = NodeStatus(
            f"Ray head {self._session.address}",
            f"Ray {ray.__version__}, {len(every)} nodes",
        )
        return [head, *(condition(node) for node in every if node.cards)]

    @property
    def slots(self) -> int:
        """How many cards the nodes of the pool have that are alive."""
        self._pool.grow_from_nothing()
        return sum(node.cards for node in self._pool.nodes())

    def lease(
        self, accelerators: int = 1, stop: threading.Event | None = None
    ) -> AbstractContextManager[Lease]:
        """Hold cards of one node; see `Executor.lease`."""
        return self._leases.lease(accelerators, stop)

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
        assert isinstance(lease, ClusterLease)
        conversation = Conversation(worker, on_record)
        remote = _RemoteWorker(self._pool, worker, request.model_dump(mode="json"), lease)
        limit_s = limit_of(request, self.timeout_s)
        deadline = self._clock() + limit_s
        noted = False
        try:
            with remote:
                while remote.ended is None:
                    conversation.take(remote.messages(_POLL_S))
                    if remote.log_file and not noted:
                        noted = True
                        note_start(self.home, worker, remote.node, remote.log_file, origin)
                    self._session.check()
                    if lease.stop.is_set():
                        raise WorkerKilledError(f"the {worker} worker was broken off")
                    if self._clock() > deadline:
                        raise StageTimeoutError(
                            f"the {worker} worker ran past its limit of {limit_s:.0f} s and "
                            f"was killed; log: {remote.log_file} on node {remote.node}"
                        )
        finally:
            # Finished work may be among what it sent on its way out.
            conversation.take_last(remote.last_messages)
            for problem in remote.problems:
                origin.log.error(f"the {worker} worker wrote {problem}")
        return conversation.outcome(remote.ended, result_model)


class _RemoteWorker:
    """A worker on a node; a context manager that leaves nothing of it running there."""

    def __init__(
        self, pool: Pool, worker: str, request: Mapping[str, Any], lease: ClusterLease
    ) -> None:
        # What needs no card runs on any node of the pool.
        self._node_id = lease.node_id or pool.nodes()[0].id
        self._place = (
            NodeAffinitySchedulingStrategy(self._node_id, soft=False)
            if lease.group is None
            else PlacementGroupSchedulingStrategy(lease.group)
        )
        facts = pool.facts(self._node_id)
        self._session = pool.session
        self._order = Order(
            token=uuid.uuid4().hex,
            worker=worker,
            request=dict(request),
            env=lease.env(),
            home=facts.home,
            environments_home=facts.environments_home,
        )
        self.node = pool.name(self._node_id)
        self.log_file = ""
        self.ended: Ended | None = None
        self.problems: list[str] = []
        self.last_messages: list[dict[str, Any]] = []
        self._reports: Any = None

    def __enter__(self) -> "_RemoteWorker":
        self._reports = _converse.options(scheduling_strategy=self._place).remote(
            self._order.model_dump()
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.ended is None:
            self._end()
        else:
            self._let_the_task_end()

    def messages(self, timeout_s: float) -> list[dict[str, Any]]:
        """Return what came within `timeout_s` seconds; the worker may have ended with it.

        Raises
        ------
        NodeLostError
            If nothing more will come.
        MachineError
            If the node could not run it.
        """
        if not ray.wait([self._reports], timeout=timeout_s)[0]:
            return []
        lost = f"the {self._order.worker} worker on node {self.node}"
        try:
            with faults_of(lost):
                said: Any = ray.get(next(self._reports))
            report = Report.model_validate_json(said)
        except StopIteration:
            raise NodeLostError(f"{lost} was lost: what ran it there was killed") from None
        self.log_file = report.log_file or self.log_file
        self.problems += report.problems
        if report.fault is not None:
            kind, message = report.fault
            raise (machine_error(kind) or MachineError)(f"{message} (node {self.node})")
        if report.ended is not None:
            where = f"{report.ended.log_file} on node {self.node}"
            self.ended = replace(report.ended, log_file=where)
        return list(report.messages)

    def _let_the_task_end(self) -> None:
        """Wait for it: with its placement group, Ray would kill the process that ran it."""
        deadline = time.monotonic() + _LAST_WORD_S
        with suppress(StopIteration, RayError):
            while time.monotonic() < deadline:
                if ray.wait([self._reports], timeout=_POLL_S)[0]:
                    next(self._reports)

    def _end(self) -> None:
        """End what is left of the worker, and wait until it is gone.

        Asked on the node, a guard sends what the worker still says. Where nobody can be asked,
        Ray kills the task, and the guard notices.
        """
        there = NodeAffinitySchedulingStrategy(self._node_id, soft=False)
        deadline = time.monotonic() + _END_LIMIT_S
        try:
            if not self._session.head_answers():
                raise NodeLostError("nobody can be asked to end it")
            ending = _end.options(scheduling_strategy=there).remote(self._order.token)
            while time.monotonic() < deadline and not ray.wait([ending], timeout=_POLL_S)[0]:
                self._session.check()
            ray.get(ending, timeout=0)
            while self.ended is None and time.monotonic() < deadline:
                self.last_messages += self.messages(_POLL_S)
        except (RayError, GetTimeoutError, WorkerKilledError):
            ray.cancel(self._reports, force=True)
