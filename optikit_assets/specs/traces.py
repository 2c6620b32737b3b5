"""Traces of real traffic: when requests arrived and how long they were.

Read are JSON Lines with ``timestamp, input_tokens, output_tokens`` and CSV with these columns or
those of two public data sets: the Azure LLM inference traces (Patel et al., 2024) and BurstGPT
(Wang et al., 2024).
"""

import functools
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optikit_assets.errors import SpecError
from optikit_assets.specs.data_files import DataFile, json_rows, pinned_content

MAX_TOKENS = 10_000_000

# Timestamp, input tokens, output tokens.
_FORMATS = (
    ("timestamp", "input_tokens", "output_tokens"),
    ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    ("Timestamp", "Request tokens", "Response tokens"),
)


@dataclass(frozen=True)
class Trace:
    """Requests in order of arrival, every array of shape (n,), n ≥ 2.

    ``times_s`` counts from the first request and spans more than nothing. Token counts may be zero:
    public traces list requests that failed.
    """

    times_s: NDArray[np.float64]
    input_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.times_s)


class TraceFile(DataFile):
    """A trace as a JSON Lines or CSV file."""

    @classmethod
    def inspect(cls, path: str, sha256: str) -> dict[str, Any]:
        read_trace(path, sha256)
        return {}

    def trace(self) -> Trace:
        """Return the trace, read once per process."""
        return read_trace(self.path, self.sha256)


@functools.lru_cache(maxsize=16)
def read_trace(path: str, sha256: str) -> Trace:
    """Read a trace whose content has the given digest.

    Timestamps are seconds or ISO 8601 dates; rows may be in any order.

    Raises
    ------
    SpecError
        Naming the file with the column, or with the row (counted from 1) and its value.
    """
    import pandas as pd

    content = pinned_content(path, sha256)
    if path.endswith(".csv"):
        try:
            frame = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
        except ValueError as error:
            raise SpecError(path, [f"is not valid CSV: {' '.join(str(error).split())}"]) from error
    elif path.endswith(".jsonl"):
        frame = pd.DataFrame(json_rows(path, content)).astype(str)
    else:
        raise SpecError(path, ["is not a trace: its name must end in .csv or .jsonl"])
    columns = _columns(path, [str(name) for name in frame.columns])
    if len(frame) < 2:
        raise SpecError(path, [f"a trace needs at least two requests, not {len(frame)}"])

    problems: list[str] = []

    def check(column: str, good: "pd.Series[bool]", what: str) -> None:
        if not good.all():
            row = int(np.argmin(good.to_numpy()))
            problems.append(
                f"row {row + 1}: {column} {what} (got {frame[column].iloc[row][:60]!r})"
            )

    def counts(column: str) -> "pd.Series[float]":
        values = pd.to_numeric(frame[column], errors="coerce")
        whole = (values >= 0) & (values % 1 == 0)
        check(column, whole, "must be a whole number of at least 0")
        if whole.all():
            check(column, values <= MAX_TOKENS, f"must be at most {MAX_TOKENS}")
        return values

    def seconds(column: str) -> "pd.Series[float]":
        values = pd.to_numeric(frame[column], errors="coerce")
        if values.isna().iloc[0]:
            dates = pd.to_datetime(frame[column], errors="coerce", utc=True, format="ISO8601")
            values = (dates - dates.min()).dt.total_seconds()
        check(column, values.abs() < np.inf, "must be a number of seconds or an ISO 8601 date")
        return values

    times, inputs, outputs = seconds(columns[0]), counts(columns[1]), counts(columns[2])
    if problems:
        raise SpecError(path, problems)
    order = np.argsort(times.to_numpy(), kind="stable")
    times_s = times.to_numpy(dtype=np.float64)[order]
    if times_s[0] == times_s[-1]:
        raise SpecError(path, [f"all {len(frame)} rows have the same {columns[0]}"])
    return Trace(
        times_s - times_s[0],
        inputs.to_numpy(dtype=np.float64)[order].astype(np.int64),
        outputs.to_numpy(dtype=np.float64)[order].astype(np.int64),
    )


def _columns(path: str, names: list[str]) -> tuple[str, str, str]:
    """Return the columns of the format that the file has, or the nearest one's missing columns."""
    nearest = max(_FORMATS, key=lambda columns: len(set(columns) & set(names)))
    missing = [column for column in nearest if column not in names]
    if missing:
        known = "; ".join(", ".join(columns) for columns in _FORMATS)
        raise SpecError(
            path,
            [f"has no column {', '.join(missing)} (has: {', '.join(names)}); a trace has: {known}"],
        )
    return nearest
