"""How a server in a thread ends without leaving a socket to the garbage collector."""

import asyncio

from aiohttp import web

# A connection that was being accepted is known a few turns of the loop later, and a transport
# closes in the turn after it was told to.
_TURNS = 10


async def end(runner: web.AppRunner) -> None:
    """Stop serving and close every connection, those that were just being accepted included."""
    server = runner.server
    assert server is not None
    await stop_accepting(runner)
    # What the server knows it forgets, and lets send what it still holds for as long as the other
    # side takes to read it.
    known = [connection.transport for connection in server.connections]
    await runner.cleanup()
    for transport in known:
        if transport is not None:
            transport.abort()
    await _turns()


async def stop_accepting(runner: web.AppRunner) -> None:
    """Accept no connection any more, and let the server know all that were accepted.

    asyncio leaves those open that it has not yet handed over when it stops listening.
    """
    for site in runner.sites:
        for listening in getattr(site._server, "sockets", ()):
            asyncio.get_running_loop().remove_reader(listening.fileno())
    await _turns()


async def _turns() -> None:
    for _ in range(_TURNS):
        await asyncio.sleep(0)
