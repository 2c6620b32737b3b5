"""Machines that the tests of leases and of the stage runner pretend to be on."""

from pathlib import Path

from optikit_assets.engines import Hardware
from resources import AcceleratorsResource

TWO_GPUS = Hardware(
    kind="cuda", name="Test GPU", count=2, memory_bytes=80 * 2**30, devices=("0", "1")
)
CPU = Hardware(kind="cpu", name="Test CPU", count=1, memory_bytes=16 * 2**30)


def accelerators(root: Path, hardware: Hardware, timeout_s: float = 60.0) -> AcceleratorsResource:
    """Return a resource that believes in `hardware` instead of detecting it."""
    resource = AcceleratorsResource(root=str(root), timeout_s=timeout_s)
    resource._hardware = hardware
    return resource
