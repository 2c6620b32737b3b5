"""Memory that a long-lived process has freed and its allocator keeps."""

import contextlib
import ctypes


def give_back_memory() -> None:
    """Give the system what was freed.

    glibc keeps what a thread has freed for that thread, unless it lies at the end of its heap. In a
    server of many threads that are busy by turns it adds up. Where the C library has no
    ``malloc_trim`` nothing happens.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
