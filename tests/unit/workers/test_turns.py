"""Turns of benchmarks side by side, in threads that open the same files, and in processes."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from optikit_assets.errors import AcceleratorError, StorageError
from optikit_assets.tickets import waiting
from optikit_assets.workers.turns import NobodyElse, SideBySide


def turns(root: Path, timeout_s: float = 30.0) -> SideBySide:
    return SideBySide(root, timeout_s=timeout_s)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextmanager
def thread(do: Callable[[], object]) -> Iterator[None]:
    running = threading.Thread(target=do)
    running.start()
    try:
        yield
    finally:
        running.join(30)
        assert not running.is_alive()


def test_probes_take_turns_in_the_order_in_which_their_benchmarks_came(tmp_path: Path) -> None:
    order: list[str] = []
    left = dict.fromkeys("abc", 4)

    def others(name: str) -> int:
        # They are waiting before a turn is over, as they are when a probe takes seconds.
        return sum(count > 0 for other, count in left.items() if other != name)

    def measure(name: str) -> None:
        mine = turns(tmp_path)
        while left[name]:
            with mine.probe():
                order.append(name)
                left[name] -= 1
                until(lambda: waiting(tmp_path / "queue") >= 1 + others(name))

    with thread(lambda: measure("a")), thread(lambda: measure("b")), thread(lambda: measure("c")):
        pass
    rounds = [order[i : i + 3] for i in range(0, 12, 3)]
    assert sorted(rounds[0]) == ["a", "b", "c"]
    assert rounds == 4 * [rounds[0]]


def test_nobody_starts_or_stops_a_server_while_another_one_is_measured(tmp_path: Path) -> None:
    begun, measured = threading.Event(), threading.Event()

    def probe() -> None:
        with turns(tmp_path).probe():
            measured.wait(30)

    def start() -> None:
        until(lambda: waiting(tmp_path / "queue") == 1)
        with turns(tmp_path).quiet():
            begun.set()

    with thread(probe), thread(start):
        assert not begun.wait(0.3)
        measured.set()
    assert begun.is_set()


def test_a_probe_waits_until_all_servers_are_up(tmp_path: Path) -> None:
    starting, probing = threading.Event(), threading.Event()

    def probe() -> None:
        starting.wait(30)
        with turns(tmp_path).probe():
            probing.set()

    with thread(probe), turns(tmp_path).quiet(), turns(tmp_path).quiet():
        starting.set()
        assert not probing.wait(0.3)
    assert probing.is_set()


def test_who_is_killed_in_its_turn_leaves_it_to_the_next(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; "
        "from optikit_assets.workers.turns import SideBySide\n"
        "with SideBySide(Path(sys.argv[1]), timeout_s=30).probe():\n"
        "    print('mine', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "mine\n"
        with (
            pytest.raises(AcceleratorError, match="has loaded this machine for 0 s"),
            turns(tmp_path, 0.1).probe(),
        ):
            pass
        holder.kill()
        with turns(tmp_path).probe():
            assert waiting(tmp_path / "queue") == 1


def test_a_server_that_starts_too_long_is_named_to_who_waits(tmp_path: Path) -> None:
    with (
        turns(tmp_path).quiet(),
        pytest.raises(StorageError, match=r"machine\.lock"),
        turns(tmp_path, 0.1).probe(),
    ):
        pass


def test_who_is_alone_waits_for_nobody() -> None:
    held: list[str] = []
    first, second = NobodyElse(), NobodyElse()
    with first.quiet(), first.probe(), second.probe(), second.quiet():
        held.append("all at once")
    assert held == ["all at once"]
