"""An OpenAI-compatible streaming server that imitates an engine with k slots.

A request waits for a free slot, then takes ``prefill_s`` until its first token and ``token_s`` for
every further one. Capacity is therefore known: slots / (prefill_s + (n − 1) · token_s) requests per
second. The faults are those that load tests meet in the wild.
"""

import asyncio
import base64
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from aiohttp import web

from tests.servers.ending import end, stop_accepting
from tests.servers.engine_model import Engine, Shape

START_LIMIT_S = 10.0


@dataclass(frozen=True)
class Behaviour:
    """What the server does.

    ``after`` is the number of completion requests served properly before the fault sets in;
    ``fault`` is one of ``""``, ``"http_429"``, ``"http_500"``, ``"http_503"``, ``"die"``,
    ``"hang"``, ``"malformed"``, ``"truncated"``, ``"error_event"``, ``"short"`` (ignores
    ignore_eos), ``"slow"`` (stalls ten times as long per token).

    A chat begins with a delta that names the role at once, before the prompt is processed. With
    ``reasons``, the first half of its tokens is reasoning. With an ``api_key``, or ``credentials``
    (USER:PASSWORD), HTTP 401 is the answer to whoever does not send them. A text counts one token
    per word, or with ``characters`` one per character, and ``text_overhead``; a chat
    ``template_tokens`` besides its words. With ``ends_with_reason`` the last event says why the
    answer ended, holds the usage and no token, and there is no ``[DONE]``; then the length comes
    from ``length`` in the body, not from ``ignore_eos``. With ``tells_cached`` the usage says of a
    prompt that came before, whatever its salt, that all of it was in the cache.
    """

    slots: int = 4
    prefill_s: float = 0.01
    token_s: float = 0.002
    model: str = "imitation"
    max_model_len: int | None = 512
    takes_token_ids: bool = True
    takes_extensions: bool = True
    reports_usage: bool = True
    lists_models: bool = True
    takes_salt: bool = True
    tells_cached: bool = False
    text_overhead: int = 1
    template_tokens: int = 5
    characters: bool = False
    ends_with_reason: bool = False
    reasons: bool = False
    api_key: str = ""
    credentials: str = ""
    fault: str = ""
    after: int = 0
    shape: Shape | None = None

    def service_s(self, output_tokens: int) -> float:
        return self.prefill_s + (output_tokens - 1) * self.token_s

    def capacity_rps(self, output_tokens: int) -> float:
        return self.slots / self.service_s(output_tokens)


@dataclass
class Server:
    """A running server; ``bodies`` holds every completion or chat request as it was received."""

    base_url: str
    bodies: list[dict[str, Any]] = field(default_factory=list)
    dropped: int = 0


@contextlib.contextmanager
def running(behaviour: Behaviour, port: int = 0) -> Iterator[Server]:
    """Serve on a loopback port, by default a free one, from a thread of its own.

    It ends when the context is left.
    """
    server = Server("")
    ready, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()
    failures: list[BaseException] = []

    async def serve() -> None:
        engine = _Engine(behaviour, server, port)
        await engine.start()
        ready.set()
        await stop.wait()
        await engine.close()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        except BaseException as error:
            failures.append(error)
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=run, name="imitation", daemon=True)
    thread.start()
    try:
        if not ready.wait(START_LIMIT_S) or failures:
            raise RuntimeError("the imitation server did not start") from next(iter(failures), None)
        yield server
    finally:
        if not loop.is_closed():
            loop.call_soon_threadsafe(stop.set)
        thread.join(START_LIMIT_S)
    if failures:
        raise failures[0]


