"""Freed memory, of which the last piece is in use, goes back to the system."""

import subprocess
import sys

PROCESS = """
import gc
import psutil

from optikit_assets.memory import give_back_memory

rss = psutil.Process().memory_info
before = rss().rss
# Too large for Python's own allocator, too small to be mapped one by one.
pieces = [bytearray(4096) for _ in range(20_000)]
last = bytearray(4096)
del pieces
gc.collect()
kept = rss().rss
give_back_memory()
print(kept - before, rss().rss - before)
"""


def test_what_was_freed_below_something_that_is_in_use_is_given_back() -> None:
    output = subprocess.check_output([sys.executable, "-c", PROCESS], text=True, timeout=60)
    kept, left = (int(number) / 2**20 for number in output.split())
    assert kept > 60
    assert left < 20
