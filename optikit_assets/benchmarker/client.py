"""Streaming client of an OpenAI-compatible ``/v1/completions`` or ``/v1/chat/completions``.

It shares the machine with the engine under test, so the work per token is small (`event_stream`).
"""

import asyncio
import copy
import errno
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import aiohttp

from optikit_assets.benchmarker.event_stream import ERROR_TEXT_CHARS, EventParser
from optikit_assets.benchmarker.prompts import Prompt
from optikit_assets.engines.requests import USUAL, Requests
from optikit_assets.errors import EndpointError, one_line
from optikit_assets.specs.endpoint_address import EndpointAddress, authorization
from optikit_assets.specs.workload import Endpoint

PATHS: dict[Endpoint, str] = {"completions": "/completions", "chat": "/chat/completions"}

# Shorter than the idle limit of common servers (uvicorn: 5 s), so that the client closes first.
_KEEP_ALIVE_S = 2.0


@dataclass(frozen=True)
class ClientLimits:
    """Limits of every wait of the client, in seconds.

    ``first_request_s`` covers a cold engine; ``idle_s`` the wait for an engine to finish or drop
    what a probe left behind.
    """

    connect_s: float = 5.0
    first_request_s: float = 120.0
    idle_s: float = 60.0


@dataclass
class Flight:
    """One request while it runs; times are those of the client's clock.

    ``output_tokens`` and ``input_tokens`` are -1 where the server reported no usage and nothing
    could be counted; what was asked for is ``expected_…``, -1 where nothing definite was.
    ``cached_tokens`` of the prompt were in the server's cache, as far as it says.
    ``refused``: no connection came about; ``client_fault``: for want of file descriptors here.
    """

    scheduled_s: float
    sent_s: float = float("nan")
    first_token_s: float = float("nan")
    last_token_s: float = float("nan")
    gaps_s: list[float] = field(default_factory=list[float])
    input_tokens: int = -1
    output_tokens: int = -1
    expected_input: int = -1
    expected_output: int = -1
    usage_reported: bool = False
    cached_tokens: int = 0
    error: str | None = None
    status: int | None = None
    refused: bool = False
    client_fault: bool = False

    @property
    def ok(self) -> bool:
        """Whether a complete, well-formed stream came back."""
        return self.error is None


@dataclass(frozen=True)
class RequestBody:
    """A request as sent, the lengths that it asks for (-1: not known), how its stream ends."""

    endpoint: Endpoint
    content: bytes
    input_tokens: int
    output_tokens: int
    ends_with_reason: bool = False


