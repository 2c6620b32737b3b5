"""`optikit optimize` in a process of its own, as the demonstrations run it."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from optikit_assets.settings import REPOSITORY


def optimize(arguments: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run `optikit optimize`, and wait for it; return its exit code.

    An interrupt goes to it as well, from the terminal: it is waited for until it has ended.
    """
    argv = [sys.executable, "-c", "from optikit_assets.cli import main; main()", "optimize"]
    with subprocess.Popen(
        [*argv, *arguments], env={**os.environ, **variables}, cwd=REPOSITORY
    ) as running:
        try:
            return running.wait()
        except KeyboardInterrupt:
            running.wait()
            raise
