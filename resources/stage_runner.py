"""The executor as a Dagster resource: it knows which asset or op asks for a worker."""

import logging
from collections.abc import Callable
from typing import TypeVar

import dagster as dg

from optikit_assets.engines import Hardware
from optikit_assets.errors import AcceleratorError
from optikit_assets.execution import Executor, Lease, OnRecord, Origin, ignore
from optikit_assets.workers.messages import Message, Record

ResultT = TypeVar("ResultT", bound=Message)
Listener = Callable[[str, Record], object]
"""Told of every record that a worker streams, beside the stage itself: for progress lines."""


def nobody(worker: str, record: Record) -> None:
    """Hear of nothing."""


class StageRunnerResource(dg.ConfigurableResource):
    """Runs the workers of stages on an executor."""

    executor: dg.ResourceDependency[Executor]
    listener: dg.ResourceDependency[Listener]

    @classmethod
    def on(
        cls, make_executor: Callable[[], Executor], listener: Listener = nobody
    ) -> "StageRunnerResource":
        """Return a runner; the executor is made anew for every run."""
        return cls(
            executor=dg.ResourceDefinition(lambda context: make_executor()),
            listener=dg.ResourceDefinition.hardcoded_resource(listener),
        )

    @property
    def hardware(self) -> Hardware:
        """Of the nodes that execute."""
        return self.executor.hardware()

    def run(
        self,
        context: dg.AssetExecutionContext | dg.OpExecutionContext,
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

        def tell(record: Record) -> None:
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
