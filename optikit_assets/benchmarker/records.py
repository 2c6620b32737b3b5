"""The timeline of every request, kept in a JSON Lines file (gzip if its name ends in .gz)."""

import contextlib
import dataclasses
import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, cast

Phase = Literal["ladder", "closed", "warmup", "measured", "tail"]


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request; times are seconds after the start of its probe, None where it never came.

    Attributes
    ----------
    probe, index
        Number of the probe in the benchmark and of the request in the probe. A rung of the ladder
        is no probe: its number is that of its clients, negative.
    phase
        ``measured`` requests are what the verdict rests on; ``tail`` were sent but not needed.
    scheduled_s, sent_s
        When it should have been sent and when it was.
    first_token_s, finished_s
        First and last token.
    input_tokens, output_tokens
        As the server counted them; -1 where it did not say.
    itl_s
        Times between successive token events, microsecond resolution.
    ok, error
        Whether a complete stream came back, and why not.
    """

    probe: int
    index: int
    phase: Phase
    scheduled_s: float
    sent_s: float | None
    first_token_s: float | None
    finished_s: float | None
    input_tokens: int
    output_tokens: int
    itl_s: tuple[float, ...]
    ok: bool
    error: str | None


def append_requests(file: Path, records: Iterable[RequestRecord]) -> None:
    """Append records, one JSON object per line; the folder is created if need be."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with _open(file, "at") as stream:
        stream.writelines(
            json.dumps(dataclasses.asdict(record), separators=(",", ":")) + "\n"
            for record in records
        )


def read_requests(file: Path) -> Iterator[RequestRecord]:
    """Yield the records of a file written by `append_requests`.

    A compressed file whose writer was killed is read as far as it goes.
    """
    with _open(file, "rt") as stream, contextlib.suppress(EOFError):
        for line in stream:
            fields = json.loads(line)
            fields["itl_s"] = tuple(fields["itl_s"])
            yield RequestRecord(**fields)


def _open(file: Path, mode: Literal["at", "rt"]) -> IO[str]:
    if file.suffix == ".gz":
        return cast("IO[str]", gzip.open(file, mode, encoding="utf-8"))
    return file.open(mode, encoding="utf-8")
