"""Whether calibration rows hold evaluation items, which would make the scores worthless.

Texts are compared as sequences of words, lower-cased and without punctuation, as in GPT-3's check
(Brown et al., 2020, appendix C). An item is its question; one of fewer than 13 words, such as "What
is the main idea of the passage?", says too little by itself and is looked for together with its
passage and its choices. These parts may come in any order and with other words between them.

Part i has n_i words. f_i is the share of its 13-grams that a text has; of a part of fewer words, 1
if all of them are there in their order, else 0. The item is in the text if Σ n_i f_i ≥ 0.8 Σ n_i
(Touvron et al., 2023, appendix A.6, count tokens by the same measure).

An item of fewer than 13 words in all may also be a phrase within another text: it counts only if it
makes up most of a turn of the row, which is a message, a line, or a row's whole text. One without
five words in a row is a common phrase and is not looked for.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from optikit_assets.errors import CompressionError
from optikit_assets.optimizer.calibration import load_texts
from optikit_assets.specs.json_text import parse_json

WORDS = 13
SHARE = 0.8
MOST = 0.5
MIN_WORDS = 5
CLEAN = "no calibration row holds an item"
QUESTIONS = ("prompt", "question", "instruction", "problem", "query", "input", "text")

_SURROUNDINGS = re.compile(
    r"article|choice|context|ctx|document|ending|input|option|passage|premise|story", re.IGNORECASE
)
"""Names of fields that belong to a question."""

_LABELS = ("label", "labels")
_WORD = re.compile(r"\w+")
_NAMED_AT_MOST = 3

Texts = tuple[str, tuple[str, ...]]
"""Where a row or an item stands, and its texts: the turns of a row, the parts of an item."""

_Words = list[str]


def check_contamination(rows: Iterable[Texts], items: Iterable[Texts]) -> None:
    """Refuse calibration rows that hold an evaluation item.

    Raises
    ------
    CompressionError
        Naming rows and items.
    """
    found = find_items(rows, items)
    first = [f"{row} holds {item}" for row, item in found[:_NAMED_AT_MOST]]
    if first:
        more = f" and {len(found) - len(first)} more" if len(found) > len(first) else ""
        raise CompressionError(
            f"calibration data hold evaluation items: {'; '.join(first)}{more}; remove these rows, "
            "or set calibration_data in the model's spec to a file without them"
        )


def check_tasks(reference: str, documents: Mapping[str, Iterable[object]]) -> dict[str, str]:
    """Compare calibration data with the documents of tasks.

    Parameters
    ----------
    reference
        Calibration data, as `load_calibration` takes them.
    documents
        Task -> its documents, as they are evaluated.

    Returns
    -------
    dict
        Task -> `CLEAN`, or ``not checked`` and why: rows that cannot be read here, or documents
        without text of their own.

    Raises
    ------
    CompressionError
        If a row holds an item.
    """
    try:
        rows = list(load_texts(reference))
    except CompressionError as error:
        return dict.fromkeys(documents, f"not checked: {error}")
    found: dict[str, str] = {}
    items: list[Texts] = []
    for task, of_task in documents.items():
        texts = [item_texts(document) for document in of_task]
        found[task] = CLEAN if any(texts) else "not checked: its items have no text"
        items += [(f"item {number} of {task}", parts) for number, parts in enumerate(texts)]
    check_contamination(rows, items)
    return found


def item_texts(record: object) -> tuple[str, ...]:
    """Return the parts of an item, the question first; nothing for a record without text.

    The question is the first of `QUESTIONS` that a record has, else its longest text. An answer
    such as a refusal is no item's own.
    """
    if not isinstance(record, Mapping):
        return ()
    fields: Mapping[Any, Any] = record
    own = {key: value for key, value in fields.items() if isinstance(value, str)}
    named = next((own[key] for key in QUESTIONS if own.get(key)), None)
    question = named or max(own.values(), key=len, default="")
    if len(_words(question)) >= WORDS:
        return (question,)
    around = [
        text
        for key, value in fields.items()
        if _SURROUNDINGS.search(str(key))
        for text in _strings(value)
    ]
    return tuple(dict.fromkeys(text for text in (question, *around) if text))


def find_items(rows: Iterable[Texts], items: Iterable[Texts]) -> list[tuple[str, str]]:
    """Return each row that holds an item with the first item that it holds."""
    # An item is looked at closely where a row has one of the grams of its longest part.
    places: dict[tuple[str, ...], list[int]] = defaultdict(list)
    lengths: dict[str, set[int]] = defaultdict(set)
    wanted: list[tuple[str, list[_Words]]] = []
    for name, texts in items:
        parts = _parts(texts)
        longest = max(parts, key=len, default=[])
        if len(longest) < MIN_WORDS:
            continue
        for gram in _grams(longest):
            places[gram].append(len(wanted))
            lengths[gram[0]].add(len(gram))
        wanted.append((name, parts))
    found = []
    for row, texts in rows:
        words = _words("\n".join(texts))
        near = {
            number
            for start, word in enumerate(words)
            for length in lengths.get(word, ())
            for number in places.get(tuple(words[start : start + length]), ())
        }
        held = (wanted[n][0] for n in sorted(near) if _holds(words, texts, wanted[n][1]))
        name = next(held, None)
        if name is not None:
            found.append((row, name))
    return found


def read_items(folder: Path) -> Iterator[Texts]:
    """Return the parts of every item in a task folder's JSON Lines files, one item per line."""
    for file in sorted(folder.rglob("*.jsonl")):
        try:
            content = file.read_bytes()
        except OSError as error:
            raise CompressionError(f"{file} cannot be read: {error.strerror}") from error
        for number, line in enumerate(content.splitlines(), start=1):
            if not line.strip():
                continue
            where = f"{file.name}, line {number}"
            try:
                record = parse_json(line)
            except ValueError as error:
                raise CompressionError(f"{where}: is not JSON: {error}") from error
            if isinstance(record, dict):
                yield where, item_texts(record)


