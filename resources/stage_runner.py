"""Starts workers in their stage environment, streams their records, and owns their processes."""

import contextlib
import json
import os
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

import dagster as dg
from pydantic import Field

from optikit_assets import errors
from optikit_assets.engines import engine_variables
from optikit_assets.environments.status import python_of
from optikit_assets.environments.variables import worker_variables
from optikit_assets.errors import (
    EnvironmentMissingError,
    MachineError,
    ResultMissingError,
    StageError,
    StageTimeoutError,
    StorageError,
    WorkerKilledError,
)
from optikit_assets.faults import fault_in
from optikit_assets.processes import OwnedProcess, log_tail
from optikit_assets.settings import REPOSITORY
from optikit_assets.workers.channel import ERROR, RECORD, REQUEST_KEY, RESULT, STORAGE_EXIT
from optikit_assets.workers.messages import Message, Record
from resources.accelerators import AcceleratorsResource, Lease
from resources.message_file import MessageFile

ResultT = TypeVar("ResultT", bound=Message)
Item = TypeVar("Item", bound="WorkItem")
Batch = TypeVar("Batch")
Done = TypeVar("Done")
OnRecord = Callable[[Record], object]

ENVIRONMENT_OF = {"compress": "compress", "evaluate": "serve", "benchmark": "serve"}
_POLL_S = 0.1
# Workers in whose own process the model is: what the kernel's out-of-memory killer ends there asked
# for too much memory, which is the trial's failure. Beside a server it is the server that goes.
_HOLDS_MODEL = {"compress", "evaluate"}
_ENDED_BY_OTHERS = {-signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP}

# Listeners of what workers report, beside the caller's own `on_record`: the driver's progress line.
progress_listeners: list[Callable[[str, Record], object]] = []
_running: set[OwnedProcess] = set()


class WorkItem(Protocol):
    """A unit of work that ends in an artifact."""

    @property
    def artifact_key(self) -> str:
        """Key of the artifact."""
        ...


