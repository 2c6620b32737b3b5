"""A worker that sends records and a result of the size asked for, and does nothing else."""

import random

from optikit_assets.workers.channel import Emit, worker_main
from optikit_assets.workers.messages import Message
from optikit_assets.workers.records import Progress


class Talk(Message):
    """How much to say."""

    run: int
    records: int
    kilobytes: int


class Said(Message):
    """The result, and what was in the records before it."""

    run: int
    text: str


def text_of(talk: Talk, number: int) -> str:
    """Return the text of a message: another one for every message of every run."""
    return random.Random(f"{talk.run} {number}").randbytes(talk.kilobytes * 512).hex()


def handle(request: Talk, emit: Emit) -> Said:
    """Send the records, then return the result."""
    for number in range(request.records):
        emit(Progress(done=number, total=request.records, text=text_of(request, number)))
    return Said(run=request.run, text=text_of(request, request.records))


if __name__ == "__main__":
    worker_main(Talk, handle)
