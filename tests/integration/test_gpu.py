"""Detection and leases on real GPUs, held against the driver itself."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from optikit_assets.engines.hardware import detect
from optikit_assets.execution.leases import MachineLeases

pytestmark = [pytest.mark.gpu, pytest.mark.alone]

# What CUDA shows a process, asked of the driver's library alone.
VISIBLE = """
import ctypes
cuda, count, name = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.create_string_buffer(256)
assert cuda.cuInit(0) in (0, 100), "100 is CUDA_ERROR_NO_DEVICE"
cuda.cuDeviceGetCount(ctypes.byref(count))
for device in range(count.value):
    cuda.cuDeviceGetName(name, 256, device)
    print(name.value.decode())
"""


@pytest.fixture(autouse=True)
def driver() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pytest.skip("this machine has no NVIDIA GPU")


def visible(**environ: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", VISIBLE],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_what_is_detected_is_what_cuda_shows() -> None:
    hardware = detect()
    names = visible()
    assert (hardware.kind, hardware.count) == ("cuda", len(names))
    assert hardware.name == names[0]
    assert len(hardware.devices) == len(names)
    assert hardware.capability is not None
    assert hardware.memory_bytes > 2**30
    assert hardware.driver


def test_a_leased_worker_sees_its_devices_and_no_other(tmp_path: Path) -> None:
    everything, leases = detect(), MachineLeases(tmp_path, timeout_s=60.0)
    with leases.lease(everything) as lease:
        assert visible(**lease.env()) == [everything.name]
    with leases.lease(everything, everything.count) as lease:
        assert len(visible(**lease.env())) == everything.count
