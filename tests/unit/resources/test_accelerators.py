import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from optikit_assets.errors import AcceleratorError
from optikit_assets.settings import REPOSITORY
from tests.unit.resources.devices import CPU, TWO_GPUS, accelerators

pytestmark = pytest.mark.serial

HOLDER = """
import sys, time
from pathlib import Path
from tests.unit.resources.devices import CPU, accelerators

with accelerators(Path(sys.argv[1]), CPU).lease():
    print("held", flush=True)
    time.sleep(600)
"""


def test_two_leases_never_share_a_device(tmp_path):
    gpus = accelerators(tmp_path, TWO_GPUS)
    with gpus.lease() as first, gpus.lease() as second:
        assert sorted(first.devices + second.devices) == ["0", "1"]


def test_a_worker_sees_only_its_devices(tmp_path):
    gpus = accelerators(tmp_path, TWO_GPUS)
    with gpus.lease() as first:
        assert first.env() == {"CUDA_VISIBLE_DEVICES": "0"}
        with gpus.lease() as second:
            assert second.env() == {"CUDA_VISIBLE_DEVICES": "1"}
    with gpus.lease(2) as both:
        assert both.env() == {"CUDA_VISIBLE_DEVICES": "0,1"}


def test_a_machine_without_gpu_has_one_slot_and_shows_no_gpu(tmp_path):
    cpu = accelerators(tmp_path, CPU, timeout_s=0)
    assert cpu.slots == 1
    with cpu.lease() as lease:
        assert lease.devices == ()
        assert lease.env() == {"CUDA_VISIBLE_DEVICES": ""}
        with pytest.raises(AcceleratorError), cpu.lease():
            pass
    with cpu.lease():
        pass


def test_whoever_cannot_get_all_devices_holds_none_while_it_waits(tmp_path):
    gpus = accelerators(tmp_path, TWO_GPUS)
    got_both = threading.Event()

    def take_both() -> None:
        with gpus.lease(2):
            got_both.set()

    waiting = threading.Thread(target=take_both)
    with gpus.lease():
        waiting.start()
        # The other device can still be had, again and again, by who needs just one.
        for _ in range(5):
            with accelerators(tmp_path, TWO_GPUS, timeout_s=10).lease() as single:
                assert single.devices == ("1",)
        assert not got_both.is_set()
    waiting.join(30)
    assert got_both.is_set()


@pytest.mark.parametrize("count", [0, 3])
def test_a_count_that_the_machine_does_not_have_is_refused_at_once(tmp_path, count):
    with (
        pytest.raises(AcceleratorError, match=rf"{count} .* this machine has 2 \(Test GPU\)"),
        accelerators(tmp_path, TWO_GPUS).lease(count),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_waiting_ends_at_the_limit_and_says_where_the_holders_are_named(tmp_path):
    root = tmp_path / "leases"
    with accelerators(root, CPU).lease():
        started = time.monotonic()
        with (
            pytest.raises(AcceleratorError, match=f"became free within 0 s.*{root}"),
            accelerators(root, CPU, timeout_s=0.3).lease(),
        ):
            pass
        assert 0.3 <= time.monotonic() - started < 10


def test_waiting_can_be_broken_off(tmp_path):
    stop = threading.Event()
    stop.set()
    with (
        accelerators(tmp_path, CPU).lease(),
        pytest.raises(AcceleratorError, match="broken off"),
        accelerators(tmp_path, CPU, timeout_s=600).lease(1, stop),
    ):
        pass


def test_devices_are_free_again_after_an_error_in_the_block(tmp_path):
    gpus = accelerators(tmp_path, TWO_GPUS, timeout_s=0)
    with pytest.raises(ZeroDivisionError), gpus.lease(2):
        raise ZeroDivisionError
    with gpus.lease(2):
        pass


def test_devices_of_a_killed_process_are_free_at_once(tmp_path: Path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline().strip() == "held"
            with pytest.raises(AcceleratorError), accelerators(tmp_path, CPU, timeout_s=0).lease():
                pass
            assert f"pid {holder.pid}" in (tmp_path / "cpu-0.lock").read_text()
        finally:
            holder.send_signal(signal.SIGKILL)
    with accelerators(tmp_path, CPU, timeout_s=0).lease():
        pass
