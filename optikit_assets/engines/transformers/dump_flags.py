# pyright: standard, reportMissingImports=false
# The library behind this module lives in another environment.
"""Describe the command line of ``transformers serve``, read from the installed command itself.

Runs in the serve environment: ``python -m optikit_assets.engines.transformers.dump_flags`` prints
the content of ``flags.yaml``. Do this once after an upgrade; an integration test compares the
shipped file with the installed command.
"""

import sys
from importlib.metadata import version
from typing import Any

from optikit_assets.engines.dumping import default_of, dump

_TYPES = {"boolean": "bool", "integer": "int", "float": "float", "text": "str", "choice": "str"}


def installed_flags() -> str:
    """Return the content of ``flags.yaml`` for the transformers that is installed."""
    from transformers.cli.transformers import app

    options = [p for p in app.commands["serve"].params if p.param_type_name == "option"]
    described = {option.name: _describe(option) for option in options}
    return dump(version("transformers"), dict(sorted(described.items())))


def _describe(option: Any) -> dict[str, Any]:
    kind = _TYPES[option.type.name]
    if kind == "bool" and not option.secondary_opts:
        kind = "switch"
    choices = list(getattr(option.type, "choices", ()))
    found = {"type": kind, **({"choices": choices} if choices else {})}
    return {**found, **default_of(option.default)}


if __name__ == "__main__":
    sys.stdout.write(installed_flags())
