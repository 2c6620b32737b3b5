"""Prompts of the user's own, as JSON Lines."""

import functools
import json
from dataclasses import dataclass
from typing import Any, cast

from pydantic import Field

from optikit_assets.errors import SpecError
from optikit_assets.specs.data_files import DataFile, json_rows, pinned_content

_KEYS = {"prompt", "messages", "output_tokens"}


@dataclass(frozen=True)
class PromptRow:
    """One prompt: a text or a chat's messages; ``output_tokens`` None: the workload's."""

    content: str | list[dict[str, Any]]
    output_tokens: int | None


class PromptFile(DataFile):
    """Rows with ``prompt`` or ``messages``, and ``output_tokens`` if they have their own."""

    chat: bool = Field(description="Whether any row is a chat.")

    @classmethod
    def inspect(cls, path: str, sha256: str) -> dict[str, Any]:
        return {"chat": any(not isinstance(r.content, str) for r in read_prompts(path, sha256))}

    def rows(self) -> tuple[PromptRow, ...]:
        """Return the prompts in the file's order, read once per process."""
        return read_prompts(self.path, self.sha256)


@functools.lru_cache(maxsize=16)
def read_prompts(path: str, sha256: str) -> tuple[PromptRow, ...]:
    """Read prompts whose file has the given digest.

    Raises
    ------
    SpecError
        Naming the row, counted from 1 without empty lines.
    """
    rows = json_rows(path, pinned_content(path, sha256))
    if not rows:
        raise SpecError(path, ["holds no prompt"])
    problems = [f"row {i}: {wrong}" for i, row in enumerate(rows, 1) if (wrong := _problem(row))]
    if problems:
        raise SpecError(path, problems)
    return tuple(
        PromptRow(row["prompt"] if "prompt" in row else row["messages"], row.get("output_tokens"))
        for row in rows
    )


def _problem(row: dict[str, Any]) -> str:
    if unknown := sorted(row.keys() - _KEYS):
        return f"unknown key {', '.join(unknown)}; known: {', '.join(sorted(_KEYS))}"
    if ("prompt" in row) == ("messages" in row):
        return "needs either prompt or messages"
    length = row.get("output_tokens", 1)
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        return f"output_tokens must be a whole number of at least 1 (got {length!r})"
    if "prompt" in row:
        prompt = row["prompt"]
        good = isinstance(prompt, str) and prompt != ""
        return "" if good else f"prompt must be a text (got {json.dumps(prompt)[:60]})"
    return "" if _is_chat(row["messages"]) else "messages must be a list of {role, content}"


def _is_chat(messages: Any) -> bool:
    if not isinstance(messages, list) or not messages:
        return False
    entries = cast("list[Any]", messages)
    return all(isinstance(entry, dict) and {"role", "content"} <= set(entry) for entry in entries)
