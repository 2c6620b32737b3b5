"""What comes from a worker: records, and at the end its result, or why there is none."""

import signal
from collections import deque
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from optikit_assets import errors
from optikit_assets.errors import (
    EnvironmentMissingError,
    MachineError,
    ResultMissingError,
    StageError,
    StorageError,
    WorkerKilledError,
)
from optikit_assets.execution.base import OnRecord, ResultT
from optikit_assets.execution.worker_process import Ended
from optikit_assets.faults import fault_in
from optikit_assets.workers.channel import ERROR, RECORD, RESULT, STORAGE_EXIT
from optikit_assets.workers.records import read_record

# Workers in whose own process the model is: what the kernel's out-of-memory killer ends there asked
# for too much memory, which is the trial's failure. Beside a server it is the server that goes.
_HOLDS_MODEL = {"compress", "evaluate"}
_ENDED_BY_OTHERS = {-signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP}


class Conversation:
    """The messages of one worker, wherever it runs.

    Parameters
    ----------
    worker
        Its name.
    on_record
        Called for every record.
    """

    def __init__(self, worker: str, on_record: OnRecord) -> None:
        self._worker = worker
        self._on_record = on_record
        self._pending: deque[dict[str, Any]] = deque()
        self._result: dict[str, Any] | None = None
        self._error: str | None = None
        self._error_class = ""
        self._unknown: EnvironmentMissingError | None = None

    def take(self, messages: Iterable[dict[str, Any]]) -> None:
        """Handle messages in their order; an interrupt leaves the rest to the next call.

        Raises
        ------
        EnvironmentMissingError
            After the last of them, if one is a record that is not known here. It says nothing of
            what the worker works on, but that its code is not that of this process.
        """
        self.take_last(messages)
        if self._unknown is not None:
            raise self._unknown

    def take_last(self, messages: Iterable[dict[str, Any]]) -> None:
        """Handle the same of a worker that has ended.

        A record that is not known here is left to `outcome`: what ends the worker, an interrupt for
        one, may be on its way up already, and is not replaced by it.
        """
        self._pending.extend(messages)
        while self._pending:
            message = self._pending.popleft()
            kind, body = message["type"], message["body"]
            if kind == RESULT:
                self._result = body
            elif kind == ERROR:
                self._error, self._error_class = body["message"], body["error_class"]
            elif kind == RECORD:
                try:
                    record = read_record(body)
                except ValidationError as error:
                    self._unknown = self._unknown or self._foreign("record", error)
                else:
                    self._on_record(record)

    def outcome(self, ended: Ended, result_model: type[ResultT]) -> ResultT:
        """Return the result of a worker that has ended.

        Raises
        ------
        StageError, MachineError
            Why there is none: see `Executor.run`.
        """
        if self._unknown is not None:
            raise self._unknown
        if ended.code == 0 and self._result is not None:
            try:
                return result_model.model_validate(self._result)
            except ValidationError as error:
                raise self._foreign("result", error) from None
        raise self._failure(ended)

    def _foreign(self, what: str, error: ValidationError) -> EnvironmentMissingError:
        """Say what is not as it is known here: of a record its kind, and which ones are."""
        first = error.errors(include_url=False)[0]
        where = "".join(f"{part}: " for part in first["loc"])
        return EnvironmentMissingError(
            f"the {self._worker} worker sent a {what} that is not known here: {where}"
            f"{first['msg']}; its code is of another version: install the same one there"
        )

    def _failure(self, ended: Ended) -> StageError | MachineError:
        unread = f"; {ended.unreadable}" if ended.unreadable else ""
        if ended.code == 0:
            return ResultMissingError(
                f"the {self._worker} worker ended well, but no result of it arrived{unread} "
                f"(log: {ended.log_file})",
                ended.log_tail,
            )
        reason = self._error or f"exit code {ended.code}: {_last_line(ended.log_tail)}{unread}"
        message = f"the {self._worker} worker failed: {reason} (log: {ended.log_file})"
        fault = self._fault(ended)
        if fault is None and not ended.opened:
            fault = EnvironmentMissingError
        return StageError(message, ended.log_tail) if fault is None else fault(message)

    def _fault(self, ended: Ended) -> type[MachineError] | None:
        """Return the class of the machine's fault that ended a worker; None if it was its own."""
        if self._error is not None:
            return machine_error(self._error_class)
        if ended.code == STORAGE_EXIT:
            return StorageError
        killed = ended.code == -signal.SIGKILL and self._worker not in _HOLDS_MODEL
        if ended.code in _ENDED_BY_OTHERS or killed:
            return WorkerKilledError
        return fault_in(ended.log_tail)


def machine_error(name: str) -> type[MachineError] | None:
    """Return the class of machine faults with a name; None if there is none."""
    kind = getattr(errors, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, MachineError) else None


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"
