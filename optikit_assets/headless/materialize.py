"""Materializes one partition in this process; what the driver's processes call."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg
from sqlalchemy.exc import SQLAlchemyError

from optikit_assets import errors
from optikit_assets.defs import partitions
from optikit_assets.defs.assets import ASSETS, resources
from optikit_assets.defs.openings import leave_nothing_behind
from optikit_assets.defs.recorded import DATA_VERSION_TAG, POOL_TAG, recorded
from optikit_assets.environments.layout import prepare_dagster_home
from optikit_assets.errors import StageError, StorageError
from optikit_assets.graph import Node, split_model
from optikit_assets.headless.run_owners import run_tags
from optikit_assets.settings import settings
from resources.stage_runner import Listener, nobody

# The event log has it all; the terminal belongs to the command.
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
# Ctrl-C, as Dagster or a stage names it.
_INTERRUPTS = (dg.DagsterExecutionInterruptedError.__name__, KeyboardInterrupt.__name__)


def open_instance() -> dg.DagsterInstance:
    """Return the instance below OPTIKIT_HOME, whatever DAGSTER_HOME says."""
    os.environ["DAGSTER_HOME"] = str(prepare_dagster_home(settings().home))
    leave_nothing_behind()
    return dg.DagsterInstance.get()


@contextmanager
def opened_instance() -> Iterator[dg.DagsterInstance]:
    """Open the instance for the time of the context.

    Raises
    ------
    StorageError
        In a line, if what Dagster recorded cannot be read.
    """
    try:
        with open_instance() as instance:
            yield instance
    except Exception as error:
        # Dagster's own for PostgreSQL is no DagsterError, and may not be installed.
        if not isinstance(error, SQLAlchemyError | dg.DagsterError) and not isinstance(
            error.__cause__, SQLAlchemyError
        ):
            raise
        first = str(error).partition("\n")[0]
        raise StorageError(
            f"what Dagster recorded cannot be read ({first}); see that its database can be "
            "reached, and run again"
        ) from error


def materialize_node(
    node: Node,
    listener: Listener = nobody,
    named: Mapping[str, Sequence[str]] | None = None,
    tags: Mapping[str, str] | None = None,
    looked_at: Sequence[Node] = (),
) -> str:
    """Materialize one partition and return its recorded status; `listener` hears of its workers.

    Parameters
    ----------
    named
        SLO -> pools that a job names for it, see `Versions.named`.
    tags
        Further tags of the run.
    looked_at
        What a decision is made from: it fails if one of these is not up to date any more.

    Raises
    ------
    OptikitError
        With the message of the error in the asset's body.
    KeyboardInterrupt
        If it was interrupted.
    """
    with open_instance() as instance, run_tags() as owner:
        result = dg.materialize(
            ASSETS,
            selection=[node.asset],
            partition_key=partitions.multi_partition_key(node),
            instance=instance,
            resources=resources(listener, lambda context: looked_at),
            tags={**owner, **_pool_tag(node, named or {}), **(tags or {})},
            raise_on_error=False,
        )
        _raise_failure(result)
        known = recorded(instance, node)
        return known.status if known else "ok"


def materialize_beside(
    asset: dg.AssetsDefinition,
    node: Node,
    config: Mapping[str, object],
    listener: Listener = nobody,
) -> str:
    """Materialize an asset that is no stage at the partition of a node; return its data version.

    Raises
    ------
    StageError
        With the message of the error in the asset's body.
    KeyboardInterrupt
        If it was interrupted.
    """
    with open_instance() as instance, run_tags() as owner:
        register_model(instance, node.key.model)
        needed = asset.required_resource_keys
        result = dg.materialize(
            [asset],
            partition_key=partitions.multi_partition_key(node),
            instance=instance,
            resources={k: v for k, v in resources(listener).items() if k in needed},
            run_config={"ops": {asset.op.name: {"config": dict(config)}}, **_QUIET},
            tags=owner,
            raise_on_error=False,
        )
        _raise_failure(result)
        (made,) = result.asset_materializations_for_node(asset.op.name)
        return (made.tags or {})[DATA_VERSION_TAG]


def _pool_tag(node: Node, named: Mapping[str, Sequence[str]]) -> dict[str, str]:
    names = named.get(node.key.slo) or named.get("")
    return {POOL_TAG: ",".join(names)} if names else {}


def run_job(
    job: dg.JobDefinition, op: str, config: dict[str, object], listener: Listener = nobody
) -> Any:
    """Run a job of one op in this process and return the op's output; as `materialize_node`.

    Raises
    ------
    StageError
        With the message of the error in the op.
    KeyboardInterrupt
        If it was interrupted.
    """
    with open_instance() as instance, run_tags() as tags:
        result = job.execute_in_process(
            run_config={"ops": {op: {"config": config}}, **_QUIET},
            instance=instance,
            resources=resources(listener),
            tags=tags,
            raise_on_error=False,
        )
        _raise_failure(result)
        return result.output_for_node(op)


def register_model(instance: dg.DagsterInstance, key: str) -> None:
    """Add a model version as a partition; names were checked when the version was resolved."""
    split_model(key)
    instance.add_dynamic_partitions(partitions.MODEL_DIMENSION, [key])


def _raise_failure(result: dg.ExecuteInProcessResult) -> None:
    """Raise what made a run fail, if it did; Ctrl-C is no failure of the stage."""
    if result.success:
        return
    name, message = _error(result)
    if name in _INTERRUPTS:
        raise KeyboardInterrupt
    raise StageError(f"{message} (Dagster run {result.run_id})")


def _error(result: dg.ExecuteInProcessResult) -> tuple[str, str]:
    """Return class and message of our own error in a run, else of the innermost one."""
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            while error is not None and error.cls_name not in errors.__all__ and error.cause:
                error = error.cause
            if error is not None:
                name, text = error.cls_name or "", " ".join(error.message.split())
                return name, text.partition(": ")[2] if name in errors.__all__ else text
    return "", "the run failed before its step started"
