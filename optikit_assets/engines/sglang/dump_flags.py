# pyright: standard, reportMissingImports=false
# The library behind this module is in no environment of this project.
"""Describe the server's command line, read from SGLang's own argument parser.

Runs where SGLang can be imported, which needs no GPU: ``python -m
optikit_assets.engines.sglang.dump_flags`` prints the content of ``flags.yaml``. Do this once after
an upgrade. A flag goes by the name of its field, whatever other spellings it has.
"""

import argparse
import sys

from optikit_assets.engines.dumping import describe_parser, dump


def installed_flags() -> str:
    """Return the content of ``flags.yaml`` for the SGLang that can be imported."""
    from sglang.srt.server_args import ServerArgs
    from sglang.version import __version__

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    fields = {action.dest for action in parser._actions}
    described = describe_parser(parser)
    return dump(__version__, {name: described[name] for name in described if name in fields})


if __name__ == "__main__":
    sys.stdout.write(installed_flags())
