"""Leases of one machine's devices, between threads and between processes."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from optikit_assets import tickets
from optikit_assets.engines import detect
from optikit_assets.errors import AcceleratorError, StorageError
from optikit_assets.execution import LocalExecutor, leases
from optikit_assets.locks import locked
from optikit_assets.settings import REPOSITORY
from tests.unit.execution.devices import CPU, TWO_GPUS, executor_on

pytestmark = pytest.mark.serial

# Says when it asks and when it has what it asked for, and keeps it until it is ended.
HOLDER = """
import sys, time
from pathlib import Path
from tests.unit.execution import devices

machine = getattr(devices, sys.argv[2])
executor = devices.executor_on(Path(sys.argv[1]), machine)
print("asks", flush=True)
with executor.lease(int(sys.argv[3])) as lease:
    print("held", flush=True)
    time.sleep(600)
"""
# Takes one device after the other for a moment each, until it is ended.
STREAM = """
import sys, time
from pathlib import Path
from tests.unit.execution.devices import TWO_GPUS, executor_on
executor = executor_on(Path(sys.argv[1]), TWO_GPUS)
while True:
    with executor.lease():
        print("held", flush=True)
        time.sleep(0.3)
"""


@contextmanager
def process(script: str, home: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", script, str(home), *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def next_line(started: subprocess.Popen[str]) -> str:
    assert started.stdout is not None
    return started.stdout.readline().strip()


def drawn(home: Path) -> list[str]:
    return sorted(f.name for f in (home / "leases" / "queue").iterdir() if f.name.isdigit())


def wait_for_tickets(home: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(drawn(home)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_leases_never_share_a_device(tmp_path):
    gpus = executor_on(tmp_path, TWO_GPUS)
    with gpus.lease() as first, gpus.lease() as second:
        assert sorted(first.devices + second.devices) == ["0", "1"]


def test_a_worker_sees_only_its_devices(tmp_path):
    gpus = executor_on(tmp_path, TWO_GPUS)
    with gpus.lease() as first:
        assert first.env() == {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        with gpus.lease() as second:
            assert second.env()["CUDA_VISIBLE_DEVICES"] == "1"
    with gpus.lease(2) as both:
        assert both.env()["CUDA_VISIBLE_DEVICES"] == "0,1"
        assert both.hardware == TWO_GPUS


def test_a_machine_without_gpu_has_one_slot_and_shows_no_gpu(tmp_path):
    cpu = executor_on(tmp_path, CPU, lease_timeout_s=0)
    assert cpu.slots == 1
    with cpu.lease() as lease:
        assert lease.devices == ()
        assert lease.env()["CUDA_VISIBLE_DEVICES"] == ""
        with pytest.raises(AcceleratorError), cpu.lease():
            pass
    with cpu.lease():
        pass


def test_what_runs_beside_the_accelerators_waits_for_nobody_and_sees_none(tmp_path):
    gpus = executor_on(tmp_path, TWO_GPUS, lease_timeout_s=0)
    with gpus.lease(2), gpus.lease(0) as lease:
        assert lease.env()["CUDA_VISIBLE_DEVICES"] == ""
        assert lease.hardware == TWO_GPUS


@pytest.mark.parametrize("count", [-1, 3])
def test_a_count_that_the_machine_does_not_have_is_refused_at_once(tmp_path, count):
    with (
        pytest.raises(AcceleratorError, match=rf"{count} .* this machine has 2 \(Test GPU\)"),
        executor_on(tmp_path, TWO_GPUS).lease(count),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_waiting_ends_at_the_limit_and_says_where_the_holders_are_named(tmp_path):
    with executor_on(tmp_path).lease():
        started = time.monotonic()
        with (
            pytest.raises(AcceleratorError, match=f"became free within 0 s.*{tmp_path / 'leases'}"),
            executor_on(tmp_path, lease_timeout_s=0.3).lease(),
        ):
            pass
        assert 0.3 <= time.monotonic() - started < 10
    assert drawn(tmp_path) == []


def test_waiting_can_be_broken_off(tmp_path):
    stop = threading.Event()
    stop.set()
    with (
        executor_on(tmp_path).lease(),
        pytest.raises(AcceleratorError, match="broken off"),
        executor_on(tmp_path, lease_timeout_s=600).lease(1, stop),
    ):
        pass


def test_devices_are_free_again_after_an_error_in_the_block(tmp_path):
    gpus = executor_on(tmp_path, TWO_GPUS, lease_timeout_s=0)
    with pytest.raises(ZeroDivisionError), gpus.lease(2):
        raise ZeroDivisionError
    with gpus.lease(2):
        pass


def test_a_folder_that_takes_no_locks_is_the_machines_fault(tmp_path):
    (tmp_path / "leases").write_text("")
    with pytest.raises(StorageError, match="cannot write to"), executor_on(tmp_path).lease():
        pass


def test_devices_of_a_killed_process_are_free_at_once(tmp_path: Path):
    with process(HOLDER, tmp_path, "CPU", "1") as holder:
        assert [next_line(holder), next_line(holder)] == ["asks", "held"]
        with pytest.raises(AcceleratorError), executor_on(tmp_path, lease_timeout_s=0).lease():
            pass
        assert f"pid {holder.pid} on " in (tmp_path / "leases" / "cpu-0.lock").read_text()
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)
        with executor_on(tmp_path, lease_timeout_s=0).lease():
            pass


# --- which card it is -----------------------------------------------------------------------------


def seeing(home: Path, *cards: str, visible: str | None = None, **limits: float) -> LocalExecutor:
    """Return an executor where the driver counts these cards from 0."""
    listed = "".join(f"{n}, GPU-{c}, L4, 23034, 580.1, 8.9\n" for n, c in enumerate(cards))
    environ = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    return executor_on(home, detect(environ, lambda: listed), **limits)


def test_containers_that_count_a_card_differently_do_not_both_get_it(tmp_path: Path) -> None:
    both = seeing(tmp_path, "bb", "aa", lease_timeout_s=0)
    with seeing(tmp_path, "aa").lease() as first:
        assert first.devices == ("0",)
        with pytest.raises(AcceleratorError), both.lease(2):
            pass
        only = seeing(tmp_path, "bb", "aa", visible="GPU-aa", lease_timeout_s=0)
        with pytest.raises(AcceleratorError), only.lease():
            pass
    with only.lease() as later:
        # As this container counts, for engines read numbers.
        assert later.env()["CUDA_VISIBLE_DEVICES"] == "1"


def test_cards_of_two_machines_that_share_the_folder_do_not_block_each_other(
    tmp_path: Path,
) -> None:
    here, there = seeing(tmp_path, "aa"), seeing(tmp_path, "bb", lease_timeout_s=0)
    stop = threading.Event()

    def wait() -> None:
        with pytest.raises(AcceleratorError), here.lease(1, stop):
            pass

    with here.lease():
        with there.lease() as other:
            assert other.devices == ("0",)
        waiter = threading.Thread(target=wait)
        waiter.start()
        wait_for_tickets(tmp_path, 1)
        # Nor do those who wait for other cards.
        try:
            with there.lease():
                pass
        finally:
            stop.set()
            waiter.join(60)


def test_a_process_from_before_an_update_locks_cards_by_number_and_shares_none(
    tmp_path: Path,
) -> None:
    by_number = tmp_path / "leases" / "cuda-0.lock"
    by_number.parent.mkdir()
    by_number.touch()
    now = seeing(tmp_path, "aa", lease_timeout_s=0)
    with locked(by_number), pytest.raises(AcceleratorError), now.lease():
        pass
    with now.lease(), pytest.raises(BlockingIOError), locked(by_number):
        pass
    with now.lease(), seeing(tmp_path, "bb", lease_timeout_s=0).lease():
        pass


# --- in turn --------------------------------------------------------------------------------------


def test_requests_are_served_in_the_order_in_which_they_came(tmp_path):
    served: list[int] = []

    def ask(number: int, count: int) -> None:
        with executor_on(tmp_path, TWO_GPUS).lease(count):
            served.append(number)

    waiting = [threading.Thread(target=ask, args=(n, 1 + n % 2)) for n in range(5)]
    with executor_on(tmp_path, TWO_GPUS).lease(2):
        for number, thread in enumerate(waiting):
            thread.start()
            wait_for_tickets(tmp_path, number + 1)
    for thread in waiting:
        thread.join(60)
    assert served == sorted(served)
    assert drawn(tmp_path) == []


def test_a_request_for_all_devices_is_not_starved_by_a_stream_of_single_ones(tmp_path):
    with ExitStack() as stack:
        streams = [stack.enter_context(process(STREAM, tmp_path)) for _ in range(3)]
        for stream in streams:
            assert next_line(stream) == "held"
        # Their leases overlap: at no moment do they leave both devices free.
        with executor_on(tmp_path, TWO_GPUS).lease(2) as lease:
            assert lease.devices == ("0", "1")


def test_a_waiter_that_was_killed_does_not_block_those_behind_it(tmp_path):
    holding = executor_on(tmp_path, TWO_GPUS).lease()
    with ExitStack() as stack:
        stack.enter_context(holding)
        waiter = stack.enter_context(process(HOLDER, tmp_path, "TWO_GPUS", "2"))
        assert next_line(waiter) == "asks"
        wait_for_tickets(tmp_path, 1)
        # One device is free, but it is kept for the one who came first.
        with (
            pytest.raises(AcceleratorError),
            executor_on(tmp_path, TWO_GPUS, lease_timeout_s=1).lease(),
        ):
            pass
        waiter.send_signal(signal.SIGKILL)
        waiter.wait(10)
        with executor_on(tmp_path, TWO_GPUS, lease_timeout_s=0).lease() as lease:
            assert lease.devices == ("1",)
    assert drawn(tmp_path) == []


def test_who_looks_at_a_ticket_that_was_just_drawn_does_not_end_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking: list[int] = []
    real = tickets.locked

    def looked_at(file: Path) -> AbstractContextManager[None]:
        if file.name == "00000001" and not looking:
            looking.append(os.open(file, os.O_RDONLY))
            fcntl.flock(looking[0], fcntl.LOCK_SH)
        return real(file)

    monkeypatch.setattr(tickets, "locked", looked_at)
    machine = leases.MachineLeases(
        tmp_path, timeout_s=60, clear=lambda: (), pause=lambda _: os.close(looking[0])
    )
    with machine.lease(CPU, 1):
        assert len(looking) == 1
