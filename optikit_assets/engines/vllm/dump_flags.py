"""Describe the server's command line, read from vLLM's own argument parser.

Runs in the serve environment: ``python -m optikit_assets.engines.vllm.dump_flags`` prints the
content of ``flags.yaml``. Do this once after an upgrade of vLLM; an integration test compares the
shipped file with the installed parser.
"""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

from optikit_assets.engines.dumping import default_of, describe_parser, dump


def installed_flags() -> str:
    """Return the content of ``flags.yaml`` for the vLLM that is installed.

    Where the parser leaves a default open, to be worked out from model and machine, the default is
    that of the configuration class with a field of the flag's name.
    """
    from vllm.config import CacheConfig, SchedulerConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.version import __version__

    flags = describe_parser(make_arg_parser(FlexibleArgumentParser()), _inner)
    for kind in (CacheConfig, SchedulerConfig):
        for name, described in flags.items():
            # Batch limits follow the device, which `flags.default_batch_limits` knows.
            if "default" not in described and not name.startswith("max_num_"):
                described.update(default_of(getattr(kind, name, None)))
    engine = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    for name in flags.keys() - engine:
        flags[name]["server_only"] = True
    return dump(__version__, flags)


def _inner(kind: Callable[..., Any]) -> Callable[..., Any]:
    """Look through vLLM's ``optional_type(inner)`` wrapper, a closure over the inner type."""
    if getattr(kind, "__name__", "") != "_optional_type" or not kind.__closure__:
        return kind
    return next((c.cell_contents for c in kind.__closure__ if callable(c.cell_contents)), kind)


if __name__ == "__main__":
    sys.stdout.write(installed_flags())
