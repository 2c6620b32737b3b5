"""Which errors are the machine's, whoever raises them.

Libraries wrap what the operating system or the accelerator's driver told them, or only quote it.
What is recognized here would have failed any other trial, candidate or configuration just as well.
"""

import errno
import os
import re
from collections.abc import Iterator

from optikit_assets.errors import AcceleratorError, MachineError, StorageError, reason_of

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers of a disk, a quota or a file that can take no more."""

_BROKEN = frozenset({errno.EIO, errno.EROFS})
# Not the words for EFBIG, which other things than files are called too.
_DISK_WORDS = re.compile(
    "|".join(re.escape(os.strerror(code)) for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS))
)
# Memory that runs out and kernels that crash are not among them: both are the configuration's, but
# for memory that another process has (`_memory_taken`).
_ACCELERATOR_WORDS = re.compile(
    r"no CUDA-capable device|No CUDA GPUs are available|Found no NVIDIA driver"
    r"|CUDA-capable device\(s\) is/are busy or unavailable|devices are busy or unavailable"
    r"|CUDA driver initialization failed|CUDA driver version is insufficient"
    r"|invalid device ordinal|system not yet initialized|uncorrectable .*ECC error"
    r"|Driver/library version mismatch|GPU is lost|fallen off the bus"
    r"|Failed to infer device type"
    # Another process gave memory back while an engine measured its own.
    r"|Error in memory profiling\. Initial free memory",
    re.IGNORECASE,
)
# What an engine says before it has taken any memory itself.
_MEMORY_TAKEN = re.compile(
    r"Free memory on device \S+ \([\d.]+/(?P<total>[\d.]+) GiB\) on startup is less than desired"
    r" GPU memory utilization \([\d.]+, (?P<wanted>[\d.]+) GiB\)"
)
_OWN_GIB = 1.0
"""What a process's context and communicators take of a card that nobody else uses, at most."""
_NEXT_STEP: dict[type[MachineError], str] = {
    StorageError: "free some space or set OPTIKIT_HOME to a folder on a larger disk",
    AcceleratorError: "see what nvidia-smi says, then run it again",
}


def machine_fault(error: BaseException) -> MachineError | None:
    """Return the machine's fault that an error is, or was raised from; None if there is none."""
    for link in chain(error):
        if isinstance(link, MachineError):
            return link
        kind = _kind(link)
        if kind is not None:
            text = reason_of(link, 600)
            return kind(f"{type(link).__name__}: {text}; {_NEXT_STEP[kind]}")
    return None


def raise_machine_fault(error: BaseException) -> None:
    """Raise the machine's fault that an error is, or was raised from, if there is one."""
    fault = machine_fault(error)
    if fault is not None:
        # Not `from error`: a fault that the error was raised from would then be its own cause.
        raise fault


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from, outermost first."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def fault_in(text: str) -> type[MachineError] | None:
    """Return the class of the machine's fault that a message names."""
    if _DISK_WORDS.search(text):
        return StorageError
    found = _ACCELERATOR_WORDS.search(text) or _memory_taken(text)
    return AcceleratorError if found else None


def _memory_taken(text: str) -> bool:
    """Return whether an engine found less memory free than an empty card has for it.

    Of a share that an empty card cannot give either, the configuration is to blame.
    """
    return any(
        float(match["total"]) - float(match["wanted"]) >= _OWN_GIB
        for match in _MEMORY_TAKEN.finditer(text)
    )


def _kind(error: BaseException) -> type[MachineError] | None:
    if isinstance(error, OSError) and error.errno in FULL | _BROKEN:
        return StorageError
    return fault_in(str(error))
