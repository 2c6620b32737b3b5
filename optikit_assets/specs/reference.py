"""The tables of ``docs/specs.md``: every key of every file in ``recipes/``, from the models.

``python -m optikit_assets.specs.reference --write docs/specs.md`` fills in what stands between the
marks of a folder, ``<!-- slos -->`` and ``<!-- /slos -->``; the rest of the page is hand-written.
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optikit_assets.specs.base import Spec
from optikit_assets.specs.catalog import FOLDERS
from optikit_assets.specs.prompt_file import PromptFile
from optikit_assets.specs.traces import TraceFile

# What has a name in the schema but no keys of its own in YAML.
_WRITTEN_AS = {PromptFile.__name__: "file", TraceFile.__name__: "file", "JsonValue": "any value"}
_PLAIN = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
}
_SCALAR = ", or ".join(_PLAIN[kind] for kind in ("boolean", "integer", "number", "string"))
_BOUNDS = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}


def filled(page: str) -> str:
    """Return a page with the tables of every folder of ``recipes/`` between its marks.

    Raises
    ------
    ValueError
        If a folder has no marks in it.
    """
    for folder, kind in FOLDERS.items():
        marks = re.compile(rf"(<!-- {folder} -->\n).*?(<!-- /{folder} -->)", re.DOTALL)
        tables = reference(kind)
        page, found = marks.subn(lambda m, tables=tables: m[1] + tables + m[2], page)
        if found != 1:
            raise ValueError(f"expected <!-- {folder} --> … <!-- /{folder} --> once, got {found}")
    return page


def reference(kind: type[Spec]) -> str:
    """Return a table of the keys of a file, then one of each kind of mapping in it."""
    schema = kind.model_json_schema()
    found = dict[str, list[str]]()
    parts = [_table(schema)]
    _find("", schema, schema.get("$defs", {}), found)
    for name, paths in found.items():
        inner = schema["$defs"][name]
        parts += [_heading(paths, inner), _first_paragraph(inner), _table(inner)]
    return "\n\n".join(parts) + "\n"


def _find(
    path: str, schema: dict[str, Any], defs: dict[str, Any], found: dict[str, list[str]]
) -> None:
    """Note the paths of all mappings below a schema, by their definition's name, in order."""
    for key, value in schema["properties"].items():
        for name, suffix in _references(value):
            if name in _WRITTEN_AS:
                continue
            below = f"{path}{key}{suffix}"
            found.setdefault(name, []).append(below)
            _find(f"{below}.", defs[name], defs, found)


def _references(value: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield which definitions a value may have, and how its path goes on to reach them."""
    if "$ref" in value:
        yield value["$ref"].rpartition("/")[2], ""
    for option in (*value.get("anyOf", ()), *value.get("oneOf", ())):
        yield from _references(option)
    for key, suffix in (("items", "[]"), ("additionalProperties", ".NAME")):
        if isinstance(value.get(key), dict):
            yield from ((name, suffix + rest) for name, rest in _references(value[key]))


def _heading(paths: list[str], schema: dict[str, Any]) -> str:
    fixed = [f"`{key}: {v['const']}`" for key, v in schema["properties"].items() if "const" in v]
    required = schema.get("required", [])
    # What tells mappings under one key apart: the value of a key, else the keys it has to have.
    apart = fixed or [f"`{key}`" for key in required if ".NAME" in paths[0]]
    where = ", ".join(f"`{path}`" for path in paths)
    return f"### {where}{' with ' if apart else ''}{' and '.join(apart)}"


def _first_paragraph(schema: dict[str, Any]) -> str:
    first = schema["description"].partition("\n\n")[0]
    return " ".join(first.split()).replace("``", "`")


def _table(schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    lines = ["| key | what it takes | default | meaning |", "|---|---|---|---|"]
    for key, value in schema["properties"].items():
        default = "required" if key in required else _default(value)
        cells = (f"`{key}`", _takes(value), default, value["description"])
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _default(value: dict[str, Any]) -> str:
    default = value.get("default", {})
    return "unset" if default is None else f"`{json.dumps(default, ensure_ascii=False)}`"


def _takes(value: dict[str, Any]) -> str:
    """Return type, choices and range of a value, in words."""
    options = [*value.get("anyOf", ()), *value.get("oneOf", ())]
    if options:
        told = [_takes(option) for option in options if option.get("type") != "null"]
        return ", or ".join(dict.fromkeys(told)).replace(_SCALAR, "plain value")
    if "$ref" in value:
        return _WRITTEN_AS.get(value["$ref"].rpartition("/")[2], "mapping")
    if choices := value.get("enum") or [value[key] for key in ("const",) if key in value]:
        return ", ".join(f"`{choice}`" for choice in choices)
    if value.get("type") == "array":
        least = ", at least one" if value.get("minItems") else ""
        return f"list of: {_takes(value['items'])}{least}"
    if value.get("type") == "object":
        inner = value.get("additionalProperties") or next(iter(value["patternProperties"].values()))
        return f"mapping of names to: {_takes(inner)}"
    bounds = [f"{sign} {value[key]}" for key, sign in _BOUNDS.items() if key in value]
    return ", ".join([_PLAIN.get(value.get("type", ""), "any value"), *bounds])


def main() -> None:
    """Write the tables into a page."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--write", type=Path, required=True, metavar="FILE")
    file: Path = parser.parse_args().write
    file.write_text(filled(file.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
