"""Prompts of exact token length with shared prefixes, otherwise unlike each other; or one's own.

Prompts are lists of token ids where the server takes them: their length is exact by
construction. The text fallback joins pieces that are one token each: common short words in most
vocabularies, letters in one of characters. Their number is calibrated against the server's own
usage counts before the first probe.

All randomness comes from (seed, probe, request), so a probe can be repeated exactly. No two probes
of a benchmark share anything, not even a prefix: a prefix cache is as cold at the start of one as
at the start of any other, and within a probe it finds what the workload says. Prompts from a file
recur in every probe; there it takes the server's ``cache_salt`` to keep them apart.
"""

import json
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from optikit_assets.benchmarker.lengths import LengthSource
from optikit_assets.specs.prompt_file import PromptRow
from optikit_assets.specs.workload import Workload

# Without a known vocabulary: low enough for a character vocabulary, past the usual special ids.
DEFAULT_TOKEN_IDS: tuple[int, ...] = tuple(range(16, 48))
# Number of the "probe" of requests outside any probe.
PREFLIGHT = 2**30
# The streams of prefixes and of a file's order must not coincide with that of any request.
_PREFIX_STREAM = 2**31 + 2**20
_ORDER_STREAM = 2**31 + 2**24

_WORD_LIST = (
    "the of and to in is you that it he was for on are as with his they at be this have from or "
    "one had by word but not what all were we when your can said there use an each which she do "
    "how their if will up other about out many then them these so some her would make like him "
    "into time has look two more write go see number no way could people my than first water been "
    "call who oil its now find long down day did get come made may part"
)
WORDS = tuple(" " + word for word in re.findall(r"\w+", _WORD_LIST))
LETTERS = tuple(string.ascii_lowercase)


@dataclass(frozen=True)
class Prompt:
    """What one request asks.

    Attributes
    ----------
    content
        JSON: a list of token ids, a text, or a list of chat messages.
    input_tokens
        Length by the server's own count; -1 if only the server knows.
    output_tokens
        Length of the answer that is asked for.
    scope
        Requests of different scopes may not share a prefix cache.
    """

    content: bytes
    input_tokens: int
    output_tokens: int
    scope: str


class PromptSource(Protocol):
    """Makes the prompt of every request, fixed by seed, probe and request."""

    def draw(self, probe: int, request: int) -> Prompt:
        """Return the prompt of one request of one probe."""
        ...

    def longest(self, request: int) -> Prompt:
        """Return the longest request of the workload, outside any probe.

        All have the same length; each is another prompt if there is more than one.
        """
        ...


