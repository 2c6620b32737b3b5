"""Reads one YAML spec file and reports all of its problems at once, with key path and value."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from optikit_assets.errors import SpecError
from optikit_assets.specs.base import Spec
from optikit_assets.specs.endpoint_address import without_credentials
from optikit_assets.specs.yaml_text import BoundedLoader, parse_yaml, read_text

S = TypeVar("S", bound=Spec)


class _UniqueKeyLoader(BoundedLoader):
    """Refuses a mapping that names a key twice; plain YAML keeps the last one silently."""


def _unique_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float | None):
            raise yaml.constructor.ConstructorError(
                None, None, "a key must be a plain value", key_node.start_mark
            )
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} appears twice", key_node.start_mark
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


@functools.lru_cache(maxsize=512)
def _parsed(text: str) -> Any:
    """Return what YAML text holds, for reading alone: all specs are read anew for every partition.

    Files are read each time; text that was seen before is not parsed again, which takes longest.
    """
    return parse_yaml(text, _UniqueKeyLoader)


def load_spec(file: Path, kind: type[S], *, shown_as: str | None = None) -> S:
    """Parse `file` as a `kind`.

    Parameters
    ----------
    file
        YAML file; its stem must equal the spec's name.
    kind
        Spec class.
    shown_as
        How messages name the file; the path itself by default.

    Raises
    ------
    SpecError
        With every problem of the file: unreadable, beyond the limits of `yaml_text`, not a mapping,
        unknown keys, wrong types, values out of range, a name that differs from the file name.
    """
    shown = shown_as or str(file)
    try:
        raw = _parsed(read_text(file))
    except OSError as error:
        raise SpecError(shown, [f"cannot be read: {error.strerror}"]) from error
    except ValueError as error:
        raise SpecError(shown, [str(error)]) from error
    if not isinstance(raw, dict):
        raise SpecError(shown, [f"must be a mapping of keys, not {type(raw).__name__}"])
    problems: list[str] = []
    if isinstance(raw.get("name"), str) and raw["name"] != file.stem:
        problems.append(f"name: {raw['name']!r} must equal the file name {file.stem!r}")
    try:
        # Strict JSON: a list may be a tuple there, but true is not 1, "5" not 5 and 1 not true.
        spec = kind.model_validate_json(
            json.dumps(raw, default=_not_plain), strict=True, context={"folder": file.parent}
        )
    except ValidationError as error:
        raise SpecError(shown, [*describe(error, kind.said_elsewhere), *problems]) from error
    if problems:
        raise SpecError(shown, problems)
    return spec


def describe(error: ValidationError, said_elsewhere: Mapping[str, str]) -> list[str]:
    """Return one line per problem: ``key.path: what is wrong (got VALUE)``."""
    lines: list[str] = []
    for item in error.errors(include_url=False):
        # A union's alternative may have an empty name.
        path = ".".join(str(part) for part in item["loc"] if part != "") or "(file)"
        if item["type"] == "extra_forbidden":
            where = f"; it {said_elsewhere[path]}" if path in said_elsewhere else ""
            lines.append(f"{path}: unknown key (got {_short(item['input'])}){where}")
        elif item["type"] == "missing":
            lines.append(f"{path}: is required")
        else:
            message = item["msg"].removeprefix("Value error, ")
            got = "" if isinstance(item["input"], dict) else f" (got {_short(item['input'])})"
            lines.append(f"{path}: {message[0].lower()}{message[1:]}{got}")
    return lines


def _not_plain(value: Any) -> Any:
    """Let a YAML date, which is no JSON, fail where it stands and not as the text it looks like."""
    return {"date": str(value)}


def _short(value: Any) -> str:
    text = without_credentials(repr(value))
    return text if len(text) <= 80 else text[:77] + "..."