def _strings(value: object) -> Iterator[str]:
    """Yield all texts in a field: a passage, a list of choices, choices by name."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        fields: Mapping[Any, Any] = value
        for key, inner in fields.items():
            if key not in _LABELS:
                yield from _strings(inner)
    elif isinstance(value, Sequence):
        inners: Sequence[Any] = value
        for inner in inners:
            yield from _strings(inner)


def _words(text: str) -> _Words:
    return _WORD.findall(text.lower())


def _parts(texts: Iterable[str]) -> list[_Words]:
    """Return the words of an item's texts; of a short item's lines, which may become turns."""
    parts = [words for text in texts if (words := _words(text))]
    if sum(map(len, parts)) >= WORDS:
        return parts
    return [words for text in texts for line in text.splitlines() if (words := _words(line))]


def _holds(words: _Words, texts: Iterable[str], parts: list[_Words]) -> bool:
    """Whether a row with these words and turns holds the item with these parts."""
    total = sum(map(len, parts))
    if total >= WORDS:
        return _share(words, parts) >= SHARE
    turns = (_words(turn) for text in texts for turn in (text, *text.splitlines()))
    return any(total > MOST * len(turn) and _share(turn, parts) >= SHARE for turn in turns if turn)


def _share(words: _Words, parts: list[_Words]) -> float:
    """Return the share of an item's words that a text has in their order (module's docstring)."""
    text = f" {' '.join(words)} "
    held = 0.0
    for part in parts:
        grams = _grams(part)
        held += len(part) * sum(f" {' '.join(gram)} " in text for gram in grams) / len(grams)
    return held / sum(map(len, parts))


def _grams(words: _Words) -> set[tuple[str, ...]]:
    """Return the 13-grams of a part, or the whole of it if it is shorter."""
    length = min(len(words), WORDS)
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}