class SyntheticPrompts:
    """Prompts of random tokens or words.

    The first requests of a probe go through the shared prefixes in order, so that a warm-up of as
    many requests leaves none cold; from then on each draws one.

    Parameters
    ----------
    workload
        Lengths, shared prefixes and endpoint.
    seed
        Seed of the benchmark.
    token_ids
        Ids to draw from; None: text prompts, the only ones that a chat takes.
    text_pieces
        Text only: what is joined, one token each.
    text_overhead
        Text only: tokens that the server adds to the pieces (BOS, a chat's template).
    """

    def __init__(
        self,
        workload: Workload,
        seed: int,
        *,
        token_ids: Sequence[int] | None = DEFAULT_TOKEN_IDS,
        text_pieces: Sequence[str] = WORDS,
        text_overhead: int = 0,
    ) -> None:
        self._is_text = token_ids is None
        self._is_chat = workload.endpoint == "chat"
        if self._is_chat and not self._is_text:
            raise ValueError("a chat takes text, not token_ids")
        self._pieces = list(text_pieces if token_ids is None else map(str, token_ids))
        if len(self._pieces) < 2:
            raise ValueError("token_ids must hold at least two ids")
        self._workload = workload
        self._seed = seed
        self._lengths = LengthSource(workload, seed)
        self._overhead = text_overhead if self._is_text else 0
        shared = workload.prefix_tokens
        if self._overhead + shared >= workload.min_input_tokens:
            # Without a token of their own, all prompts of a prefix would be one and the same.
            prefix = f"prefix_tokens ({shared}) and the " if shared else "the "
            raise ValueError(
                f"input_tokens ({workload.min_input_tokens}) leaves no room beside {prefix}"
                f"{text_overhead} tokens that the server adds"
            )
        # Of one probe only: (probe, number) -> tokens.
        self._prefixes: dict[tuple[int, int], list[str]] = {}

    @property
    def is_text(self) -> bool:
        """Whether prompts are texts rather than lists of token ids."""
        return self._is_text

    def with_overhead(self, tokens: int) -> "SyntheticPrompts":
        """Return the same texts, shorter by what the server adds to them.

        Raises
        ------
        ValueError
            If that leaves no room for a token of their own.
        """
        return SyntheticPrompts(
            self._workload,
            self._seed,
            token_ids=None,
            text_pieces=self._pieces,
            text_overhead=tokens,
        )

    def draw(self, probe: int, request: int) -> Prompt:
        rng = np.random.default_rng((self._seed, probe, request))
        input_tokens = self._lengths.input_tokens(rng, probe, request)
        output_tokens = self._lengths.output_tokens(rng, probe, request)
        count = self._workload.prefixes
        # A single prefix takes no draw.
        prefix = request if request < count else int(rng.integers(count)) if count > 1 else 0
        return self._make(rng, probe, prefix, input_tokens, output_tokens)

    def longest(self, request: int) -> Prompt:
        longest = self._workload.max_input_tokens
        assert longest is not None
        rng = np.random.default_rng((self._seed, PREFLIGHT, request))
        return self._make(rng, PREFLIGHT, 0, longest, self._workload.max_output_tokens)

    def _make(
        self,
        rng: np.random.Generator,
        probe: int,
        prefix: int,
        input_tokens: int,
        output_tokens: int,
    ) -> Prompt:
        room = input_tokens - self._overhead
        shared = self._prefix(probe, prefix)[:room]
        pieces = shared + self._draw(rng, room - len(shared))
        if self._is_text:
            text = "".join(pieces).lstrip()
            content = json.dumps([{"role": "user", "content": text}] if self._is_chat else text)
        else:
            content = "[" + ",".join(pieces) + "]"
        return Prompt(content.encode(), input_tokens, output_tokens, str(probe))

    def _prefix(self, probe: int, number: int) -> list[str]:
        key = (probe, number)
        if key not in self._prefixes:
            if any(known != probe for known, _ in self._prefixes):
                self._prefixes.clear()
            rng = np.random.default_rng((self._seed, probe, _PREFIX_STREAM + number))
            self._prefixes[key] = self._draw(rng, self._workload.prefix_tokens)
        return self._prefixes[key]

    def _draw(self, rng: np.random.Generator, length: int) -> list[str]:
        pieces = self._pieces
        return [pieces[i] for i in rng.integers(0, len(pieces), size=length).tolist()]


class FilePrompts:
    """Prompts from a file, in a random order without repeats until all were used.

    Each probe has an order of its own and, where it needs more prompts than there are, another one
    for each further round; a prefix cache is kept apart by rounds, so that no prompt is answered
    from what an earlier round left there.
    """

    def __init__(self, workload: Workload, seed: int) -> None:
        assert workload.prompts is not None
        self._rows = workload.prompts.rows()
        self._longest = max(self._rows, key=lambda row: len(json.dumps(row.content)))
        self._workload = workload
        self._seed = seed
        self._lengths = LengthSource(workload, seed)
        self._order: tuple[tuple[int, int], list[int]] = ((-1, -1), [])

    def draw(self, probe: int, request: int) -> Prompt:
        part, index = divmod(request, len(self._rows))
        if self._order[0] != (probe, part):
            rng = np.random.default_rng((self._seed, probe, _ORDER_STREAM + part))
            self._order = ((probe, part), rng.permutation(len(self._rows)).tolist())
        row = self._rows[self._order[1][index]]
        output_tokens = row.output_tokens
        if output_tokens is None:
            rng = np.random.default_rng((self._seed, probe, request))
            output_tokens = self._lengths.output_tokens(rng, probe, request)
        return self._make(row, output_tokens, f"{probe}.{part}")

    def longest(self, request: int) -> Prompt:
        scope = f"{PREFLIGHT}.{request}"
        return self._make(self._longest, self._workload.max_output_tokens, scope)

    def _make(self, row: PromptRow, output_tokens: int, scope: str) -> Prompt:
        content = row.content
        if self._workload.endpoint == "chat" and isinstance(content, str):
            content = [{"role": "user", "content": content}]
        return Prompt(json.dumps(content).encode(), -1, output_tokens, scope)
