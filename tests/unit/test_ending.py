import asyncio
import gc
import socket

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
