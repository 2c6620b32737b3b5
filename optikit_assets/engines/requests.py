"""How a server wants its completions to be asked for, beyond what every OpenAI client sends."""

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Requests:
    """What most engines understand; one that differs has a subclass in its package.

    Picklable: the load client's processes are given it.
    """

    lists_models: ClassVar[bool] = True
    """Whether ``/v1/models`` lists what it serves."""
    takes_token_ids: ClassVar[bool] = True
    """Whether a prompt may be a list of token ids."""
    ends_with_reason: ClassVar[bool] = False
    """Whether a stream ends with an event that says why, holds no token, and is the last: such
    servers send no ``[DONE]``."""

    def exact_length(self, tokens: int) -> dict[str, Any]:
        """Return the keys by which an answer has so many tokens, whatever the model writes."""
        return {"ignore_eos": True, "min_tokens": tokens}

    def own_cache(self, salt: str) -> dict[str, Any]:
        """Return the keys by which a prefix cache serves requests of this salt only."""
        return {"cache_salt": salt}


USUAL = Requests()
