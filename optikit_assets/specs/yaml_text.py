"""Reads YAML that people hand in, within limits that no honest file comes near.

YAML's aliases let a few lines stand for billions of values, and every nesting is a recursion: both
are refused while they are read, before anything is built of them.
"""

from pathlib import Path
from typing import Any, NamedTuple

import yaml
from yaml.constructor import ConstructorError

MAX_BYTES = 2**20
MAX_DEPTH = 50
MAX_VALUES = 20_000
_MAX_BITS = 1024


class _Extent(NamedTuple):
    """What a node stands for, aliases expanded: values, characters, and levels of nesting."""

    values: int
    characters: int
    height: int


class BoundedLoader(yaml.SafeLoader):
    """Builds plain data; what is too much, and what is no value of its type, is a `YAMLError`."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._values = 0
        self._characters = 0
        self._extents: dict[int, _Extent] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        is_alias = isinstance(event, yaml.AliasEvent)
        values, characters = self._values, self._characters
        self._depth += 1
        self._values += not is_alias
        self._check(event.start_mark)
        node = super().compose_node(parent, index)
        if node is None:
            return node
        if is_alias:
            extent = self._extents.get(id(node))
            if extent is None:
                raise _refusal("an alias stands for what it is part of", event.start_mark)
            self._values += extent.values
            self._characters += extent.characters
        else:
            if isinstance(node, yaml.ScalarNode):
                self._characters += len(node.value)
            extent = _Extent(
                self._values - values, self._characters - characters, self._height(node)
            )
            self._extents[id(node)] = extent
        self._check(event.start_mark, extent.height)
        self._depth -= 1
        return node

    def _height(self, node: yaml.Node) -> int:
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        else:
            inner = node.value if isinstance(node, yaml.SequenceNode) else []
        return 1 + max((self._extents[id(part)].height for part in inner), default=0)

    def _check(self, mark: Any, height: int = 1) -> None:
        if self._depth + height - 1 > MAX_DEPTH:
            raise _refusal(f"values are nested more than {MAX_DEPTH} deep", mark)
        if self._values > MAX_VALUES:
            raise _refusal(f"more than {MAX_VALUES} values, aliases expanded", mark)
        if self._characters > MAX_BYTES:
            raise _refusal(f"more than {MAX_BYTES} characters, aliases expanded", mark)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep=deep)
        except (ValueError, ArithmeticError, LookupError, AttributeError, TypeError) as error:
            # What looks like a number or a date need not be one: 2024-13-45.
            kind = node.tag.rpartition(":")[2]
            text = str(node.value) if isinstance(node, yaml.ScalarNode) else ""
            raise _refusal(f"{_short(text)} is no {kind}", node.start_mark) from error
        if isinstance(value, int) and value.bit_length() > _MAX_BITS:
            raise _refusal(f"{_short(str(node.value))} is too large a number", node.start_mark)
        return value


def read_yaml(file: Path, loader: type[BoundedLoader] = BoundedLoader) -> Any:
    """Return what a YAML file holds.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        Of `read_text` or `parse_yaml`.
    """
    return parse_yaml(read_text(file), loader)


def read_text(file: Path) -> str:
    """Return the text of a file.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is too large or is no UTF-8 text.
    """
    with file.open("rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"is larger than {MAX_BYTES} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text: {error}") from error


def parse_yaml(text: str, loader: type[BoundedLoader] = BoundedLoader) -> Any:
    """Return what YAML text holds.

    Raises
    ------
    ValueError
        If it is not YAML, or goes beyond the limits; the message names the line.
    """
    try:
        return yaml.load(text, Loader=loader)
    except _RefusedError as error:
        raise ValueError(str(error)) from error
    except yaml.YAMLError as error:
        raise ValueError(f"is not valid YAML: {' '.join(str(error).split())}") from error


class _RefusedError(ConstructorError):
    """YAML beyond the limits."""

    def __str__(self) -> str:
        line = "" if self.problem_mark is None else f"line {self.problem_mark.line + 1}: "
        return f"{line}{self.problem}"


def _refusal(problem: str, mark: Any) -> _RefusedError:
    return _RefusedError(None, None, problem, mark)


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
