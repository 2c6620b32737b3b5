"""A client process: ``python -m optikit_assets.benchmarker.client_process SOCKET``.

It sends the loads that its owner gives it, reports on them, and ends when the connection does.
"""

import asyncio
import os
import sys
from dataclasses import replace

from optikit_assets.benchmarker.client import Flight
from optikit_assets.benchmarker.endpoint import Target
from optikit_assets.benchmarker.priority import prompt_thread
from optikit_assets.benchmarker.process_pool import Batch, Stop, hear, tell
from optikit_assets.benchmarker.sending import Load, LocalSender

_BATCH_S = 0.05


class _Outbox:
    """Collects what is to be told of the requests; a journal."""

    def __init__(self) -> None:
        self._running: dict[int, Flight] = {}
        self._settled: list[tuple[int, Flight]] = []
        # Those that were told, and whether with their first token.
        self._told: dict[int, bool] = {}

    def begin(self, index: int, flight: Flight) -> None:
        self._running[index] = flight

    def settle(self, index: int) -> None:
        self._settled.append((index, self._running.pop(index)))
        self._told.pop(index, None)

    def batch(self, now_s: float, cpu_s: float, *, last: bool) -> Batch:
        if last:
            # A task cancelled before its first step never got to say so.
            for index, flight in list(self._running.items()):
                flight.error = flight.error or "cancelled"
                self.settle(index)
        news: list[tuple[int, Flight]] = []
        for index, flight in self._running.items():
            answered = flight.first_token_s == flight.first_token_s
            if self._told.get(index) is not answered:
                self._told[index] = answered
                # Without its gaps: they come once, when it is over.
                told = Flight(flight.scheduled_s, flight.sent_s, flight.first_token_s)
                news.append((index, told))
        settled, self._settled = self._settled, []
        return Batch(now_s, cpu_s, news, settled, last)


async def _serve(socket: str) -> None:
    reader, writer = await asyncio.open_unix_connection(socket)
    tell(writer, os.getpid())
    target: Target = await hear(reader)
    # Whatever its prompts take to load is behind it.
    tell(writer, "ready")
    messages: asyncio.Queue[Load | Stop] = asyncio.Queue()
    async with target.client as client:
        work = asyncio.create_task(_work(replace(target, client=client), messages, writer))
        try:
            while True:
                arrival = asyncio.create_task(hear(reader))
                await asyncio.wait({arrival, work}, return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    arrival.cancel()
                    work.result()
                messages.put_nowait(await arrival)
        except asyncio.IncompleteReadError:
            pass
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


async def _work(
    target: Target, messages: asyncio.Queue[Load | Stop], writer: asyncio.StreamWriter
) -> None:
    while True:
        message = await messages.get()
        # A request to stop may cross with the last report of a load.
        if isinstance(message, Load):
            await _send(target, message, messages, writer)


async def _send(
    target: Target,
    load: Load,
    messages: asyncio.Queue[Load | Stop],
    writer: asyncio.StreamWriter,
) -> None:
    """Send one load to its end, or until told to stop."""
    outbox, now = _Outbox(), target.client.now
    sender = LocalSender(target, load, outbox)
    sending = asyncio.create_task(sender.send())
    try:
        while not (sending.done() and not sender.busy):
            await asyncio.sleep(_BATCH_S)
            tell(writer, outbox.batch(now(), *sender.cpu_s(), last=False))
            if not messages.empty() and isinstance(stop := messages.get_nowait(), Stop):
                sender.until_s = stop.until_s
                await asyncio.sleep(max(0.0, stop.until_s - now()))
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
                if stop.cancel:
                    await sender.finish(cancel=True)
        if not sending.cancelled():
            sending.result()
        tell(writer, outbox.batch(now(), *sender.cpu_s(), last=True))
    finally:
        sending.cancel()
        await sender.finish(cancel=True)


if __name__ == "__main__":
    with prompt_thread():
        asyncio.run(_serve(sys.argv[1]))
