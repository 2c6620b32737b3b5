"""How `transformers serve` is asked; it refuses (422) every key that it does not know."""

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from optikit_assets.engines.requests import Requests

_NO_TOKEN = -1


@dataclass(frozen=True)
class TransformersRequests(Requests):
    """Text alone; a generation configuration of its own for exact lengths."""

    # It lists what lies in the hub's cache, whatever it serves, and fails where there is none.
    lists_models: ClassVar[bool] = False
    takes_token_ids: ClassVar[bool] = False
    ends_with_reason: ClassVar[bool] = True

    def exact_length(self, tokens: int) -> dict[str, Any]:
        """Let no token end an answer; ``max_tokens`` does.

        A least length (``min_new_tokens``) is dropped with continuous batching, where a request's
        own ``eos_token_id`` is not. What the request leaves out is the model's own.
        """
        return {"generation_config": json.dumps({"eos_token_id": _NO_TOKEN})}

    def own_cache(self, salt: str) -> dict[str, Any]:
        return {}
