"""How a server forms the batches of its steps, as its flags say it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Batching:
    """What a server's scheduler may do.

    Attributes
    ----------
    most_sequences, most_tokens
        Sequences that run at a time, and tokens that a step computes of prompts and sequences;
        None: no flag bounds them.
    cuts_prompts
        Whether a prompt that a step has no room for is computed in parts.
    keeps_prefixes
        Whether the beginning that prompts share is computed once.
    block_tokens
        Tokens of a block of the cache; a shared beginning is kept in whole ones.
    """

    most_sequences: int | None = None
    most_tokens: int | None = None
    cuts_prompts: bool = True
    keeps_prefixes: bool = True
    block_tokens: int = 1
