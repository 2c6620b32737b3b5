"""Getting uv and running it: with the machine's package settings, a log, an owner and a limit."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from optikit_assets.environments.layout import Installation
from optikit_assets.errors import OptikitError
from optikit_assets.locations import REPOSITORY

BOOTSTRAP_REQUIREMENTS = "requirements/bootstrap.txt"

_BOOTSTRAP_MARK = "optikit-bootstrap.json"
_BOOTSTRAP_LIMIT_S = 600.0
_PIP_CONFIG_LIMIT_S = 30.0
_POLL_S = 0.1
_GRACE_S = 5.0


class CommandError(OptikitError):
    """A command of the set-up failed or ran past its limit; its output is in the log."""


def run_logged(
    argv: Sequence[str],
    *,
    log_file: Path,
    environ: Mapping[str, str],
    limit_s: float,
    on_wait: Callable[[], None] = lambda: None,
    keep_open: Sequence[int] = (),
    cwd: Path = REPOSITORY,
) -> None:
    """Run a command to its end, or end it together with everything it started.

    Parameters
    ----------
    argv
        Command and arguments.
    log_file
        Receives the command line and its output (appended).
    environ
        Complete environment of the command.
    limit_s
        Seconds after which it is ended.
    on_wait
        Called about ten times a second while it runs.
    keep_open
        File descriptors that it inherits. Given the descriptor of the set-up's lock, a command
        that outlives a killed set-up still keeps the next one waiting.
    cwd
        Its working directory.

    Raises
    ------
    CommandError
        If it cannot be started, fails, or runs past the limit.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as log:
        log.write(f"$ {' '.join(argv)}\n".encode())
        log.flush()
        try:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(environ),
                cwd=cwd,
                start_new_session=True,
                pass_fds=tuple(keep_open),
            )
        except OSError as error:
            message = f"{argv[0]} cannot be started: {error.strerror}"
            raise CommandError(message) from error
    deadline = time.monotonic() + limit_s
    try:
        while process.poll() is None:
            if time.monotonic() > deadline:
                message = f"it ran past its limit of {limit_s:.0f} s"
                raise CommandError(message)
            on_wait()
            time.sleep(_POLL_S)
    except BaseException:
        _end_group(process)
        raise
    if process.returncode != 0:
        message = f"exit code {process.returncode}"
        raise CommandError(message)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a command with all its children."""
    if process.returncode is not None:
        return
    ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
    os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_S
    # Seen but not waited for: until then its id is nobody else's.
    while os.waitid(os.P_PID, process.pid, ended) is None and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(_GRACE_S)


def log_tail(log_file: Path, lines: int = 12) -> list[str]:
    """Return the last lines of a log that are not blank."""
    try:
        text = log_file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]


def ensure_uv(
    home: Path,
    *,
    log_file: Path,
    environ: Mapping[str, str],
    on_wait: Callable[[], None] = lambda: None,
    keep_open: Sequence[int] = (),
) -> Path:
    """Return the path of the pinned uv, installing it with pip if it is not there.

    Raises
    ------
    CommandError
        If the virtual environment cannot be created or pip fails.
    """
    folder = home / "bootstrap"
    uv = folder / "bin" / "uv"
    mark = folder / _BOOTSTRAP_MARK
    requirements = REPOSITORY / BOOTSTRAP_REQUIREMENTS
    wanted = json.dumps(
        {"location": str(folder), "requirements": requirements.read_text(encoding="utf-8")}
    )
    with contextlib.suppress(OSError):
        if mark.read_text(encoding="utf-8") == wanted and os.access(uv, os.X_OK):
            return uv
    mark.unlink(missing_ok=True)
    log_file.unlink(missing_ok=True)
    python = str(folder / "bin" / "python")
    # The cache stays inside OPTIKIT_HOME, like everything else.
    pip_environ = {**environ, "PIP_CACHE_DIR": str(home / "cache" / "pip")}
    for argv in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [python, "-m", "pip", "install", "--disable-pip-version-check", "-r", str(requirements)],
    ):
        run_logged(
            argv,
            log_file=log_file,
            environ=pip_environ,
            limit_s=_BOOTSTRAP_LIMIT_S,
            on_wait=on_wait,
            keep_open=keep_open,
        )
    mark.write_text(wanted, encoding="utf-8")
    return uv


def pip_settings(python: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Return pip's settings on this machine, from its files and PIP_* variables.

    uv does not read them, so a machine that reaches packages through a mirror or a folder of
    wheels has said so to pip only.

    Returns
    -------
    dict[str, str]
        For instance ``{"find-links": …, "index-url": …}``; empty if pip cannot be asked.
    """
    try:
        listing = subprocess.run(
            [str(python), "-m", "pip", "config", "list"],
            capture_output=True,
            text=True,
            timeout=_PIP_CONFIG_LIMIT_S,
            check=False,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return parse_pip_settings(listing.stdout)


def parse_pip_settings(listing: str) -> dict[str, str]:
    """Parse the output of ``pip config list``: lines like ``global.index-url='…'``.

    Sections that apply to installing count, the environment (``:env:``) above ``install`` above
    ``global``, as in pip.
    """
    ranks = ("global", "install", ":env:")
    found: dict[str, tuple[int, str]] = {}
    for line in listing.splitlines():
        key, separator, value = line.partition("=")
        section, _, name = key.strip().rpartition(".")
        if not separator or section not in ranks:
            continue
        rank = ranks.index(section)
        if rank >= found.get(name, (-1, ""))[0]:
            found[name] = (rank, value.strip().strip("'\""))
    return {name: value for name, (_, value) in found.items()}


def uv_environ(
    environ: Mapping[str, str],
    pip: Mapping[str, str],
    installation: Installation,
    home: Path,
) -> dict[str, str]:
    """Return the environment in which uv installs `installation`.

    uv's own variables win over what pip was told. pip's find-links reach only the sets that want
    CPU builds: ``torch==X`` in a GPU set would otherwise be satisfied by a ``X+cpu`` wheel there.
    """
    result = dict(environ)
    for name in ("VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH"):
        result.pop(name, None)
    defaults = {
        "UV_CACHE_DIR": str(home / "cache" / "uv"),
        "UV_NO_PROGRESS": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_DEFAULT_INDEX": "" if "UV_INDEX_URL" in environ else pip.get("index-url", ""),
        "SSL_CERT_FILE": pip.get("cert", ""),
        "UV_HTTP_TIMEOUT": pip.get("default-timeout", pip.get("timeout", "")),
    }
    if installation.torch_backend == "cpu":
        links = pip.get("find-links", "").split()
        defaults["UV_FIND_LINKS"] = ",".join(links)
    for name, value in defaults.items():
        if value:
            result.setdefault(name, value)
    return result


def torch_arguments(installation: Installation, environ: Mapping[str, str]) -> list[list[str]]:
    """Return the argument lists to try in turn, so that the right builds of torch are found.

    CPU builds are not in the public registry. Either a find-links location holds them, or uv gets
    them from PyTorch's own index.
    """
    if installation.torch_backend is None:
        return [[]]
    backend = ["--torch-backend", installation.torch_backend]
    return [[], backend] if environ.get("UV_FIND_LINKS") else [backend]


def has_disk_space(folder: Path, needed_bytes: int) -> bool:
    """Say whether the disk that will hold `folder` has that much free."""
    existing = folder
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free >= needed_bytes
