"""Whether calibration rows hold evaluation items, which would make the scores worthless.

Texts are compared as sequences of words, lower-cased and without punctuation, as in GPT-3's check
(Brown et al., 2020, appendix C). An item is found in a row if at least 80 % of its 13-grams are in
it (Touvron et al., 2023, appendix A.6, count tokens by the same measure); an item of fewer words if
all of them are there in their order. Items of fewer than five words are common phrases and are
not looked for.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from optikit_assets.errors import CompressionError
from optikit_assets.optimizer.calibration import load_texts

WORDS = 13
SHARE = 0.8
MIN_WORDS = 5
CLEAN = "no calibration row holds an item"
QUESTIONS = ("prompt", "question", "instruction", "problem", "query", "input", "text")

_WORD = re.compile(r"\w+")
_NAMED_AT_MOST = 3

Text = tuple[str, str]
"""Where an item stands, and the text."""

Texts = tuple[str, tuple[str, ...]]
"""Where a row stands, and its texts: turns of a conversation, or whatever else it has."""


def check_contamination(rows: Iterable[Texts], items: Iterable[Text]) -> None:
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
            f"calibration data hold evaluation items: {'; '.join(first)}{more}; remove these rows"
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
    items: list[Text] = []
    for task, of_task in documents.items():
        questions = [question(document) for document in of_task]
        found[task] = CLEAN if any(questions) else "not checked: its items have no text"
        items += [(f"item {number} of {task}", text) for number, text in enumerate(questions)]
    check_contamination(rows, items)
    return found


def question(record: object) -> str:
    """Return the first of `QUESTIONS` that a record has, else its longest text, "" without any.

    An answer such as a refusal is no item's own.
    """
    if not isinstance(record, Mapping):
        return ""
    fields: Mapping[Any, Any] = record
    texts = {key: value for key, value in fields.items() if isinstance(value, str)}
    named = next((texts[key] for key in QUESTIONS if key in texts), None)
    return named or max(texts.values(), key=len, default="")


def find_items(rows: Iterable[Texts], items: Iterable[Text]) -> list[tuple[str, str]]:
    """Return each row that holds an item with the first item that it holds."""
    places: dict[tuple[str, ...], set[int]] = defaultdict(set)
    names: list[str] = []
    grams_of: list[int] = []
    for name, text in items:
        grams = _grams(_words(text))
        if grams:
            for gram in grams:
                places[gram].add(len(names))
            names.append(name)
            grams_of.append(len(grams))
    lengths = sorted({len(gram) for gram in places})
    found = []
    for row, texts in rows:
        words = _words("\n".join(texts))
        hits: Counter[int] = Counter()
        for length in lengths:
            for gram in _ngrams(words, length):
                hits.update(places.get(gram, ()))
        held = [index for index, count in hits.items() if count >= SHARE * grams_of[index]]
        if held:
            found.append((row, names[min(held)]))
    return found


def read_items(folder: Path) -> Iterator[Text]:
    """Return the `question` of every item in a task folder's JSON Lines files, one per line."""
    for file in sorted(folder.rglob("*.jsonl")):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            where = f"{file.name}, line {number}"
            try:
                record = json.loads(line)
            except ValueError as error:
                raise CompressionError(f"{where}: is not JSON: {error}") from error
            if isinstance(record, dict):
                yield where, question(record)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _grams(words: list[str]) -> set[tuple[str, ...]]:
    """Return an item's 13-grams, the whole item if it is shorter, nothing if it is too short."""
    if len(words) < MIN_WORDS:
        return set()
    return set(_ngrams(words, min(len(words), WORDS)))


def _ngrams(words: list[str], length: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}
