"""The flags that an engine has, so that a wrong one is found before a server is started.

The control environment has no engine: each one's ``flags.yaml`` holds what its ``dump_flags`` read
from the command line of the pinned version.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from optikit_assets.errors import SpecError
from optikit_assets.specs.search_space import Scalar

Flags = dict[str, Scalar]
"""Flag name with underscores -> value."""


@dataclass(frozen=True)
class Flag:
    """One engine flag: its type name (see `dumping`), its choices, and its value if it is not set.

    A default of None is one that the engine works out from other things. One that is
    ``server_only`` is of its HTTP server: the engine does not know it.
    """

    name: str
    type: str
    choices: tuple[Any, ...] = ()
    default: Scalar | None = None
    server_only: bool = False

    def problem_with(self, value: Scalar) -> str:
        """Say what is wrong with `value`, or return an empty string."""
        expected = _EXPECTED[self.type]
        if self.type != "json" and not _has_type(self.type, value):
            return f"{value!r} is not {expected}"
        if self.choices and value not in self.choices:
            return f"{value!r} is not one of {', '.join(map(str, self.choices))}"
        return ""


_EXPECTED = {
    "bool": "true or false",
    "switch": "true or false",
    "int": "an integer",
    "size": "an integer or text such as 2k",
    "float": "a number",
    "str": "text",
    "json": "a value",
}


def _has_type(kind: str, value: Scalar) -> bool:
    if kind in ("bool", "switch"):
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if kind == "int":
        return isinstance(value, int)
    if kind == "float":
        return isinstance(value, int | float)
    if kind == "size":
        return isinstance(value, int) or (isinstance(value, str) and bool(value))
    return isinstance(value, str | int)  # "str": some engines write some integers as text


@dataclass(frozen=True)
class FlagCatalog:
    """All flags of one engine's server.

    Parameters
    ----------
    engine
        What messages call the engine.
    version
        Of the engine that the flags were read from.
    flags
        By name.
    owned
        Flags that OptiKIT sets itself, from the model, the lease and the port.
    not_searchable
        Flags that a search may not touch, with the reason. A model's spec may set them.
    gpu_only
        Flags without a meaning on a machine without a GPU.
    text_dependent
        Flags whose gain depends on what prompts say, with the reason.
    """

    engine: str
    version: str
    flags: Mapping[str, Flag]
    owned: frozenset[str] = frozenset()
    not_searchable: Mapping[str, str] = field(default_factory=dict)
    gpu_only: frozenset[str] = frozenset()
    text_dependent: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path, engine: str, **rules: Any) -> "FlagCatalog":
        """Read what an engine's ``dump_flags`` wrote; `rules` are the remaining parameters."""
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        flags = {
            name: Flag(
                name,
                body["type"],
                tuple(body.get("choices", ())),
                body.get("default"),
                body.get("server_only", False),
            )
            for name, body in content["flags"].items()
        }
        return cls(engine, str(content["version"]), flags, **rules)

    def check(self, name: str, value: Scalar) -> str:
        """Say what is wrong with one flag set by hand, or return an empty string."""
        flag = self.flags.get(name)
        if flag is None:
            close = get_close_matches(name, self.flags, n=1)
            suggestion = f"; did you mean {close[0]}?" if close else ""
            return f"{name}: {self.engine} has no such flag{suggestion}"
        if name in self.owned:
            return f"{name}: is set by OptiKIT, leave it out"
        problem = flag.problem_with(value)
        return f"{name}: {problem}" if problem else ""

    def checked(self, flags: Mapping[str, Scalar]) -> Flags:
        """Return flags that were set by hand.

        Raises
        ------
        SpecError
            If one does not exist, has a value of the wrong type or is OptiKIT's own; all at once.
        """
        problems = [why for name, value in flags.items() if (why := self.check(name, value))]
        if problems:
            raise SpecError("engine flags", problems)
        return dict(flags)

    def check_searchable(self, name: str, values: tuple[Scalar, ...]) -> list[str]:
        """Say what is wrong with a flag of a search space and the values it would take."""
        if name in self.not_searchable:
            return [f"parameters.{name}: may not be searched: {self.not_searchable[name]}"]
        found = [self.check(name, value) for value in values]
        return [f"parameters.{problem}" for problem in dict.fromkeys(found) if problem]

    def defaults(self) -> Flags:
        """Return the value of every flag that has a fixed one if it is not set."""
        known = ((name, flag.default) for name, flag in self.flags.items())
        return {name: value for name, value in known if value is not None}

    def to_argv(self, flags: Mapping[str, Scalar]) -> list[str]:
        """Return flags as arguments, for a server that takes no file of them."""
        argv: list[str] = []
        for name, value in flags.items():
            option = "--" + name.replace("_", "-")
            if isinstance(value, bool):
                if value:
                    argv.append(option)
                elif self.flags[name].type == "bool":
                    argv.append("--no-" + option.removeprefix("--"))
            else:
                # One word, so that a value that begins with a dash is not taken for an option.
                argv.append(f"{option}={value}")
        return argv

    def to_arguments(self, flags: Mapping[str, Scalar]) -> dict[str, Any]:
        """Return flags as a call from Python takes them, without the parser of a command line.

        That would read an object, which a spec has as text; what it could not read stays.
        """
        arguments: dict[str, Any] = dict(flags)
        for name, value in flags.items():
            flag = self.flags.get(name)
            if flag and flag.type == "json" and str(value).lstrip().startswith("{"):
                with suppress(ValueError):
                    arguments[name] = json.loads(str(value))
        return arguments

    def from_argv(self, argv: Sequence[str]) -> Flags:
        """Read the flags back from what `to_argv` wrote."""
        flags: Flags = {}
        for word in argv:
            name, given, text = word.removeprefix("--").partition("=")
            name = name.replace("-", "_")
            if given:
                flags[name] = _READ.get(self.flags[name].type, str)(text)
            else:
                flags[name.removeprefix("no_")] = not name.startswith("no_")
        return flags


def _whole_or_text(text: str) -> Scalar:
    return int(text) if text.removeprefix("-").isdecimal() else text


_READ: dict[str, Callable[[str], Scalar]] = {
    "int": int,
    "float": float,
    "size": _whole_or_text,
    "json": _whole_or_text,
}


def integer(value: Scalar | None) -> int | None:
    """Return `value` if it is an integer and no switch."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None
