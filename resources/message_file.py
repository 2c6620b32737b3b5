"""Reads what a worker writes through Pipes, whole lines only.

A message of more than a few kilobytes reaches its file in pieces. Dagster's own file reader parses
whatever is there, and its thread ends at the first half of a line, with all that follows unread.
"""

import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import dagster as dg
from dagster_pipes import PipesDefaultMessageWriter, PipesParams

_SHOWN = 200


class MessageFile(dg.PipesMessageReader):
    """A file that one worker appends its messages to.

    It has no thread: whoever waits for the worker calls `read`, and the end of the Pipes session,
    which comes after the end of the worker, reads the rest.

    Parameters
    ----------
    worker
        How messages call the worker.
    log
        Hears of every line that is no message.
    """

    def __init__(self, worker: str, log: logging.Logger) -> None:
        self.unreadable: list[str] = []
        """What was wrong with each line that is no message, with its beginning."""
        self._worker = worker
        self._log = log
        self._handler: dg.PipesMessageHandler | None = None
        self._file: BinaryIO | None = None
        self._unfinished = b""

    @contextmanager
    def read_messages(self, handler: dg.PipesMessageHandler) -> Iterator[PipesParams]:
        """Make the file; on leaving, hand on what was written and not read yet."""
        with tempfile.TemporaryDirectory(prefix="optikit-messages-") as folder:
            path = Path(folder) / "messages"
            path.touch()
            with path.open("rb") as file:
                self._file, self._handler = file, handler
                try:
                    yield {PipesDefaultMessageWriter.FILE_PATH_KEY: str(path)}
                finally:
                    self.read()
                    self._file = None
                    if self._unfinished:
                        self._complain(self._unfinished, "it ended in the middle of it")

    def read(self) -> None:
        """Hand on the messages that were finished since the last call."""
        if self._file is None:
            return
        *lines, self._unfinished = (self._unfinished + self._file.read()).split(b"\n")
        for line in lines:
            self._hand_on(line)

    def no_messages_debug_text(self) -> str:
        """Return what Dagster adds to its warning if there was no message at all."""
        return "Attempted to read messages from a file of the stage runner."

    def _hand_on(self, line: bytes) -> None:
        assert self._handler is not None
        try:
            self._handler.handle_message(json.loads(line))
        except Exception as error:
            # One bad line may cost no other message, whatever it is that is wrong with it.
            self._complain(line, f"{type(error).__name__}: {error}")

    def _complain(self, line: bytes, reason: str) -> None:
        beginning = line[:_SHOWN].decode("utf-8", "replace")
        problem = f"a message of {len(line)} bytes that begins with {beginning!r}: {reason}"
        self.unreadable.append(problem)
        self._log.error(f"the {self._worker} worker wrote {problem}")
