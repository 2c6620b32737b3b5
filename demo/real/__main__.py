"""Compress, evaluate, tune and certify SmolLM2-135M-Instruct on this machine.

``python -m demo.real [--data DIR] [--job NAME ...]`` (``make demo-real``) makes what it needs below
``OPTIKIT_HOME/demo-real`` and runs `optikit optimize` with the jobs of demo/real/recipes/jobs, one
after the other. What is finished is not done again, so that it can be stopped at any time.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from demo.optimize import optimize
from demo.real.furnish import SPECS, DataFolder, furnish
from optikit_assets.errors import OptikitError
from optikit_assets.locks import locked
from optikit_assets.settings import settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Make what is needed and run the jobs; return the exit code of the first that failed."""
    names = sorted(file.stem for file in (SPECS / "jobs").glob("*.yaml"))
    parser = argparse.ArgumentParser(prog="python -m demo.real")
    parser.add_argument(
        "--data",
        type=Path,
        help="folder with the data; where there is none they come from the hub",
    )
    parser.add_argument("--job", nargs="*", choices=names, help="these alone (default: all)")
    chosen = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    home, environments = settings().home / "demo-real", settings().envs_home
    home.mkdir(parents=True, exist_ok=True)
    (home / "demo.lock").touch()
    try:
        with locked(home / "demo.lock"):
            folder: Path | None = chosen.data
            data = DataFolder(folder.absolute()) if folder and folder.is_dir() else None
            if data is not None:
                data.check()
            where = "the hub" if data is None else data.path
            print(f"making the model ready; the data come from {where}", flush=True)
            variables = furnish(home, environments, data)
            variables |= {
                "OPTIKIT_HOME": str(home),
                "OPTIKIT_ENVIRONMENTS_HOME": str(environments),
            }
            for name in chosen.job or names:
                job = home / "recipes" / "jobs" / f"{name}.yaml"
                if not job.exists():
                    print(f"job {name} is left out: its data are not on a hub", flush=True)
                elif code := optimize(["--job", str(job)], variables):
                    return code
    except BlockingIOError:
        print(f"error: another one runs in {home}", file=sys.stderr)
        return 1
    except OptikitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
