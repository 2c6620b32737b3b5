"""Prompts of exact token length with a shared prefix, otherwise unlike each other.

Prompts are lists of token ids where the server takes them (vLLM does): their length is exact by
construction. The text fallback joins common short words, each one token in most vocabularies; the
number of words is calibrated against the server's own usage counts before the first probe.

All randomness comes from (seed, probe, request), so a probe can be repeated exactly, and no two
probes of a benchmark share more than the declared prefix: a prefix cache cannot profit from an
earlier request or probe beyond what the workload says.
"""

import json
import re
from collections.abc import Sequence

import numpy as np

from optikit_assets.specs.slo import Workload

# Without a known vocabulary: low enough for a character vocabulary, past the usual special ids.
DEFAULT_TOKEN_IDS: tuple[int, ...] = tuple(range(16, 48))
# The stream of the shared prefix must not coincide with that of any request.
_PREFIX_STREAM = 2**31

_WORD_LIST = (
    "the of and to in is you that it he was for on are as with his they at be this have from or "
    "one had by word but not what all were we when your can said there use an each which she do "
    "how their if will up other about out many then them these so some her would make like him "
    "into time has look two more write go see number no way could people my than first water been "
    "call who oil its now find long down day did get come made may part"
)
_WORDS = tuple(re.findall(r"\w+", _WORD_LIST))


def safe_token_ids(vocabulary_size: int) -> tuple[int, ...]:
    """Return ids that are ordinary tokens in nearly every vocabulary of this size.

    Special tokens sit at the very start (Llama 2, BERT) or the very end (Llama 3, Qwen), so both
    ends are left out.

    Raises
    ------
    ValueError
        If the vocabulary has fewer than 8 tokens.
    """
    if vocabulary_size < 8:
        raise ValueError(f"vocabulary_size must be at least 8, got {vocabulary_size}")
    low = min(1000, vocabulary_size // 8)
    return tuple(range(max(1, low), max(low + 2, vocabulary_size * 3 // 4)))


class PromptSource:
    """Makes the prompt of every request as a JSON fragment, ready to be put into a body.

    Parameters
    ----------
    workload
        ``input_tokens`` and ``prefix_tokens``.
    seed
        Seed of the benchmark.
    token_ids
        Ids to draw from; None: text prompts.
    text_overhead
        Text only: tokens that the server adds to the words (a BOS token, for instance).
    """

    def __init__(
        self,
        workload: Workload,
        seed: int,
        *,
        token_ids: Sequence[int] | None = DEFAULT_TOKEN_IDS,
        text_overhead: int = 0,
    ) -> None:
        self._is_text = token_ids is None
        pieces = [" " + word for word in _WORDS] if token_ids is None else map(str, token_ids)
        self._pieces = list(pieces)
        if len(self._pieces) < 2:
            raise ValueError("token_ids must hold at least two ids")
        self._seed = seed
        self._prefix_length = workload.prefix_tokens
        self._length = workload.input_tokens - (text_overhead if self._is_text else 0)
        if self._length <= 0:
            raise ValueError(
                f"input_tokens ({workload.input_tokens}) leaves no room beside the "
                f"{text_overhead} tokens that the server adds"
            )
        self._prefix = self._draw((seed, _PREFIX_STREAM), min(self._prefix_length, self._length))

    @property
    def is_text(self) -> bool:
        """Whether prompts are strings rather than lists of token ids."""
        return self._is_text

    def fragment(self, probe: int, request: int) -> bytes:
        """Return the prompt as JSON: a list of ids, or a string."""
        own = self._draw((self._seed, probe, request), self._length - len(self._prefix))
        if self._is_text:
            return json.dumps("".join(self._prefix + own).lstrip()).encode()
        return ("[" + ",".join(self._prefix + own) + "]").encode()

    def _draw(self, entropy: tuple[int, ...], length: int) -> list[str]:
        rng = np.random.default_rng(entropy)
        pieces = self._pieces
        return [pieces[i] for i in rng.integers(0, len(pieces), size=length).tolist()]
