"""The pools as a Dagster resource: it knows which asset or op asks for a worker, and where."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import dagster as dg

from optikit_assets.engines import Hardware
from optikit_assets.errors import AcceleratorError
from optikit_assets.execution import Executor, Lease, OnRecord, Origin, Pools, ignore
from optikit_assets.execution.pace import Pace
from optikit_assets.graph import pool_name
from optikit_assets.settings import settings
from optikit_assets.specs import LOCAL
from optikit_assets.workers.messages import Message
from optikit_assets.workers.records import Progress, Record
from resources.run_span import run_span

ResultT = TypeVar("ResultT", bound=Message)
Listener = Callable[[str, Record], object]
"""Told of every record that a worker streams, beside the stage itself: for progress lines."""


Context = dg.AssetExecutionContext | dg.OpExecutionContext


def nobody(worker: str, record: Record) -> None:
    """Hear of nothing."""


@dataclass(frozen=True)
class PoolRunner:
    """Runs workers on one pool."""

    name: str
    pools: Pools
    listener: Listener

    @property
    def executor(self) -> Executor:
        """Of the pool: grants leases."""
        return self.pools.executor(self.name)

    @property
    def hardware(self) -> Hardware:
        """Of the nodes that execute."""
        return self.pools.hardware(self.name)

    def say(
        self, context: Context, pace: Pace, text: str, done: int, total: int, worker: str = ""
    ) -> None:
        """Tell people how far a stage is, with an estimate: the event log, and whoever listens.

        Parameters
        ----------
        pace
            Of this stage, or of this worker.
        text
            What has just ended or begins.
        done, total
            Parts.
        worker
            Whose word it is; the stage's own otherwise.
        """
        log: logging.Logger = context.log
        said = "; ".join(filter(None, (text, pace.left(done, total))))
        log.info(said)
        self.listener(worker, Progress(done=done, total=total, text=said))

    def run(
        self,
        context: Context,
        worker: str,
        request: Message,
        result_model: type[ResultT],
        lease: Lease,
        on_record: OnRecord = ignore,
    ) -> ResultT:
        """Run one worker for what `context` is of; see `Executor.run`.

        Raises
        ------
        AcceleratorError
            If the lease is not on the hardware that was planned for: versions name that one.
        """
        if lease.hardware.measured() != self.hardware.measured():
            raise AcceleratorError(
                f"a lease on {lease.hardware.label} was granted where {self.hardware.label} was "
                "planned for; an executor has nodes of one kind"
            )

        pace = Pace()

        def tell(record: Record) -> None:
            if isinstance(record, Progress):
                text = f"{record.of}: {record.text}" if record.of else record.text
                self.say(context, pace, text, record.done, record.total, worker)
            else:
                self.listener(worker, record)
            on_record(record)

        log: logging.Logger = context.log
        origin = Origin(
            asset=context.asset_key.to_user_string() if context.has_assets_def else None,
            partition=context.partition_key if context.has_partition_key else None,
            run_id=context.run.run_id,
            log=log,
        )
        return self.executor.run(
            worker, request, result_model, lease, on_record=tell, origin=origin
        )


class OnPools:
    """What is asked of pools by the part of a key that stands for one."""

    pools: Any
    listener: Any

    def on(self, pool: str | None) -> PoolRunner:
        """Return what runs workers on one pool, by the part of a key that stands for it."""
        return PoolRunner(pool_name(pool), self.pools, self.listener)

    def hardware(self, pool: str | None) -> Hardware:
        """Return that of a pool's nodes."""
        return self.on(pool).hardware

    def environment(self, pool: str | None, name: str) -> str:
        """Return the digest of a stage environment of a pool's nodes."""
        return self.pools.environment(pool_name(pool), name)

    def variables(self, pool: str | None) -> Mapping[str, str]:
        """Return the environment variables of a pool's nodes that results depend on."""
        return self.pools.variables(pool_name(pool))


@dataclass(frozen=True)
class PoolRunners(OnPools):
    """Runs workers on pools that are not those of the run."""

    pools: Pools
    listener: Listener


class StageRunnerResource(OnPools, dg.ConfigurableResource):
    """Runs the workers of stages on pools."""

    pools: dg.ResourceDependency[Pools]
    listener: dg.ResourceDependency[Listener]

    @classmethod
    def over(
        cls, make_pools: Callable[[], Pools], listener: Listener = nobody
    ) -> "StageRunnerResource":
        """Return a runner; its pools are made anew for every run."""

        @contextmanager
        def pools(context: dg.InitResourceContext) -> Iterator[Pools]:
            with run_span(context):
                yield make_pools()

        return cls(
            pools=dg.ResourceDefinition(pools),
            listener=dg.ResourceDefinition.hardcoded_resource(listener),
        )

    def here(self) -> PoolRunner:
        """Return what runs workers on this machine, for what has to be asked from here."""
        return PoolRunner(LOCAL, Pools.here(settings()), self.listener)
