"""Describe the server's command line, read from vLLM's own argument parser.

Runs in the serve environment: ``python -m optikit_assets.serving.dump_flags``
prints the content of ``vllm_flags.yaml``. Do this once after an upgrade of vLLM; an integration
test compares the shipped file with the installed parser.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import yaml

_NAMES: dict[str, str] = {
    "int": "int",
    "float": "float",
    "str": "str",
    "human_readable_int": "size",
    "human_readable_int_or_auto": "size",
}


def describe_parser() -> dict[str, Any]:
    """Return ``{"vllm": version, "flags": {name: {"type": …, "choices": […]}}}``.

    Types are ``bool`` (a switch with a ``--no-`` twin), ``switch`` (without one), ``int``,
    ``float``, ``str``, ``size`` (an integer, or text such as ``2k``) and ``json`` (anything that
    vLLM parses itself). Names are written with underscores.
    """
    import vllm
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    flags: dict[str, dict[str, Any]] = {}
    for action in parser._actions:
        names = [
            option.removeprefix("--").replace("-", "_")
            for option in action.option_strings
            if option.startswith("--") and not option.startswith("--no-")
        ]
        for name in names:
            if name != "help":
                flags[name] = _describe(action)
    return {"vllm": vllm.__version__, "flags": dict(sorted(flags.items()))}


def _describe(action: argparse.Action) -> dict[str, Any]:
    if isinstance(action, argparse.BooleanOptionalAction):
        return {"type": "bool"}
    if action.nargs == 0:
        return {"type": "switch"}
    described: dict[str, Any] = {"type": _type_name(action)}
    choices = [c for c in action.choices or () if isinstance(c, str | int) and c != "None"]
    if choices:
        described["choices"] = choices
    return described


def _type_name(action: argparse.Action) -> str:
    if action.nargs in ("+", "*"):
        return "json"
    kind = _inner(action.type) if callable(action.type) else action.type
    return _NAMES.get(getattr(kind, "__name__", "str"), "json")


def _inner(kind: Callable[..., Any]) -> Callable[..., Any]:
    """Look through vLLM's ``optional_type(inner)`` wrapper, a closure over the inner type."""
    if getattr(kind, "__name__", "") != "_optional_type" or not kind.__closure__:
        return kind
    return next((c.cell_contents for c in kind.__closure__ if callable(c.cell_contents)), kind)


if __name__ == "__main__":
    sys.stdout.write(yaml.safe_dump(describe_parser(), sort_keys=False, width=100))
