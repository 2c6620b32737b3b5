"""Getting to know an endpoint before it is measured: does it serve the model, and how to ask it.

Everything that would make every request fail is found here, with one clear `EndpointError`, before
any load is spent.
"""

import asyncio
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from optikit_assets.benchmarker.client import (
    PATHS,
    CompletionClient,
    Flight,
    RequestBody,
    RequestShape,
)
from optikit_assets.benchmarker.prompts import (
    DEFAULT_TOKEN_IDS,
    LETTERS,
    FilePrompts,
    PromptSource,
    SyntheticPrompts,
)
from optikit_assets.engines.requests import Requests
from optikit_assets.errors import EndpointError
from optikit_assets.specs.slo import SloSpec
from optikit_assets.specs.workload import Workload

_ANSWER_S = 10.0
_TRANSIENT_ATTEMPTS = 3
_TRANSIENT_PAUSE_S = 1.0
_CALIBRATIONS = 4
# An idle server answers one token about as quickly as it did at first.
_IDLE_FACTOR = 3.0
_IDLE_SLACK_S = 0.1
_IDLE_PAUSE_S = 0.2
# Text whose tokens are ordinary in any vocabulary that can express it.
_SAMPLE_TEXT = "the quick brown fox jumps over the lazy dog and then sits down to eat some bread"
_MIN_SAMPLE_IDS = 8


@dataclass(frozen=True)
class Target:
    """An endpoint that answered, and how it wants to be asked.

    ``quiet_ttft_s`` and ``quiet_latency_s`` are the times to first and last token of a single
    longest request on the idle server. ``knew_first``: most of the very first prompt was in the
    server's cache, as it says. ``fresh``: nobody asked it with this seed before.
    """

    client: CompletionClient
    model: str
    shape: RequestShape
    prompts: PromptSource
    quiet_ttft_s: float = 0.0
    quiet_latency_s: float = 0.0
    knew_first: bool = False
    fresh: bool = False

    @property
    def url(self) -> str:
        """Where requests go."""
        return self.client.base_url + PATHS[self.shape.endpoint]

    @property
    def caveat(self) -> str:
        """What its results have to be read with, or an empty string."""
        too_high = "answers came from its cache and the rate is too high"
        if self.knew_first:
            return (
                "the server had the first prompt in its prefix cache, from a benchmark before this "
                f"one: {too_high}; take another seed (--seed), or switch its prefix caching off"
            )
        if self.shape.salt or (self.fresh and not isinstance(self.prompts, FilePrompts)):
            return ""
        if isinstance(self.prompts, FilePrompts):
            return (
                "the server refuses cache_salt and the prompts of the file recur in every probe: "
                f"unless its prefix caching is off, {too_high}"
            )
        return (
            "the server refuses cache_salt: if it answered a benchmark with this seed before, and "
            f"its prefix caching is not off, {too_high}; take another seed (--seed)"
        )

    def body(self, probe: int, request: int) -> RequestBody:
        """Return one request of one probe."""
        return self.shape.body(self.model, self.prompts.draw(probe, request))

    def longest(self, request: int) -> RequestBody:
        """Return a longest request, outside any probe."""
        return self.shape.body(self.model, self.prompts.longest(request))

    async def wait_until_idle(self, requests: int) -> None:
        """Wait until the server has finished or dropped what the last probe left behind.

        Raises
        ------
        EndpointError
            If a single request is still slow, or fails, at the client's ``idle_s`` limit.
        """
        client = self.client
        deadline = client.now() + client.limits.idle_s
        attempt = requests
        slow_s = self.quiet_ttft_s * _IDLE_FACTOR + _IDLE_SLACK_S
        while True:
            attempt += 1
            flight = Flight(client.now())
            prompt = replace(self.prompts.longest(attempt), output_tokens=1)
            body = self.shape.body(self.model, prompt)
            await client.complete(flight, body, max(0.1, deadline - client.now()))
            if flight.ok and flight.first_token_s - flight.sent_s <= slow_s:
                return
            if client.now() + _IDLE_PAUSE_S >= deadline:
                seen = (
                    flight.error or f"{flight.first_token_s - flight.sent_s:.2f} s to first token"
                )
                raise EndpointError(
                    f"{client.base_url} did not become idle within {client.limits.idle_s:g} s "
                    f"after a probe (last request: {seen}; idle: {self.quiet_ttft_s:.2f} s): the "
                    "server hangs, died, or serves others too"
                )
            await asyncio.sleep(_IDLE_PAUSE_S)


