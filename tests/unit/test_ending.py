import asyncio
import contextlib
import gc
import socket

import pytest
from aiohttp import web

from tests.servers.ending import end


def test_a_connection_whose_answer_nobody_reads_is_closed() -> None:
    held = 64 * 2**20

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=bytes(held))

    async def serve(client: socket.socket) -> None:
        app = web.Application()
        app.router.add_get("/", answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        client.connect(runner.addresses[0])
        client.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        await asyncio.to_thread(client.recv, 1)
        await end(runner)

    with socket.socket() as client:
        asyncio.run(serve(client))
        gc.collect()


@pytest.mark.parametrize("turns", range(6))
def test_connections_that_are_just_being_accepted_are_closed(turns: int) -> None:
    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    async def serve(clients: list[socket.socket]) -> None:
        app = web.Application()
        app.router.add_get("/", answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        for client in clients:
            client.connect(runner.addresses[0])
            client.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        for _ in range(turns):
            await asyncio.sleep(0)
        await end(runner)

    clients = [socket.socket() for _ in range(5)]
    with contextlib.ExitStack() as stack:
        for client in clients:
            stack.enter_context(client)
        asyncio.run(serve(clients))
        gc.collect()
