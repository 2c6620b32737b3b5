"""A server of any engine, with one owner."""

import http.client
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from pathlib import Path
from types import TracebackType

from optikit_assets.engines.base import Engine, Place
from optikit_assets.engines.environment import server_environment
from optikit_assets.engines.hardware import detect
from optikit_assets.engines.scheduling import sched_batch
from optikit_assets.engines.start_failures import classify, machine_fault_in, root_cause
from optikit_assets.errors import EndpointError, MachineError, ServerStartError
from optikit_assets.processes import OwnedProcess
from optikit_assets.scratch import scratch

HOST = "127.0.0.1"

_PORT_ATTEMPTS = 3
_SCANNED_LINES = 400
_ADVICE = {
    "out_of_memory": "use a smaller recipe, more devices, a shorter workload or fewer sequences",
    "port_in_use": "choose another port or end the process that holds it",
    "timeout": "raise engine.start_timeout_s in the model's spec if the model is just large",
    "exited": "the log says why",
}


class EngineServer:
    """A running OpenAI-compatible server on this machine; a context manager.

    Entering starts it and waits until it is ready; leaving ends it with everything it started.

    Parameters
    ----------
    engine
        What is started.
    config_file
        Model, name and flags, as `Engine.config_text` wrote them.
    log_file
        Receives the server's output (appended).
    python
        Interpreter of the serve environment.
    env
        Further environment variables.
    cache_dir
        Where compiled kernels are kept between starts.
    timeout_s
        Longest wait until it is ready.
    port
        None picks a free one.
    """

    def __init__(
        self,
        engine: Engine,
        config_file: Path,
        *,
        log_file: Path,
        python: Path | str = sys.executable,
        env: Mapping[str, str] | None = None,
        cache_dir: Path | None = None,
        timeout_s: float = 900.0,
        port: int | None = None,
    ) -> None:
        self.engine = engine
        self.log_file = log_file
        self.start_s = 0.0
        self.place: Place | None = None
        self._config_file = config_file
        self._python = str(python)
        self._timeout_s = timeout_s
        self._wanted_port = port
        self._port = port or 0
        self._cache_dir = cache_dir
        self._further = dict(env or {})
        self._stack = ExitStack()
        self._process: OwnedProcess | None = None
        self._log_offset = 0

    @property
    def port(self) -> int:
        """Port it listens on."""
        return self._port

    @property
    def root_url(self) -> str:
        """Address without a path."""
        return f"http://{HOST}:{self._port}"

    @property
    def base_url(self) -> str:
        """Base URL for OpenAI clients."""
        return f"{self.root_url}/v1"

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._running.pid

    def __enter__(self) -> "EngineServer":
        attempts = 1 if self._wanted_port else _PORT_ATTEMPTS
        for attempt in range(1, attempts + 1):
            try:
                self._start()
            except ServerStartError as error:
                # Between choosing a free port and binding it, somebody else may have taken it.
                if error.reason != "port_in_use" or attempt == attempts:
                    raise
            else:
                return self
        raise AssertionError("unreachable")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()
        self._process = None

    def check_alive(self) -> None:
        """Raise `EndpointError` with the cause from the log if the server has ended.

        What the machine did to it is raised as that `MachineError`.
        """
        code = self._running.poll()
        if code is None:
            return
        log = self._log()
        words = self.engine.log_words
        cause = root_cause(log, words) or "no error in its log"
        memory = ", out of memory" if classify(log, code, words) == "out_of_memory" else ""
        kind = machine_fault_in(log) or EndpointError
        raise kind(
            f"the {self.engine.title} server died while in use (exit code {code}{memory}): "
            f"{cause}; log: {self.log_file}"
        )

    def log_tail(self, lines: int = 20) -> str:
        """Return the last lines of the server's log."""
        return "\n".join(self._log().splitlines()[-lines:])

    @property
    def _running(self) -> OwnedProcess:
        if self._process is None:
            raise RuntimeError("the server was not started: use it as a context manager")
        return self._process

    def _start(self) -> None:
        self._port = self._wanted_port or free_port()
        if self._wanted_port:
            _check_port_free(self._wanted_port)
        self._log_offset = self.log_file.stat().st_size if self.log_file.exists() else 0
        started = time.monotonic()
        with ExitStack() as stack:
            folder = stack.enter_context(scratch(self.engine.name))
            place = Place(self._python, HOST, self._port, folder, self._cache_dir)
            self.place = place
            launch = self.engine.launch(self._config_file, place)
            environ = {
                **server_environment(self.engine.variables, cache_dir=self._cache_dir),
                **launch.environment,
                **self._further,
            }
            process = OwnedProcess(
                launch.argv, log_file=self.log_file, env=environ, name=f"{self.engine.title} server"
            )
            with sched_batch() if self.engine.prefix_on(detect().kind) else nullcontext():
                stack.enter_context(process)
            self._process = process
            if not process.until(self._healthy, started + self._timeout_s - time.monotonic()):
                raise self._failure(process.poll())
            self.start_s = time.monotonic() - started
            self._stack = stack.pop_all()

    def _healthy(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self._port, timeout=5.0)
        try:
            connection.request("GET", self.engine.health_path)
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _failure(self, exit_code: int | None) -> ServerStartError | MachineError:
        log = self._log()
        fault = machine_fault_in(log)
        reason = classify(log, exit_code, self.engine.log_words)
        if exit_code is None:
            happened = f"did not answer {self.engine.health_path} within {self._timeout_s:g} s"
        else:
            happened = f"ended with exit code {exit_code} before it was ready"
        cause = root_cause(log, self.engine.log_words)
        if fault is not None:
            return fault(
                f"the {self.engine.title} server {happened}: {cause or _ADVICE['exited']}; "
                f"log: {self.log_file}"
            )
        return ServerStartError(
            f"the {self.engine.title} server {happened} ({reason})"
            + (f": {cause}" if cause else "")
            + f"; {_ADVICE[reason]}; log: {self.log_file}",
            log_tail="\n".join(log.splitlines()[-20:]),
            reason=reason,
        )

    def _log(self) -> str:
        """Return what this start, not an earlier one, has written, its last lines at most."""
        try:
            with self.log_file.open("rb") as log:
                log.seek(self._log_offset)
                text = log.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-_SCANNED_LINES:])


def free_port() -> int:
    """Return a TCP port that is free on the loopback interface at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _check_port_free(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Like the server itself: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ServerStartError(
                f"port {port} on {HOST} is in use; {_ADVICE['port_in_use']}", reason="port_in_use"
            ) from error
