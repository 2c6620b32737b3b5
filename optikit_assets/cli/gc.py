"""`optikit gc`: what nothing refers to any more."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from optikit_assets.cli.output_file import check_output, write_json
from optikit_assets.disk import human_bytes
from optikit_assets.errors import SpecError
from optikit_assets.headless.garbage import (
    Garbage,
    Unreferenced,
    find_garbage,
    remove_garbage,
)

_UNITS = {"m": 60.0, "h": 3600.0, "d": 24 * 3600.0}


def run_gc(older_than: str, dry_run: bool, json_out: Path | None) -> None:
    """Remove what nothing refers to, or show it; see `find_garbage`."""
    seconds = _seconds(older_than)
    check_output(json_out)
    garbage = find_garbage(seconds)
    gone = garbage.items if dry_run else remove_garbage(garbage)
    if gone:
        (Console() if sys.stdout.isatty() else Console(width=200)).print(_table(gone))
    print(_summary(garbage, gone, dry_run))
    if json_out is not None:
        write_json(json_out, [_record(item) for item in gone])


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([mhd])", text)
    if found is None:
        raise SpecError("<argument>", [f"--older-than {text!r}: write 30m, 12h or 7d"])
    return float(found[1]) * _UNITS[found[2]]


def _table(items: Sequence[Unreferenced]) -> Table:
    table = Table("what", "key", "size", "last use", "why")
    for item in items:
        when = f"{item.last_use.astimezone():%Y-%m-%d %H:%M}"
        size = human_bytes(item.bytes)
        table.add_row(item.what, item.key[:12], size, when, Text(item.why))
    return table


def _summary(garbage: Garbage, gone: Sequence[Unreferenced], dry_run: bool) -> str:
    size = human_bytes(sum(item.bytes for item in gone))
    kept = len(garbage.items) - len(gone)
    since = f"{garbage.unused_since.astimezone():%Y-%m-%d %H:%M}"
    young = f", {garbage.young} were used since {since} ({garbage.because})"
    return (
        f"{len(gone)} {'would go' if dry_run else 'removed'}, {size}; {garbage.needed} are needed"
        + (young if garbage.young else "")
        + (f", {kept} are used now" if kept else "")
    )


def _record(item: Unreferenced) -> dict[str, Any]:
    return {
        "what": item.what,
        "key": item.key,
        "bytes": item.bytes,
        "why": item.why,
        "last_use": item.last_use.isoformat(),
    }
