"""Build the stage environments: ``python3.11 -m optikit_assets.environments.setup``.

An environment is complete when its stamp says so. The stamp is removed before an environment is
touched and written last, so whatever interrupts an installation, the next run sees no stamp and
builds that environment anew from the downloads that are already there. When only the requirements
changed, the environment is brought up to date in place.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

from optikit_assets.environments.layout import (
    CLIENTS,
    ENVIRONMENT_NAMES,
    EXTRAS,
    Accelerator,
    Installation,
    Stamp,
    default_home,
    detect_accelerator,
    environment_path,
    installation_of,
    prepare_dagster_home,
    python_path,
    read_stamp,
    remove_stamp,
    setup_log_path,
    wanted_digest,
    write_stamp,
)
from optikit_assets.environments.progress import Progress
from optikit_assets.environments.setup_lock import setup_lock
from optikit_assets.environments.status import inspect_environment
from optikit_assets.environments.uv_tool import (
    CommandError,
    ensure_uv,
    has_disk_space,
    log_tail,
    pip_settings,
    run_logged,
    torch_arguments,
    uv_environ,
)
from optikit_assets.errors import OptikitError
from optikit_assets.locations import IS_CHECKOUT, REPOSITORY

LOCK_LIMIT_S = 1800.0
INSTALL_LIMIT_S = 3600.0

_GIB = 1 << 30
# What a fresh environment and its downloads were seen to take, with a margin.
_NEEDED_GIB: dict[tuple[str, Accelerator], float] = {
    ("control", "cpu"): 1.5,
    ("control", "gpu"): 1.5,
    ("compress", "cpu"): 3,
    ("compress", "gpu"): 10,
    ("serve", "cpu"): 6,
    ("serve", "gpu"): 20,
    ("clients", "cpu"): 2,
    ("clients", "gpu"): 2,
}
_NETWORK_ADVICE = "check the network, the proxy and pip's index settings"
_INDEX_ADVICE = (
    "a pinned version is not to be had from this machine's package index: check pip's index "
    "settings, or make new pins with: make lock"
)
_TORCH_ADVICE = (
    "CPU builds of torch come from PyTorch's own index: let this machine reach it, or put the "
    "wheel into a folder and set PIP_FIND_LINKS to that folder"
)
# (what the log says, what to do about it); the first that is found counts.
_ADVICE = (
    ("no space left on device", "free disk space, or set OPTIKIT_HOME to a larger disk"),
    (
        "ensurepip",
        "install Python's venv module (on Debian and Ubuntu: apt install python3.11-venv)",
    ),
    ("pytorch", _TORCH_ADVICE),
    ("failed to fetch", _NETWORK_ADVICE),
    ("error sending request", _NETWORK_ADVICE),
    ("connection", _NETWORK_ADVICE),
    ("no solution found", _INDEX_ADVICE),
    ("no matching distribution", _INDEX_ADVICE),
)


class InstallationError(OptikitError):
    """An environment could not be installed; the message is several lines, made to be printed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One environment to build or update.

    Parameters
    ----------
    installation
        What it is made from.
    accelerator
        For which kind of machine.
    digest
        What its stamp will say.
    rebuild
        Whether it starts empty, because its present state cannot be trusted.
    extra
        What its stamp will say.
    """

    installation: Installation
    accelerator: Accelerator
    digest: str
    rebuild: bool
    extra: str = ""


def plan_environment(
    home: Path, name: str, accelerator: Accelerator, extra: str = ""
) -> Plan | None:
    """Return what has to be done for an environment, or ``None`` if it is ready.

    An extra that it was asked for with before is kept.
    """
    stamp = read_stamp(home, name)
    extra = extra if name == "control" else ""
    extra = extra or (stamp.extra if stamp else "")
    installation = installation_of(name, accelerator, extra)
    digest = wanted_digest(installation)
    if inspect_environment(home, name, wanted=digest).ready:
        return None
    in_place = (
        stamp is not None
        and stamp.location == str(environment_path(home, name).absolute())
        and stamp.accelerator == accelerator
        and os.access(python_path(home, name), os.X_OK)
    )
    return Plan(installation, accelerator, digest, rebuild=not in_place, extra=extra)


def install(home: Path, plan: Plan, *, stream: TextIO, lock: int) -> None:
    """Carry out a plan and write the stamp.

    Raises
    ------
    InstallationError
        If a command fails: which environment, why, the end of the log, what to do.
    """
    name = plan.installation.name
    log_file = setup_log_path(home, name)
    label = f"{name:<8} ({plan.accelerator}) {'installing' if plan.rebuild else 'updating'}"
    progress = Progress(stream, label, log_file)
    try:
        _check_disk(home, plan)
        _install(home, plan, log_file=log_file, progress=progress, lock=lock)
    except (CommandError, OSError) as error:
        progress.finish("failed")
        raise InstallationError(_explain(name, error, log_file)) from error
    except BaseException:
        progress.finish("interrupted")
        raise
    progress.finish("ready")


def _check_disk(home: Path, plan: Plan) -> None:
    needed_gib = _NEEDED_GIB[plan.installation.name, plan.accelerator]
    if plan.rebuild and not has_disk_space(home, int(needed_gib * _GIB)):
        message = f"it needs about {needed_gib:g} GiB, less is free: no space left on device"
        raise CommandError(message)


def _install(home: Path, plan: Plan, *, log_file: Path, progress: Progress, lock: int) -> None:
    name, installation = plan.installation.name, plan.installation
    environ = dict(os.environ)
    uv = ensure_uv(
        home, log_file=log_file, environ=environ, on_wait=progress.tick, keep_open=[lock]
    )
    pip = pip_settings(uv.parent / "python", environ)
    environ = uv_environ(environ, pip, installation, home)

    def run_uv(*arguments: str) -> None:
        run_logged(
            [str(uv), *arguments],
            log_file=log_file,
            environ=environ,
            limit_s=INSTALL_LIMIT_S,
            on_wait=progress.tick,
            keep_open=[lock],
        )

    log_file.parent.mkdir(parents=True, exist_ok=True)
    log_file.write_text("", encoding="utf-8")
    remove_stamp(home, name)
    folder = environment_path(home, name)
    if plan.rebuild:
        run_uv(
            "venv",
            "--clear",
            "--prompt",
            f"optikit-{name}",
            "--python",
            sys.executable,
            str(folder),
        )
    sync = ["pip", "sync", "--python", str(python_path(home, name))]
    sync.append(str(REPOSITORY / installation.requirements))
    if installation.installs_project:
        # One more line of the set, because synchronizing removes whatever is not listed.
        project = folder / "project.txt"
        project.write_text(f"-e {REPOSITORY}\n", encoding="utf-8")
        constraints = str(REPOSITORY / "requirements" / "build.txt")
        sync += [str(project), "--build-constraints", constraints]
    attempts = torch_arguments(installation, environ)
    for number, extra in enumerate(attempts, start=1):
        try:
            run_uv(*sync, *extra)
            break
        except CommandError:
            if number == len(attempts) or not any("torch" in line for line in log_tail(log_file)):
                raise
    if not installation.installs_project:
        put_project_on_path(folder)
    location = str(folder.absolute())
    stamp = Stamp(plan.digest, location, str(REPOSITORY), plan.accelerator, plan.extra)
    write_stamp(home, name, stamp)


def put_project_on_path(folder: Path) -> None:
    """Make the project's modules importable in an environment, without their dependencies.

    Of an installed project the package alone is linked: beside it lies the control environment.
    """
    version = ".".join(str(number) for number in sys.version_info[:2])
    site_packages = folder / "lib" / f"python{version}" / "site-packages"
    if IS_CHECKOUT:
        site_packages.joinpath("optikit.pth").write_text(f"{REPOSITORY}\n", encoding="utf-8")
        return
    package = REPOSITORY.parent
    link = site_packages / package.name
    link.unlink(missing_ok=True)
    link.symlink_to(package)


def _explain(name: str, error: Exception, log_file: Path) -> str:
    tail = log_tail(log_file)
    evidence = f"{error}\n" + "\n".join(tail)
    advice = next(
        (todo for symptom, todo in _ADVICE if symptom in evidence.lower()),
        "read the log, remove the cause",
    )
    lines = [
        f"the {name} environment could not be installed: {error}",
        f"log: {log_file}",
        *(f"  | {line}" for line in tail),
        f"what to do: {advice}; then run the same command again (finished downloads are kept)",
    ]
    return "\n".join(lines)


def set_up(
    home: Path,
    names: Sequence[str],
    *,
    accelerator: Accelerator,
    stream: TextIO,
    extra: str = "",
    lock_limit_s: float = LOCK_LIMIT_S,
) -> list[str]:
    """Make the named environments ready; return the names of those that needed work.

    Raises
    ------
    OptikitError
        If an environment cannot be installed or another set-up does not finish in time.
    """
    prepare_dagster_home(home)
    if not any(plan_environment(home, name, accelerator, extra) for name in names):
        return []
    with setup_lock(home, limit_s=lock_limit_s, stream=stream) as lock:
        # Asked again: whoever held the lock may have done the work.
        wanted = (plan_environment(home, name, accelerator, extra) for name in names)
        plans = [plan for plan in wanted if plan is not None]
        if plans:
            stream.write(f"setting up {home}\n")
        for plan in plans:
            install(home, plan, stream=stream, lock=lock)
    return [plan.installation.name for plan in plans]


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    del frame
    raise SystemExit(128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the set-up program; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python3.11 -m optikit_assets.environments.setup",
        description="Build or update the stage environments under OPTIKIT_HOME.",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="control, compress, serve (default: these three) or clients",
    )
    parser.add_argument(
        "--extra",
        choices=sorted(EXTRAS),
        default="",
        help="what the control environment has beside the usual; later set-ups keep it",
    )
    arguments = parser.parse_args(argv)
    known = (*ENVIRONMENT_NAMES, CLIENTS.name) if IS_CHECKOUT else ENVIRONMENT_NAMES
    unknown = [name for name in arguments.names if name not in known]
    if unknown:
        parser.error(f"unknown environment {unknown[0]!r}; known: {', '.join(known)}")
    if sys.version_info[:2] != (3, 11):
        version = ".".join(str(number) for number in sys.version_info[:3])
        parser.error(f"this is Python {version}; the environments need Python 3.11")
    signal.signal(signal.SIGTERM, _stop)
    stream = sys.stderr
    try:
        done = set_up(
            default_home(),
            arguments.names or ENVIRONMENT_NAMES,
            accelerator=detect_accelerator(),
            stream=stream,
            extra=arguments.extra,
        )
    except KeyboardInterrupt:
        stream.write("interrupted; the next set-up goes on from here\n")
        return 130
    except OptikitError as error:
        stream.write(f"error: {error}\n")
        return 1
    if not done and stream.isatty():
        stream.write("environments: ready\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
