"""Compile the pinned sets: ``python3.11 -m optikit_assets.environments.lock`` (``make lock``).

Present pins are kept where they still fit; ``--upgrade`` takes the newest versions instead. The
sets are committed, so they hold no path and no address of a package index.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from optikit_assets.environments.layout import (
    CLIENTS,
    EXTRAS,
    INSTALLATIONS,
    Installation,
    default_home,
    setup_log_path,
)
from optikit_assets.environments.uv_tool import (
    CommandError,
    ensure_uv,
    log_tail,
    pip_settings,
    run_logged,
    torch_arguments,
    uv_environ,
)
from optikit_assets.locations import REPOSITORY

_COMPILE_LIMIT_S = 900.0
# Constrains what builds the project itself when it is installed into an environment.
_BUILD = Installation("build", "requirements/build.txt", ("requirements/build.in",))


def installations_to_lock() -> list[Installation]:
    """Return one installation per pinned set."""
    by_file = {installation.requirements: installation for installation in INSTALLATIONS.values()}
    # Those with an extra last: they take the versions of the sets without.
    return [_BUILD, *by_file.values(), *EXTRAS.values(), CLIENTS]


def compile_arguments(installation: Installation, *, upgrade: bool) -> list[str]:
    """Return the arguments of uv that compile one pinned set, relative to the repository."""
    arguments = [
        "pip", "compile", *installation.source, "--output-file", installation.requirements,
        "--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28",
        "--no-emit-index-url", "--no-emit-find-links", "--no-annotate",
        "--custom-compile-command", "make lock",
    ]  # fmt: skip
    if installation.overrides is not None:
        arguments += ["--overrides", installation.overrides]
    if upgrade:
        arguments.append("--upgrade")
    return arguments


def compile_set(home: Path, installation: Installation, *, upgrade: bool) -> None:
    """Compile one pinned set in place.

    Raises
    ------
    CommandError
        If no set of versions fits, or the package index cannot be reached.
    """
    log_file = setup_log_path(home, f"lock-{Path(installation.requirements).stem}")
    environ = dict(os.environ)
    uv = ensure_uv(home, log_file=log_file, environ=environ)
    environ = uv_environ(environ, pip_settings(uv.parent / "python", environ), installation, home)
    arguments = compile_arguments(installation, upgrade=upgrade)
    attempts = torch_arguments(installation, environ)
    log_file.unlink(missing_ok=True)
    for number, extra in enumerate(attempts, start=1):
        try:
            run_logged(
                [str(uv), *arguments, *extra],
                log_file=log_file,
                environ=environ,
                limit_s=_COMPILE_LIMIT_S,
            )
            return
        except CommandError as error:
            if number == len(attempts):
                tail = "\n".join(f"  | {line}" for line in log_tail(log_file))
                message = f"{installation.requirements} could not be compiled: {error}\n{tail}"
                raise CommandError(message) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Compile every pinned set; return the exit code."""
    parser = argparse.ArgumentParser(prog="python3.11 -m optikit_assets.environments.lock")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that fit")
    upgrade = parser.parse_args(argv).upgrade
    home = default_home()
    for installation in installations_to_lock():
        try:
            compile_set(home, installation, upgrade=upgrade)
        except CommandError as error:
            sys.stderr.write(f"error: {error}\n")
            return 1
        pins = (REPOSITORY / installation.requirements).read_text(encoding="utf-8")
        count = sum(not line.startswith("#") for line in pins.splitlines())
        sys.stderr.write(f"  {installation.requirements}: {count} packages\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
