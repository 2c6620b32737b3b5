"""Why a server did not come up or died, read from its log."""

import re
import signal
from dataclasses import dataclass
from typing import Literal

from optikit_assets.errors import MachineError, StorageError
from optikit_assets.faults import fault_in

Reason = Literal["exited", "timeout", "port_in_use", "out_of_memory"]

_OUT_OF_MEMORY = re.compile(
    r"out of memory|OutOfMemoryError|CUDA_ERROR_OUT_OF_MEMORY|\bMemoryError\b"
    r"|can't allocate memory|Cannot allocate memory|DefaultCPUAllocator: not enough memory",
    re.IGNORECASE,
)
_PORT_IN_USE = re.compile(r"address already in use|\[Errno 98\]", re.IGNORECASE)
_ERROR_LINE = re.compile(
    r"(?:^|[\s(])(?:[\w.]+\.)?(?P<error>\w*(?:Error|Exception)): (?P<message>\S.*)$"
)


@dataclass(frozen=True)
class LogWords:
    """What an engine's log says in words of its own.

    Parameters
    ----------
    out_of_memory
        Regular expressions, beside what the libraries below it say.
    port_in_use
        The same.
    pointers
        Parts of error lines that only point at the cause, which stands further up.
    """

    out_of_memory: tuple[str, ...] = ()
    port_in_use: tuple[str, ...] = ()
    pointers: tuple[str, ...] = ()


def classify(log: str, exit_code: int | None, words: LogWords) -> Reason:
    """Return the class of a failed start; ``exit_code`` None means that it still runs."""
    if _PORT_IN_USE.search(log) or _says(log, words.port_in_use):
        return "port_in_use"
    # The kernel's out-of-memory killer leaves no line in the log.
    killed = exit_code in (-signal.SIGKILL, 128 + signal.SIGKILL)
    if killed or _says(log, words.out_of_memory) or _OUT_OF_MEMORY.search(log):
        return "out_of_memory"
    return "timeout" if exit_code is None else "exited"


def _says(log: str, texts: tuple[str, ...]) -> bool:
    return any(re.search(text, log, re.IGNORECASE) for text in texts)


def machine_fault_in(log: str) -> type[MachineError] | None:
    """Return the class of the machine's fault that ended a server, None if it was its own.

    A full disk may be told of by any program that it started; of an accelerator only what was
    raised counts, since engines without one say so in passing.
    """
    kind = fault_in(log)
    if kind is None or kind is StorageError:
        return kind
    raised = "\n".join(line for line in log.splitlines() if _ERROR_LINE.search(line))
    return fault_in(raised)


def root_cause(log: str, words: LogWords) -> str:
    """Return the first error line that says more than "see above", or an empty string."""
    for line in log.splitlines():
        match = _ERROR_LINE.search(line)
        if match and not any(pointer in line for pointer in words.pointers):
            return f"{match['error']}: {match['message'].strip()}"
    return ""
