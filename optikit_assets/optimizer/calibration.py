"""Calibration data: where rows come from, what a row looks like as text, its digest.

A reference is a JSON Lines or Parquet file or ``hf:ORG/DATASET[@REVISION]``. A record has at least
one of

- ``messages``: a conversation; rendered by the model's chat template if it has one,
- ``text``: used as it is,
- ``prompt``: used as it is.

The first of these that the model can use is taken, in this order, which is how
``neuralmagic/LLM_compression_calibration`` (both ``text`` and ``messages``) is meant to be used.
Rows stay as they are: nothing is concatenated, nothing is padded.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from optikit_assets.errors import CompressionError
from optikit_assets.sources.references import check_commit, is_hub_dataset, parse_dataset
from optikit_assets.specs.json_text import parse_json

PARQUET = ".parquet"

Message = dict[str, Any]
RenderChat = Callable[[list[Message]], str]


@dataclass(frozen=True)
class CalibrationRow:
    """Text of one calibration row.

    ``templated`` says that a chat template made the text, so that its special tokens are already
    in it and the tokenizer must not add any. ``number`` is the record's place in the data: the line
    of a file, from 1, or the row of a table, from 0.
    """

    text: str
    templated: bool = False
    number: int = field(default=-1, compare=False)


@dataclass(frozen=True)
class CalibrationData:
    """All rows of one reference, empty ones left out.

    ``empty_rows`` counts what was left out: an empty row has no tokens, becomes a float tensor
    and breaks the Hessian.
    """

    reference: str
    rows: tuple[CalibrationRow, ...]
    empty_rows: int


def resolve_calibration(reference: str, repo_root: Path) -> str:
    """Return `reference` with a relative file path made absolute; hub references stay as they are.

    Raises
    ------
    CompressionError
        If the file does not exist or the hub reference is malformed.
    """
    if is_hub_dataset(reference):
        _hub_name(reference)
        return reference
    path = repo_root / reference
    if not path.is_file():
        raise CompressionError(
            f"calibration data {reference!r} is not a file below {repo_root}; "
            "set calibration_data in the model's spec to a JSON Lines or Parquet file, here or at "
            "s3://, gs://, az:// or webhdfs://, or to hf:ORG/DATASET"
        )
    return str(path.resolve())


def load_calibration(
    reference: str,
    *,
    repo_root: Path | None = None,
    render_chat: RenderChat | None = None,
) -> CalibrationData:
    """Read all rows of `reference`.

    Parameters
    ----------
    reference
        JSON Lines or Parquet file, or ``hf:ORG/DATASET[@REVISION]``.
    repo_root
        What a relative path is relative to; the working directory by default.
    render_chat
        Turns ``messages`` into text; None for a model without a chat template.

    Raises
    ------
    CompressionError
        If the data cannot be read, a record is malformed (file and line are named), or no row
        has any text.
    """
    rows: list[CalibrationRow] = []
    empty = 0
    for number, where, record in _records(reference, repo_root):
        row = replace(_row(record, where, render_chat), number=number)
        if row.text.strip():
            rows.append(row)
        else:
            empty += 1
    if not rows:
        raise CompressionError(
            f"calibration data {reference!r} has no row with text ({empty} empty rows); "
            "give it at least as many rows as the recipe asks for"
        )
    return CalibrationData(reference, tuple(rows), empty)


def load_texts(
    reference: str, *, repo_root: Path | None = None
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield where each record stands, and all of its texts: each message, ``text``, ``prompt``.

    Which of them calibrate depends on the model. Raises like `load_calibration`, but for data
    without text.
    """
    for _, where, record in _records(reference, repo_root):
        _row(record, where, None)
        messages = record.get("messages") or []
        texts = [*(m["content"] for m in messages), record.get("text"), record.get("prompt")]
        yield where, tuple(str(text) for text in texts if text)


