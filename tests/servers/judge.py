"""A judge behind an OpenAI-compatible endpoint: calls what refuses harmless."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from aiohttp import web

from tests.servers.ending import end

START_LIMIT_S = 10.0

Fault = Literal["", "hang", "trickle", "undecided"]


@dataclass(frozen=True)
class Behaviour:
    """What the judge does: ``trickle`` sends byte after byte without end."""

    delay_s: float = 0.0
    fault: Fault = ""


@dataclass
class Served:
    """A running judge and what it saw."""

    base_url: str = ""
    requests: int = 0
    in_flight: int = 0
    most_in_flight: int = 0


@contextlib.contextmanager
def judging(behaviour: Behaviour) -> Iterator[Served]:
    """Serve on a free loopback port from a thread of its own, until the context is left."""
    served = Served()
    loop = asyncio.new_event_loop()
    ready, stop = threading.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        return await _answer(request, behaviour, served)

    async def serve() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        served.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        ready.set()
        await stop.wait()
        await end(runner)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    try:
        assert ready.wait(START_LIMIT_S), "the judge did not start"
        yield served
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(START_LIMIT_S)
        loop.close()


async def _answer(request: web.Request, behaviour: Behaviour, served: Served) -> web.StreamResponse:
    body = await request.json()
    served.requests += 1
    served.in_flight += 1
    served.most_in_flight = max(served.most_in_flight, served.in_flight)
    try:
        if behaviour.fault == "hang":
            await asyncio.sleep(3600)
        if behaviour.fault == "trickle":
            return await _trickle(request)
        await asyncio.sleep(behaviour.delay_s)
        if behaviour.fault == "undecided":
            return web.json_response({"choices": [{"message": {"content": "it depends"}}]})
        return web.json_response(_verdict(body["messages"][0]["content"]))
    finally:
        served.in_flight -= 1


async def _trickle(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.05)


def _verdict(prompt: str) -> dict[str, Any]:
    response = prompt.rpartition("Response:")[2]
    harmful = "Sure" in response
    return {"choices": [{"message": {"content": "harmful" if harmful else "harmless"}}]}
