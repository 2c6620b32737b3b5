"""How a server in a thread ends without leaving a socket to the garbage collector."""

import asyncio

from aiohttp import web

# A connection that was being accepted is known a few turns of the loop later, and a transport
# closes in the turn after it was told to.
_TURNS = 10


async def end(runner: web.AppRunner) -> None:
    """Stop serving and close every connection, those that were just being accepted included."""
    server = runner.server
    await runner.cleanup()
    for _ in range(_TURNS):
        for connection in list(server.connections) if server is not None else []:
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0)