class _InexactError(EndpointError):
    """Texts of one kind have no exact length."""


async def prepare(
    client: CompletionClient,
    model: str,
    slo: SloSpec,
    seed: int,
    requests: Requests,
) -> Target:
    """Check that the endpoint serves the model and find out how to ask it.

    Raises
    ------
    EndpointError
        Endpoint down, not OpenAI-compatible, model unknown to it, context too short, prompts of
        exact length impossible, or every way to phrase the request refused.
    """
    workload = slo.workload
    if requests.lists_models:
        await _check_model(client, model, workload)
    # Even with the same seed, an earlier run must not have filled the prefix cache for this one.
    full = RequestShape(workload.endpoint, salt=uuid.uuid4().hex[:12], requests=requests)
    shapes = (full, replace(full, salt=""), replace(full, salt="", fixed_length=False))
    refusals: list[str] = []
    sources = await _sources(client, model, workload, seed, requests)
    for shape in shapes if requests.own_cache(full.salt) else shapes[1:]:
        inexact: _InexactError | None = None
        for prompts in sources:
            target = Target(client, model, shape, prompts)
            first = await _ask(target, 0)
            if first.status in (400, 422):
                refusals.append(first.error or "")
                continue
            _raise_if_failed(target, first)
            target = replace(target, knew_first=2 * first.cached_tokens > first.input_tokens > 0)
            try:
                target = await _calibrate(target, first)
            except _InexactError as error:
                inexact = inexact or error
                continue
            second = await _ask(target, 100)
            _raise_if_failed(target, second)
            return replace(
                target,
                quiet_ttft_s=second.first_token_s - second.sent_s,
                quiet_latency_s=second.last_token_s - second.sent_s,
            )
        if inexact is not None:
            raise inexact
    raise EndpointError(
        f"{client.base_url} refuses every request: {'; '.join(dict.fromkeys(refusals))}"
    )


async def _sources(
    client: CompletionClient,
    model: str,
    workload: Workload,
    seed: int,
    requests: Requests,
) -> list[PromptSource]:
    """Return the kinds of prompts that workload and server allow, the preferred one first."""
    if workload.prompts is not None:
        return [FilePrompts(workload, seed)]
    texts: list[PromptSource] = [
        SyntheticPrompts(workload, seed, token_ids=None),
        SyntheticPrompts(workload, seed, token_ids=None, text_pieces=LETTERS),
    ]
    if workload.endpoint == "chat" or not requests.takes_token_ids:
        return texts
    ids = await _ask_for_ids(client, model)
    return [SyntheticPrompts(workload, seed, token_ids=ids), *texts]


async def _check_model(client: CompletionClient, model: str, workload: Workload) -> None:
    url = client.base_url + "/models"
    status, content = await client.get_json(url, _ANSWER_S)
    if status in (401, 403):
        raise EndpointError(
            f"{url} answers HTTP {status}: an API key is needed or wrong: set OPENAI_API_KEY"
        )
    if status >= 500 or status == 429:
        raise EndpointError(f"{url} answers HTTP {status}: the server is not ready to be measured")
    listed = _entries(content)
    if status != 200 or listed is None:
        # Some gateways do not list models; the first completion will tell.
        return
    if model not in listed:
        names = ", ".join(sorted(listed)) or "none"
        raise EndpointError(f"{client.base_url} does not serve model {model!r}; it serves: {names}")
    context = listed[model].get("max_model_len")
    longest, answer = workload.max_input_tokens or 0, workload.max_output_tokens
    needed = longest + answer
    if isinstance(context, int) and context < needed:
        raise EndpointError(
            f"{client.base_url} serves {model!r} with a context of {context} tokens, but the "
            f"workload needs {needed} (input_tokens {longest} + output_tokens {answer} at most): "
            "raise max_model_len or shorten the workload"
        )


