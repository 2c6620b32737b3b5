"""Tables of measurements, printed and kept in the documentation between marks."""

import re
from pathlib import Path


def markdown(rows: list[dict[str, str]]) -> str:
    """Return a Markdown table; the first row gives the columns."""
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row[column] for column in head) + " |" for row in rows]
    return "\n".join(lines)


def write_section(file: Path, name: str, table: str) -> None:
    """Put `table` between the marks ``<!-- NAME -->`` and ``<!-- /NAME -->`` of a file.

    Raises
    ------
    ValueError
        If the file does not have both marks.
    """
    text = file.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", re.S)
    if not pattern.search(text):
        raise ValueError(f"{file} has no section between <!-- {name} --> and <!-- /{name} -->")
    file.write_text(pattern.sub(lambda m: m[1] + table + "\n" + m[2], text), encoding="utf-8")