@dataclass(frozen=True)
class RequestShape:
    """How a request is phrased; what a server refuses is left out after the first attempts.

    Attributes
    ----------
    endpoint
        Which path is asked.
    fixed_length
        Ask for an answer of exactly that length.
    salt
        Unless empty, ask for a prefix cache that serves requests of this salt and the prompt's
        scope only.
    requests
        How the server is told so.
    """

    endpoint: Endpoint = "completions"
    fixed_length: bool = True
    salt: str = ""
    requests: Requests = USUAL

    def body(self, model: str, prompt: Prompt) -> RequestBody:
        """Return the request for `prompt`."""
        options: dict[str, Any] = {
            "model": model,
            "max_tokens": prompt.output_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.fixed_length:
            options |= self.requests.exact_length(prompt.output_tokens)
        if self.salt:
            options |= self.requests.own_cache(f"{self.salt}.{prompt.scope}")
        key = b"messages" if self.endpoint == "chat" else b"prompt"
        content = json.dumps(options)[:-1].encode() + b', "' + key + b'": ' + prompt.content + b"}"
        return RequestBody(
            self.endpoint,
            content,
            prompt.input_tokens,
            prompt.output_tokens,
            ends_with_reason=self.requests.ends_with_reason,
        )


class CompletionClient:
    """A connection pool to one endpoint; a context manager.

    Parameters
    ----------
    base_url
        Up to and including ``/v1``. User and password in it are sent, and shown nowhere.
    limits
        Limits of the waits.
    api_key
        Sent as a bearer token, unless the URL has a user.
    clock
        Monotonic seconds; the event loop's by default.

    Raises
    ------
    EndpointError
        If `base_url` is not the URL of an endpoint.
    """

    def __init__(
        self,
        base_url: str,
        *,
        limits: ClientLimits | None = None,
        api_key: str | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        address = EndpointAddress.parse(base_url)
        self.base_url = address.url
        self.limits = limits or ClientLimits()
        self._headers = {
            "Content-Type": "application/json",
            **authorization(address.credentials, api_key),
        }
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    def unopened(self) -> "CompletionClient":
        """Return a client like this one that was not opened yet; it can be sent elsewhere."""
        client = copy.copy(self)
        client._session = None
        return client

    async def __aenter__(self) -> "CompletionClient":
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.limits.connect_s),
            headers=self._headers,
            # Server-set cookies and proxies have no place in a measurement.
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the client was not opened: use it as an async context manager")
        return self._session

    def now(self) -> float:
        """Return the client's clock in seconds."""
        return self._clock() if self._clock else asyncio.get_running_loop().time()

    def cpu_s(self) -> float:
        """Return the processor seconds that this thread, the event loop's, has taken so far."""
        return time.thread_time()

    async def get_json(self, url: str, timeout_s: float) -> tuple[int, Any]:
        """GET `url`; return the status and the parsed body (None if it is not JSON).

        Raises
        ------
        EndpointError
            If no answer came.
        """
        return await self._json("GET", url, None, timeout_s)

    async def post_json(self, url: str, body: dict[str, Any], timeout_s: float) -> tuple[int, Any]:
        """POST `body` as JSON; otherwise like `get_json`."""
        return await self._json("POST", url, json.dumps(body).encode(), timeout_s)

    async def _json(
        self, method: str, url: str, body: bytes | None, timeout_s: float
    ) -> tuple[int, Any]:
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._open_session.request(method, url, data=body) as response,
            ):
                text = await response.text(errors="replace")
        except TimeoutError as error:
            raise EndpointError(f"{url} did not answer within {timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise EndpointError(
                f"{url} cannot be reached ({one_line(error)}): is the server up, and is the URL "
                "right?"
            ) from error
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, None

    async def complete(self, flight: Flight, body: RequestBody, timeout_s: float) -> None:
        """Send one request and follow its stream, recording into `flight`.

        Never raises for what the server does: errors, time-outs and malformed streams become
        ``flight.error``. On cancellation the connection is closed, which makes engines drop the
        request.

        Parameters
        ----------
        flight
            Its ``scheduled_s`` is set by the caller.
        body
            What is sent, and where to.
        timeout_s
            Limit from the scheduled time to the end of the stream.
        """
        flight.expected_input, flight.expected_output = body.input_tokens, body.output_tokens
        flight.sent_s = self.now()
        url = self.base_url + PATHS[body.endpoint]
        try:
            async with (
                asyncio.timeout(max(0.0, flight.scheduled_s + timeout_s - flight.sent_s)),
                self._open_session.post(url, data=body.content) as response,
            ):
                flight.status = response.status
                if response.status != 200:
                    text = (await response.text(errors="replace"))[:ERROR_TEXT_CHARS]
                    flight.error = f"HTTP {response.status}: {' '.join(text.split())}"
                    return
                parser = EventParser(body.endpoint, ends_with_reason=body.ends_with_reason)
                await self._follow(flight, response, parser)
        except asyncio.CancelledError:
            flight.error = "cancelled"
            raise
        except TimeoutError:
            flight.error = f"no end of the stream within {timeout_s:g} s"
        except aiohttp.ClientConnectorError as error:
            flight.refused = True
            flight.client_fault = error.errno in (errno.EMFILE, errno.ENFILE)
            flight.error = f"cannot connect: {one_line(error)}"
        except (aiohttp.ClientError, OSError) as error:
            flight.error = f"connection lost: {one_line(error)}"
        except ValueError as error:
            flight.error = f"malformed stream: {error}"

    async def _follow(
        self, flight: Flight, response: aiohttp.ClientResponse, parser: EventParser
    ) -> None:
        last = flight.first_token_s
        async for chunk in response.content.iter_any():
            now = self.now()
            for _ in range(parser.feed(chunk)):
                if last != last:
                    flight.first_token_s = now
                else:
                    flight.gaps_s.append(now - last)
                last = now
            flight.last_token_s = last
        parser.close()
        if last != last:
            raise ValueError("no token came")
        flight.usage_reported = parser.usage is not None
        if parser.usage is None:
            flight.output_tokens = len(flight.gaps_s) + 1
        else:
            flight.input_tokens, flight.output_tokens = parser.usage
            flight.cached_tokens = parser.cached_tokens