def rows_digest(rows: Sequence[CalibrationRow]) -> str:
    """Return the sha256 of the rows in their order."""
    content = json.dumps([[row.text, row.templated] for row in rows], ensure_ascii=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _records(reference: str, repo_root: Path | None) -> Iterable[tuple[int, str, Any]]:
    """Return the number of each record, where it stands, and the record."""
    resolved = resolve_calibration(reference, repo_root or Path.cwd())
    if is_hub_dataset(resolved):
        return _hub_records(resolved)
    if resolved.endswith(PARQUET):
        return _parquet_records(Path(resolved), reference)
    return _file_records(Path(resolved), reference)


def _file_records(path: Path, shown_as: str) -> Iterable[tuple[int, str, Any]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                where = f"{shown_as}, line {number}"
                try:
                    record = parse_json(line)
                except ValueError as error:
                    raise CompressionError(f"{where}: is not JSON: {error}") from error
                yield number, where, record
    except (OSError, UnicodeDecodeError) as error:
        raise CompressionError(f"calibration data {shown_as} cannot be read: {error}") from error


def _parquet_records(path: Path, shown_as: str) -> Iterable[tuple[int, str, Any]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        number = 0
        for batch in parquet.ParquetFile(path).iter_batches():
            for record in batch.to_pylist():
                yield number, f"{shown_as}, row {number}", record
                number += 1
    except (OSError, pa.ArrowException) as error:
        raise CompressionError(f"calibration data {shown_as} cannot be read: {error}") from error


def _hub_name(reference: str) -> tuple[str, str | None]:
    try:
        return parse_dataset(reference)
    except ValueError as error:
        raise CompressionError(f"calibration data {error}") from error


def _hub_records(reference: str) -> Iterable[tuple[int, str, Any]]:
    from datasets import load_dataset_builder

    name, revision = _hub_name(reference)
    try:
        builder = load_dataset_builder(name, revision=revision)
        check_commit(name, revision, builder.hash)
        builder.download_and_prepare()
        splits = builder.as_dataset()
    except Exception as error:
        raise CompressionError(
            f"calibration data {reference} cannot be fetched ({type(error).__name__}: {error}); "
            "check the network and the name, or set calibration_data in the model's spec to a "
            "local JSON Lines or Parquet file"
        ) from error
    split = "train" if "train" in splits else next(iter(splits))
    for number, record in enumerate(splits[split]):
        yield number, f"{reference}, split {split}, row {number}", record


def _row(record: Any, where: str, render_chat: RenderChat | None) -> CalibrationRow:
    if not isinstance(record, dict):
        raise CompressionError(
            f"{where}: must be an object with text, messages or prompt, not {type(record).__name__}"
        )
    messages = record.get("messages")
    if messages is not None:
        _check_messages(messages, where)
        if messages and render_chat is not None:
            return CalibrationRow(_rendered(messages, where, render_chat), templated=True)
    for key in ("text", "prompt"):
        if record.get(key) is not None:
            if not isinstance(record[key], str):
                raise CompressionError(
                    f"{where}: {key} must be text, not {type(record[key]).__name__}"
                )
            return CalibrationRow(record[key])
    if messages is not None:
        # A base model has no template: what was said is still representative text.
        return CalibrationRow("\n".join(str(m["content"]) for m in messages))
    raise CompressionError(
        f"{where}: has none of text, messages, prompt; its keys: "
        f"{', '.join(map(str, record)) or 'none'}"
    )


def _rendered(messages: list[Message], where: str, render_chat: RenderChat) -> str:
    try:
        return render_chat(messages)
    except Exception as error:
        # Templates refuse roles and orders of turns that their model was not trained on.
        raise CompressionError(
            f"{where}: the model's chat template refuses its messages "
            f"({type(error).__name__}: {error}); change them, or give the row as text instead"
        ) from error


def _check_messages(messages: Any, where: str) -> None:
    well_formed = isinstance(messages, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and "content" in m for m in messages
    )
    if not well_formed:
        raise CompressionError(f"{where}: messages must be a list of {{role, content}} objects")
