"""One worker on the node that executes: started in its stage environment, owned, and read.

It speaks dagster-pipes with the worker, whose side of it is in every environment: the request goes
down in a file, messages come up in another, one JSON document a line. It needs neither Dagster nor
whoever asks beside it: an executor on other nodes makes one there, and sends on what `messages` and
`ended` return.
"""

import json
import os
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from dagster_pipes import (
    DAGSTER_PIPES_CONTEXT_ENV_VAR,
    DAGSTER_PIPES_MESSAGES_ENV_VAR,
    PipesContextData,
    PipesDefaultContextLoader,
    PipesDefaultMessageWriter,
    encode_param,
)

from optikit_assets import clock
from optikit_assets.artifacts import open_store
from optikit_assets.engines import engine_variables
from optikit_assets.environments.status import python_of
from optikit_assets.environments.variables import worker_variables
from optikit_assets.locations import WORKER_PATH
from optikit_assets.processes import OwnedProcess, log_tail
from optikit_assets.scratch import scratch
from optikit_assets.settings import REPOSITORY
from optikit_assets.workers.channel import CLOCK_KEY, REQUEST_KEY
from optikit_assets.workers.inputs import ENVIRONMENT_VARIABLE

ENVIRONMENT_OF = {
    "compress": "compress",
    "evaluate": "serve",
    "benchmark": "serve",
    "explore": "serve",
}
_SHOWN = 200


@dataclass(frozen=True)
class Ended:
    """How a worker ended.

    Attributes
    ----------
    code
        Exit code.
    opened
        Whether it came as far as our code.
    unreadable
        What was wrong with the last line that was no message; empty if all were.
    log_file, log_tail
        Where its output is on its node, and the last lines of it.
    """

    code: int
    opened: bool
    unreadable: str
    log_file: str
    log_tail: str


class WorkerProcess:
    """A worker; a context manager that leaves nothing of it running.

    Parameters
    ----------
    worker
        Module in ``optikit_assets.workers``.
    request
        As JSON.
    env
        What a lease adds to the worker's environment.
    home, environments_home
        OPTIKIT_HOME of the worker and of the stage environments, on this node.

    Raises
    ------
    EnvironmentMissingError
        If the worker's stage environment is not installed.
    """

    def __init__(
        self,
        worker: str,
        request: Mapping[str, Any],
        env: Mapping[str, str],
        *,
        home: Path,
        environments_home: Path,
    ) -> None:
        self._python = python_of(environments_home, ENVIRONMENT_OF[worker])
        self._worker, self._request, self._env, self._home = worker, request, env, home
        store = str(request.get("store") or "")
        self._variables = open_store(store, home).variables if store else ()
        stamp = time.strftime("%Y%m%d-%H%M%S")
        name = f"{stamp}-{worker}-{uuid.uuid4().hex[:6]}.log"
        self.log_file = home / "logs" / "workers" / name
        self._open = ExitStack()
        self._unread: list[dict[str, Any]] = []
        self._opened = False
        self._problems: list[str] = []
        self._unfinished = b""
        self._file: BinaryIO | None = None
        self._process: OwnedProcess | None = None

    def __enter__(self) -> "WorkerProcess":
        with ExitStack() as opening:
            folder = opening.enter_context(scratch("messages"))
            (folder / "messages").touch()
            self._file = opening.enter_context((folder / "messages").open("rb"))
            self._process = opening.enter_context(
                OwnedProcess(
                    [str(self._python), "-m", f"optikit_assets.workers.{self._worker}"],
                    log_file=self.log_file,
                    env={
                        **worker_variables(os.environ, engine_variables(), self._variables),
                        **self._env,
                        **_pipes(folder, self._request),
                        "PYTHONPATH": WORKER_PATH,
                        "OPTIKIT_HOME": str(self._home),
                        ENVIRONMENT_VARIABLE: str(self._python.parent.parent),
                    },
                    cwd=REPOSITORY,
                    name=f"{self._worker} worker",
                )
            )
            self._open = opening.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._open:
            if self._process is not None:
                # What it sends on its way out is read once it is gone.
                self._process.terminate()
            self._read()
            if self._unfinished:
                self._complain(self._unfinished, "it ended in the middle of it")

    def wait(self, timeout_s: float) -> int | None:
        """Return the exit code, or None if it still runs after `timeout_s` seconds."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def messages(self) -> list[dict[str, Any]]:
        """Return the messages that came since the last call; the last ones after the context."""
        if self._file is not None and not self._file.closed:
            self._read()
        found, self._unread = self._unread, []
        return found

    @property
    def problems(self) -> list[str]:
        """What was wrong with each line that is no message, with its beginning."""
        return self._problems

    def ended(self, code: int) -> Ended:
        """Return how it ended, after the context."""
        return Ended(
            code,
            self._opened,
            self._problems[-1] if self._problems else "",
            str(self.log_file),
            log_tail(self.log_file),
        )

    def _read(self) -> None:
        """Take the lines that are whole: a message of some kilobytes is written in pieces."""
        assert self._file is not None
        *lines, self._unfinished = (self._unfinished + self._file.read()).split(b"\n")
        for line in lines:
            try:
                message = json.loads(line)
                match message["method"]:
                    case "opened":
                        self._opened = True
                    case "report_custom_message":
                        self._unread.append(message["params"]["payload"])
                    case "closed":
                        pass
                    case other:
                        self._complain(line, f"no method {other!r} is known")
            except (ValueError, KeyError, TypeError) as error:
                # One bad line may cost no other message.
                self._complain(line, f"{type(error).__name__}: {error}")

    def _complain(self, line: bytes, reason: str) -> None:
        beginning = line[:_SHOWN].decode("utf-8", "replace")
        self._problems.append(
            f"a message of {len(line)} bytes that begins with {beginning!r}: {reason}"
        )


def _pipes(folder: Path, request: Mapping[str, Any]) -> dict[str, str]:
    """Write the request down and return the variables by which a worker finds its two files."""
    context = PipesContextData(
        asset_keys=None,
        code_version_by_asset_key=None,
        provenance_by_asset_key=None,
        partition_key=None,
        partition_key_range=None,
        partition_time_window=None,
        run_id="",
        job_name=None,
        retry_number=0,
        extras={REQUEST_KEY: request, CLOCK_KEY: clock.reading()},
    )
    (folder / "request").write_text(json.dumps(context), encoding="utf-8")
    down = {PipesDefaultContextLoader.FILE_PATH_KEY: str(folder / "request")}
    up = {PipesDefaultMessageWriter.FILE_PATH_KEY: str(folder / "messages")}
    return {
        DAGSTER_PIPES_CONTEXT_ENV_VAR: encode_param(down),
        DAGSTER_PIPES_MESSAGES_ENV_VAR: encode_param(up),
    }
