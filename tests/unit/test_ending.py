import asyncio
import gc
import socket
import warnings
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from tests.servers.ending import end

ASKED = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


async def held(request: web.Request) -> web.Response:
    """Answer with more than a connection takes before somebody reads."""
    return web.Response(body=bytes(16 * 2**20))


async def late(request: web.Request) -> web.Response:
    await asyncio.sleep(60)
    return web.Response()


async def an_answer_begins(client: socket.socket) -> None:
    await asyncio.to_thread(client.recv, 1)


def turns(count: int) -> Callable[[socket.socket], Awaitable[None]]:
    """Return what lets the loop turn so often."""

    async def pass_by(client: socket.socket) -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    return pass_by


def left_open(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]],
    until: Callable[[socket.socket], Awaitable[None]],
) -> list[str]:
    """Return what a server leaves to the collector that five clients ask and that ends then."""
    clients = [socket.socket() for _ in range(5)]

    async def serve() -> None:
        app = web.Application()
        app.router.add_get("/", answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        for client in clients:
            client.connect(runner.addresses[0])
            client.sendall(ASKED)
        await until(clients[0])
        await end(runner)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        asyncio.run(serve())
        gc.collect()
    for client in clients:
        client.close()
    return [str(one.message) for one in seen if issubclass(one.category, ResourceWarning)]


def test_a_connection_whose_answer_nobody_reads_is_closed() -> None:
    assert left_open(held, an_answer_begins) == []


@pytest.mark.parametrize("count", range(6))
def test_connections_that_are_just_being_accepted_are_closed(count: int) -> None:
    assert left_open(late, turns(count)) == []