def _entries(content: Any) -> dict[str, dict[str, Any]] | None:
    """Return the served models by id, or None if `content` is not a list of models."""
    if not isinstance(content, dict):
        return None
    data = cast("dict[str, Any]", content).get("data")
    if not isinstance(data, list):
        return None
    entries: dict[str, dict[str, Any]] = {}
    for item in cast("list[Any]", data):
        if isinstance(item, dict) and "id" in item:
            entry = cast("dict[str, Any]", item)
            entries[str(entry["id"])] = entry
    return entries


async def _ask_for_ids(client: CompletionClient, model: str) -> Sequence[int]:
    """Return ids that the server's own tokenizer uses, or the conservative default range."""
    url = re.sub(r"/v1$", "", client.base_url) + "/tokenize"
    body = {"model": model, "prompt": _SAMPLE_TEXT, "add_special_tokens": False}
    try:
        status, content = await client.post_json(url, body, _ANSWER_S)
    except EndpointError:
        return DEFAULT_TOKEN_IDS
    if status != 200 or not isinstance(content, dict):
        return DEFAULT_TOKEN_IDS
    tokens = cast("dict[str, Any]", content).get("tokens")
    if not isinstance(tokens, list):
        return DEFAULT_TOKEN_IDS
    ids = sorted({t for t in cast("list[Any]", tokens) if isinstance(t, int)})
    return ids if len(ids) >= _MIN_SAMPLE_IDS else DEFAULT_TOKEN_IDS


async def _ask(target: Target, request: int) -> Flight:
    """Send one request outside any probe, again if the server says that it is only busy."""
    client = target.client
    for attempt in range(_TRANSIENT_ATTEMPTS):
        flight = Flight(client.now())
        body = target.longest(request + attempt)
        await client.complete(flight, body, client.limits.first_request_s)
        transient = flight.status is not None and (flight.status == 429 or flight.status >= 500)
        if not transient or attempt == _TRANSIENT_ATTEMPTS - 1:
            return flight
        await asyncio.sleep(_TRANSIENT_PAUSE_S)
    raise AssertionError("unreachable")


def _raise_if_failed(target: Target, flight: Flight) -> None:
    if not flight.ok:
        raise EndpointError(f"{target.url}: a single request failed: {flight.error}")


async def _calibrate(target: Target, first: Flight) -> Target:
    """Find how many tokens the server adds to a text prompt, so that its length is exact.

    Raises
    ------
    _InexactError
        If its pieces are not one token each.
    """
    prompts = target.prompts
    if not (isinstance(prompts, SyntheticPrompts) and prompts.is_text):
        return target
    base_url = target.client.base_url
    overhead, flight = 0, first
    for attempt in range(_CALIBRATIONS):
        if not flight.usage_reported:
            raise EndpointError(
                f"{base_url} takes no token ids here and reports no usage: the length of prompts "
                "cannot be made exact"
            )
        excess = flight.input_tokens - flight.expected_input
        if excess == 0:
            return target
        overhead += excess
        try:
            target = replace(target, prompts=prompts.with_overhead(overhead))
        except ValueError as error:
            raise _InexactError(f"{base_url}: {error}") from error
        flight = await _ask(target, 10 * (attempt + 1))
        _raise_if_failed(target, flight)
    raise _InexactError(
        f"{base_url} takes no token ids here, and text prompts of exactly {flight.expected_input} "
        f"tokens could not be made (last: {flight.input_tokens})"
    )
