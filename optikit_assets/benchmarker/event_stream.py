"""Counting the tokens of a server-sent event stream with little work for each.

Events of a completion that begin, up to their text, like one that was decoded and found to be a
token are counted with a few byte operations. All others are decoded: the first, those that carry
usage or an error, and whatever does not look alike. Those of a chat always are, since not every one
is a token.
"""

import json
import re
from typing import Any, cast

from optikit_assets.specs.workload import MAX_TOKENS, Endpoint

# Where a chat's delta holds text; reasoning is generated and waited for like the rest.
_TEXT_KEYS = ("content", "reasoning", "reasoning_content")
# An event is a few hundred bytes; more than this without an end is not an event stream.
_MAX_EVENT_BYTES = 1_000_000
ERROR_TEXT_CHARS = 300
_TEXT_BEGIN = re.compile(rb'"choices":.*?"text": ?"')


class EventParser:
    """Counts the token events of a server-sent event stream of completion or chat chunks.

    With `ends_with_reason` the event that says why the answer ended stands for no token, and for
    the end: no ``[DONE]`` follows. That the connection was not cut is for HTTP to say.
    """

    def __init__(
        self, endpoint: Endpoint = "completions", *, ends_with_reason: bool = False
    ) -> None:
        self._endpoint = endpoint
        self._ends_with_reason = ends_with_reason
        self._tokens_seen = False
        self._rest = b""
        # How an event that was decoded and found to be a token began, up to its text.
        self._alike = b""
        self.done = False
        self.usage: tuple[int, int] | None = None
        self.cached_tokens = 0

    def feed(self, chunk: bytes) -> int:
        """Take bytes as they came; return how many token events they completed.

        Raises
        ------
        ValueError
            If what came is not a stream of completion chunks, or reports an error.
        """
        data = self._rest + (chunk.replace(b"\r\n", b"\n") if b"\r" in chunk else chunk)
        if self._alike and (tokens := _tokens_alike(data, self._alike)):
            self._rest = b""
            return tokens
        *events, self._rest = data.split(b"\n\n")
        if len(self._rest) > _MAX_EVENT_BYTES:
            raise ValueError(f"an event of more than {_MAX_EVENT_BYTES} bytes")
        return sum(self._is_token(event) for event in events)

    def close(self) -> None:
        """Check that the stream ended as it should."""
        if not self.done:
            last = "a finish_reason" if self._ends_with_reason else "[DONE]"
            raise ValueError(f"the stream ended without {last}")

    def _is_token(self, event: bytes) -> bool:
        event = event.strip()
        if not event or event.startswith((b":", b"event:", b"id:", b"retry:")):
            return False
        if not event.startswith(b"data:"):
            raise ValueError(f"expected 'data:', got {event[:60]!r}")
        payload = event[5:].lstrip()
        if payload == b"[DONE]":
            self.done = True
            return False
        if not (payload.startswith(b"{") and payload.endswith(b"}")):
            raise ValueError(f"expected JSON, got {payload[:60]!r}")
        if self._alike and event.startswith(self._alike) and not _tells_more(payload):
            return True
        is_token = self._decode(payload)
        if is_token and self._endpoint == "completions":
            # A text that is null, or comes before the choices, begins otherwise.
            begin = _TEXT_BEGIN.search(event)
            self._alike = event[: begin.end()] if begin else b""
        return is_token

    def _decode(self, payload: bytes) -> bool:
        try:
            content = json.loads(payload)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"invalid JSON: {payload[:60]!r}") from error
        if content.get("error") or content.get("object") == "error":
            reported = content.get("error") or content.get("message")
            raise ValueError(f"error in the stream: {str(reported)[:ERROR_TEXT_CHARS]}")
        usage = content.get("usage")
        if usage:
            try:
                self.usage = (_count(usage["prompt_tokens"]), _count(usage["completion_tokens"]))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"usage without token counts: {str(usage)[:60]}") from error
            self.cached_tokens = _cached(usage)
        if "choices" not in content:
            raise ValueError(f"no choices in {payload[:60]!r}")
        is_token, key = (
            (_is_completion_token, "text")
            if self._endpoint == "completions"
            else (_is_chat_token, "delta")
        )
        try:
            if self._ends_with_reason and any(c.get("finish_reason") for c in content["choices"]):
                self.done = True
                # Tokens that print nothing have no event; all that is known of them is the end.
                return not self._tokens_seen and self.usage is not None and self.usage[1] > 0
            seen = any(is_token(choice) for choice in content["choices"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no {key} in {payload[:60]!r}") from error
        self._tokens_seen = self._tokens_seen or seen
        return seen


def _count(tokens: Any) -> int:
    if not (isinstance(tokens, int) and 0 <= tokens <= MAX_TOKENS):
        raise ValueError(f"not a number of tokens: {tokens!r}")
    return tokens


def _cached(usage: dict[str, Any]) -> int:
    """Return the tokens of the prompt that were in the cache; few servers say it, some say null."""
    details = usage.get("prompt_tokens_details")
    if not isinstance(details, dict):
        return 0
    cached = cast("dict[str, Any]", details).get("cached_tokens")
    return cached if isinstance(cached, int) else 0


def _tokens_alike(data: bytes, alike: bytes) -> int:
    """Return how many events `data` is, or 0 unless they are all whole, begin alike and are tokens.

    A few passes over the bytes, however many events they hold.
    """
    if not (data.startswith(alike) and data.endswith(b"}\n\n")) or _tells_more(data):
        return 0
    events = data.count(b"\n\n")
    return events if data.count(b"}\n\n" + alike) == events - 1 else 0


def _tells_more(data: bytes) -> bool:
    """Return whether there may be usage or an error in it."""
    return b'"usage":{' in data or b'"usage": {' in data or b'"error"' in data


def _is_completion_token(choice: dict[str, Any]) -> bool:
    return isinstance(choice["text"], str)


def _is_chat_token(choice: dict[str, Any]) -> bool:
    """Return whether a chat's delta stands for generated tokens.

    The one that opens a message names its role and no text. A later one may be empty: a token that
    prints nothing, such as an end-of-sequence that is ignored.
    """
    delta = choice["delta"]
    parts = [delta[key] for key in _TEXT_KEYS if key in delta]
    return any(parts) or ("role" not in delta and "" in parts)