class _Engine:
    def __init__(self, behaviour: Behaviour, server: Server, port: int) -> None:
        self._behaviour = behaviour
        self._port = port
        self._server = server
        self._slots = asyncio.Semaphore(behaviour.slots)
        shape = behaviour.shape
        self._model = None if shape is None else Engine(shape, np.random.default_rng(0))
        self._seen = 0
        self._prompts: set[str] = set()
        app = web.Application(client_max_size=2**26, middlewares=[self._check_key])
        app.router.add_get("/health", self._health)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_post("/v1/chat/completions", self._completions)
        if behaviour.lists_models:
            app.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        self._site: web.TCPSite | None = None
        self._death: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await self._site.start()
        port = self._runner.addresses[0][1]
        self._server.base_url = f"http://127.0.0.1:{port}/v1"

    async def close(self) -> None:
        if self._death is not None:
            await self._death
        await end(self._runner)

    async def _die(self) -> None:
        """Stop listening and break every connection, as a killed process does."""
        assert self._site is not None
        await stop_accepting(self._runner)
        await self._site.stop()
        assert self._runner.server is not None
        for connection in list(self._runner.server.connections):
            if connection.transport is not None:
                connection.transport.abort()

    @web.middleware
    async def _check_key(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        key, credentials = self._behaviour.api_key, self._behaviour.credentials
        wanted = f"Bearer {key}" if key else ""
        if credentials:
            wanted = f"Basic {base64.b64encode(credentials.encode()).decode()}"
        if wanted and request.headers.get("Authorization") != wanted:
            return web.json_response({"error": {"message": "unauthorized"}}, status=401)
        return await handler(request)

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, request: web.Request) -> web.Response:
        entry = {"id": self._behaviour.model, "max_model_len": self._behaviour.max_model_len}
        return web.json_response({"object": "list", "data": [entry]})

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        b = self._behaviour
        body = await request.json()
        self._server.bodies.append(body)
        self._seen += 1
        fault = b.fault if self._seen > b.after else ""
        if refusal := self._refusal(body):
            return web.json_response({"error": {"message": refusal}}, status=400)
        if fault.startswith("http_"):
            status = int(fault.removeprefix("http_"))
            return web.json_response({"error": {"message": "injected"}}, status=status)
        if fault == "die" and self._death is None:
            self._death = asyncio.create_task(self._die())
        try:
            if fault == "hang":
                await asyncio.sleep(3600)
            if self._model is not None:
                return await self._stream(request, body, fault, self._times(body))
            async with self._slots:
                return await self._stream(request, body, fault, self._times(body))
        except (asyncio.CancelledError, ConnectionError):
            self._server.dropped += 1
            if self._model is not None:
                self._model.drop(asyncio.get_running_loop().time())
            raise

    def _times(self, body: dict[str, Any]) -> tuple[float, float]:
        """Return when the first token of a request is due and how far apart tokens are."""
        now_s = asyncio.get_running_loop().time()
        if self._model is None:
            return now_s + self._behaviour.prefill_s, self._behaviour.token_s
        timeline = self._model.admit(now_s, self._prompt_tokens(body))
        steps = max(int(body["max_tokens"]) - 1, 1)
        return timeline.first_token_s, (timeline.finished_s - timeline.first_token_s) / steps

    def _refusal(self, body: dict[str, Any]) -> str:
        b = self._behaviour
        if body["model"] != b.model:
            return f"model {body['model']} does not exist"
        if not b.takes_token_ids and not isinstance(body.get("prompt", ""), str):
            return "prompt must be a string"
        if not b.takes_extensions and "ignore_eos" in body:
            return "unknown key ignore_eos"
        if b.ends_with_reason and "length" not in body:
            return "the length is missing"
        if not b.takes_salt and "cache_salt" in body:
            return "unknown key cache_salt"
        return ""

    def _prompt_tokens(self, body: dict[str, Any]) -> int:
        b = self._behaviour
        if "messages" in body:
            return sum(self._length(m["content"]) for m in body["messages"]) + b.template_tokens
        prompt = body["prompt"]
        return self._length(prompt) + b.text_overhead if isinstance(prompt, str) else len(prompt)

    def _length(self, text: str) -> int:
        return len(text if self._behaviour.characters else text.split())

    def _choice(self, body: dict[str, Any], number: int, tokens: int) -> dict[str, Any]:
        """Return the chunk's choice for one token, as vLLM phrases it."""
        last = number == tokens - 1 and not self._behaviour.ends_with_reason
        finish = "length" if last else None
        if "messages" not in body:
            return {"index": 0, "text": "a", "finish_reason": finish}
        key = "reasoning" if self._behaviour.reasons and number < tokens // 2 else "content"
        return {"index": 0, "delta": {key: "a"}, "finish_reason": finish}

    def _usage(self, body: dict[str, Any], tokens: int) -> dict[str, Any]:
        prompt = self._prompt_tokens(body)
        usage = {"prompt_tokens": prompt, "completion_tokens": tokens}
        if not self._behaviour.tells_cached:
            return usage
        text = json.dumps(body.get("prompt", body.get("messages")))
        cached = prompt if text in self._prompts else None
        self._prompts.add(text)
        return {**usage, "prompt_tokens_details": {"cached_tokens": cached}}

    def _ending(self, body: dict[str, Any], tokens: int) -> dict[str, Any]:
        nothing = {"delta": {}} if "messages" in body else {"text": ""}
        usage = self._usage(body, tokens)
        return {"choices": [{**nothing, "index": 0, "finish_reason": "length"}], "usage": usage}

    async def _stream(
        self, request: web.Request, body: dict[str, Any], fault: str, times_s: tuple[float, float]
    ) -> web.StreamResponse:
        b, loop = self._behaviour, asyncio.get_running_loop()
        first_s, token_s = times_s
        token_s *= 10 if fault == "slow" else 1
        tokens = int(body["max_tokens"])
        if fault == "short":
            tokens = max(1, tokens // 2)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if "messages" in body:
            role = {"role": "assistant", "content": ""}
            opening = {"index": 0, "delta": role, "finish_reason": None}
            await response.write(_event({"choices": [opening]}))
        for number in range(tokens):
            await asyncio.sleep(max(0.0, first_s + number * token_s - loop.time()))
            if number == tokens // 2 and fault == "malformed":
                await response.write(b"data: {not json at all\n\n")
            elif number == tokens // 2 and fault == "error_event":
                await response.write(_event({"error": {"message": "engine died", "code": 500}}))
            else:
                await response.write(_event({"choices": [self._choice(body, number, tokens)]}))
        if fault == "truncated":
            await response.write_eof()
            return response
        if b.ends_with_reason:
            await response.write(_event(self._ending(body, tokens)))
            await response.write_eof()
            return response
        if b.reports_usage and body.get("stream_options", {}).get("include_usage"):
            usage = self._usage(body, tokens)
            await response.write(_event({"choices": [], "usage": usage}))
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"
