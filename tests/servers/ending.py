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
    # The server forgets them, and they stay open until the other side has read all that they hold.
    open_before = [connection.transport for connection in server.connections]
    await runner.cleanup()
    for _ in range(_TURNS):
        for transport in (*open_before, *(it.transport for it in server.connections)):
            if transport is not None:
                transport.abort()
        await asyncio.sleep(0)