class StageRunnerResource(dg.ConfigurableResource):
    """Runs one worker per request as a local subprocess.

    The interface (`run`, `settle`) is what a runner on a cluster would offer as well.
    """

    home: str = Field(description="OPTIKIT_HOME: logs and the ledger of started workers.")
    environments_home: str = Field(description="OPTIKIT_HOME of the stage environments.")
    timeout_s: float = Field(default=6 * 3600.0, description="Longest run of one worker.")
    accelerators: dg.ResourceDependency[AcceleratorsResource]

    def run(
        self,
        context: dg.AssetExecutionContext | dg.OpExecutionContext,
        worker: str,
        request: Message,
        result_model: type[ResultT],
        lease: Lease,
        on_record: OnRecord = lambda record: None,
    ) -> ResultT:
        """Run one worker on leased accelerators and return its result.

        Parameters
        ----------
        worker
            Module in ``optikit_assets.workers``.
        on_record
            Called in this thread for every streamed record, also for those of a worker that fails
            later: what is finished is not lost.

        Raises
        ------
        MachineError
            If the machine failed, with the class of the worker's own error where it has one:
            `EnvironmentMissingError` also if the worker's stage environment is not installed or
            does not bring the worker up.
        StageError
            If the worker fails; names its log. `StageTimeoutError` past ``timeout_s``;
            `ResultMissingError` if it ended well, and what it finished is to be looked up.
        """
        python = python_of(Path(self.environments_home), ENVIRONMENT_OF[worker])
        log_file = self._log_file(worker)
        self._note_start(context, worker, log_file)
        inbox = _Inbox(worker, on_record)
        messages = MessageFile(worker, context.log)
        with (
            # Entered first: the reader has seen everything only once the session is closed.
            inbox.emptied_at_the_end(),
            dg.open_pipes_session(
                context=context,
                extras={REQUEST_KEY: request.model_dump(mode="json")},
                context_injector=dg.PipesTempFileContextInjector(),
                message_reader=messages,
            ) as session,
        ):
            inbox.session = session
            env = {
                **worker_variables(os.environ, engine_variables()),
                **lease.env(),
                **session.get_bootstrap_env_vars(),
                "PYTHONPATH": str(REPOSITORY),
                "OPTIKIT_HOME": self.home,
            }
            process = OwnedProcess(
                [str(python), "-m", f"optikit_assets.workers.{worker}"],
                log_file=log_file,
                env=env,
                cwd=REPOSITORY,
                name=f"{worker} worker",
            )
            deadline = time.monotonic() + self.timeout_s
            with process, _tracked(process):
                while (code := process.wait(_POLL_S)) is None:
                    messages.read()
                    inbox.take()
                    if time.monotonic() > deadline:
                        raise StageTimeoutError(
                            f"the {worker} worker ran past its limit of {self.timeout_s:.0f} s and "
                            f"was killed; log: {log_file}",
                            process.log_tail(),
                        )
        if code == 0 and inbox.result is not None:
            return result_model.model_validate(inbox.result)
        opened = session.message_handler.received_opened_message
        raise _failure(worker, code, inbox, messages, opened=opened, log_file=log_file)

    def settle(
        self,
        items: Sequence[Item],
        do: Callable[[Sequence[Item], Lease], Mapping[str, str]],
        *,
        is_done: Callable[[str], bool],
        per_worker: int,
        max_attempts: int,
        accelerators: int = 1,
    ) -> dict[str, str]:
        """Bring every item to an end: done, or failed with its reason after `max_attempts`.

        An item that a worker neither finished nor failed was not reached: it goes to the next
        worker, ahead of what failed, and no attempt is counted, unless the worker reached none.

        Parameters
        ----------
        items
            Units of work, each with the key of the artifact it makes; those that are done already
            are not started again.
        do
            Runs one worker on a batch under a lease and returns the reasons of items that failed,
            by artifact key. A `StageError` is a failed attempt of every item of the batch that is
            not done; a `MachineError` is nobody's attempt and ends the whole.
        is_done
            Whether the artifact with this key is complete. Asked anew under the lease, since
            another process may have finished the item while this one waited.
        per_worker
            Batch size: the start of a worker is paid once per batch.

        Returns
        -------
        dict
            Artifact key of every failed item -> reason of its last attempt.
        """
        reasons: dict[str, str] = {}
        attempts: Counter[str] = Counter()
        pending = [item for item in items if not is_done(item.artifact_key)]

        stop = threading.Event()

        def leased(batch: Sequence[Item]) -> Mapping[str, str]:
            with self.accelerators.lease(accelerators, stop) as lease:
                todo = [item for item in batch if not is_done(item.artifact_key)]
                if not todo or stop.is_set():
                    return {}
                try:
                    return do(todo, lease)
                except StageError as error:
                    return {item.artifact_key: str(error) for item in todo}

        while pending:
            batches = [pending[i : i + per_worker] for i in range(0, len(pending), per_worker)]
            outcomes = self._in_parallel(batches, leased, accelerators, stop)
            pending = []
            for batch, failures in zip(batches, outcomes, strict=True):
                reasons.update(failures)
                left = [item for item in batch if not is_done(item.artifact_key)]
                reached_some = failures or len(left) < len(batch)
                attempts.update(list(failures) if reached_some else [i.artifact_key for i in left])
                pending += [item for item in left if attempts[item.artifact_key] < max_attempts]
            pending.sort(key=lambda item: attempts[item.artifact_key])
        unknown = "no reason was reported"
        keys = [item.artifact_key for item in items]
        return {key: reasons.get(key, unknown) for key in keys if not is_done(key)}

    def _in_parallel(
        self,
        items: Sequence[Batch],
        do: Callable[[Batch], Done],
        accelerators: int,
        stop: threading.Event,
    ) -> list[Done]:
        width = min(len(items), self.accelerators.slots // accelerators)
        if width <= 1:
            return [do(item) for item in items]
        with ThreadPoolExecutor(width) as pool:
            futures = [pool.submit(do, item) for item in items]
            try:
                return [future.result() for future in futures]
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                # Leaving the pool waits for its threads; they wait for these processes, the last
                # of which may be starting just now.
                while not all(future.done() for future in futures):
                    for process in list(_running):
                        process.terminate()
                    time.sleep(_POLL_S)
                raise

    def _log_file(self, worker: str) -> Path:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        return Path(self.home) / "logs" / "workers" / f"{stamp}-{worker}-{uuid.uuid4().hex[:6]}.log"

    def _note_start(
        self,
        context: dg.AssetExecutionContext | dg.OpExecutionContext,
        worker: str,
        log_file: Path,
    ) -> None:
        """Append to the ledger of started workers, which answers "what did this run really do?"."""
        entry = {
            "time": time.time(),
            "worker": worker,
            "asset": context.asset_key.to_user_string() if context.has_assets_def else None,
            "partition": context.partition_key if context.has_partition_key else None,
            "run_id": context.run.run_id,
            "log": str(log_file),
        }
        ledger = Path(self.home) / "logs" / "workers.jsonl"
        ledger.parent.mkdir(parents=True, exist_ok=True)
        with ledger.open("a") as out:
            out.write(json.dumps(entry) + "\n")
        context.log.info(f"started the {worker} worker; log: {log_file}")


@contextlib.contextmanager
def _tracked(process: OwnedProcess) -> Iterator[None]:
    _running.add(process)
    try:
        yield
    finally:
        _running.discard(process)


class _Inbox:
    """Sorts the custom messages of one worker as they arrive."""

    def __init__(self, worker: str, on_record: OnRecord) -> None:
        self.worker = worker
        self.on_record = on_record
        self.session: dg.PipesSession | None = None
        self.result: dict | None = None
        self.error: str | None = None
        self.error_class = ""
        self._seen = 0

    @contextlib.contextmanager
    def emptied_at_the_end(self) -> Iterator[None]:
        """Take what is left on leaving, also after a timeout or an interrupt."""
        try:
            yield
        finally:
            self.take()

    def take(self) -> None:
        """Handle the messages that are new since the last call."""
        messages = self.session.get_custom_messages() if self.session else []
        for message in messages[self._seen :]:
            self._seen += 1
            kind, body = message["type"], message["body"]
            if kind == RESULT:
                self.result = body
            elif kind == ERROR:
                self.error, self.error_class = body["message"], body["error_class"]
            elif kind == RECORD:
                record = Record.model_validate(body)
                for listener in progress_listeners:
                    listener(self.worker, record)
                self.on_record(record)


def _failure(
    worker: str, code: int, inbox: _Inbox, messages: MessageFile, *, opened: bool, log_file: Path
) -> StageError | MachineError:
    """Return why a worker that ended has no result; ``opened``: it came as far as our code."""
    tail = log_tail(log_file)
    unread = f"; {messages.unreadable[-1]}" if messages.unreadable else ""
    if code == 0:
        return ResultMissingError(
            f"the {worker} worker ended well, but no result of it arrived{unread} "
            f"(log: {log_file})",
            tail,
        )
    reason = inbox.error or f"exit code {code}: {_last_line(tail)}{unread}"
    message = f"the {worker} worker failed: {reason} (log: {log_file})"
    fault = _fault(worker, code, inbox, tail)
    if fault is None and not opened:
        fault = EnvironmentMissingError
    return StageError(message, tail) if fault is None else fault(message)


def _fault(worker: str, code: int, inbox: _Inbox, tail: str) -> type[MachineError] | None:
    """Return the class of the machine's fault that ended a worker; None if it was its own."""
    if inbox.error is not None:
        kind = getattr(errors, inbox.error_class, None)
        return kind if isinstance(kind, type) and issubclass(kind, MachineError) else None
    if code == STORAGE_EXIT:
        return StorageError
    if code in _ENDED_BY_OTHERS or (code == -signal.SIGKILL and worker not in _HOLDS_MODEL):
        return WorkerKilledError
    return fault_in(tail)


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"
