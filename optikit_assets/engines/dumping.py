"""Describes a server's command line for its ``flags.yaml``, in the environment that has the engine.

Types are ``bool`` (a switch with a ``--no-`` twin), ``switch`` (without one), ``int``, ``float``,
``str``, ``size`` (an integer, or text such as ``2k``) and ``json`` (anything that the engine parses
itself). Names are written with underscores.
"""

import argparse
from collections.abc import Callable, Mapping
from typing import Any

import yaml

_NAMES: dict[str, str] = {
    "int": "int",
    "float": "float",
    "str": "str",
    "human_readable_int": "size",
    "human_readable_int_or_auto": "size",
}


def describe_parser(
    parser: argparse.ArgumentParser, inner: Callable[[Any], Any] = lambda kind: kind
) -> dict[str, dict[str, Any]]:
    """Return ``{name: {"type": …, "choices": […], "default": …}}``.

    Parameters
    ----------
    parser
        Parser of the server's command line.
    inner
        Looks through an engine's own wrappers of an argument's type.
    """
    flags: dict[str, dict[str, Any]] = {}
    for action in parser._actions:
        names = [
            option.removeprefix("--").replace("-", "_")
            for option in action.option_strings
            if option.startswith("--") and not option.startswith("--no-")
        ]
        described = {**_describe(action, inner), **default_of(action.default)}
        flags |= {name: described for name in names if name != "help"}
    return dict(sorted(flags.items()))


def default_of(value: Any) -> dict[str, Any]:
    """Return ``{"default": value}`` if it is a plain value, else nothing."""
    plain = isinstance(value, bool | int | float | str) and value != argparse.SUPPRESS
    # An enumeration's member is a string too, and one of its own class in YAML.
    return {"default": getattr(value, "value", value)} if plain else {}


def dump(version: str, flags: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the content of ``flags.yaml``."""
    content = {"version": version, "flags": {name: dict(flag) for name, flag in flags.items()}}
    return yaml.dump(content, Dumper=_NoAliases, sort_keys=False, width=100)


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _describe(action: argparse.Action, inner: Callable[[Any], Any]) -> dict[str, Any]:
    if isinstance(action, argparse.BooleanOptionalAction):
        return {"type": "bool"}
    if action.nargs == 0:
        return {"type": "switch"}
    described: dict[str, Any] = {"type": _type_name(action, inner)}
    choices = [c for c in action.choices or () if isinstance(c, str | int) and c != "None"]
    if choices:
        described["choices"] = choices
    return described


def _type_name(action: argparse.Action, inner: Callable[[Any], Any]) -> str:
    if action.nargs in ("+", "*"):
        return "json"
    kind = inner(action.type) if callable(action.type) else action.type
    return _NAMES.get(getattr(kind, "__name__", "str"), "json")
