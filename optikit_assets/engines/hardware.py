"""Which accelerator this machine has, found without importing an engine."""

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import psutil

from optikit_assets.environments.nvidia_smi import WITHOUT_GPUS, nvidia_smi
from optikit_assets.errors import AcceleratorError
from optikit_assets.specs.recipe import CpuFeature

WIDE_VECTORS: CpuFeature = "avx512f"
"""What a processor needs to compute with 16-bit floats."""
_QUERY = (
    "--query-gpu=index,uuid,name,memory.total,driver_version,compute_cap",
    "--format=csv,noheader,nounits",
)
# By which a value of CUDA_VISIBLE_DEVICES hides all GPUs on purpose.
_HIDDEN = ("", "-1", "NoDevFiles")
_MIB = 1024**2
_CPUINFO = Path("/proc/cpuinfo")
_KERNEL_FEATURES = frozenset[str](get_args(CpuFeature))
# Where a container's memory limit stands: cgroup v2, then v1.
_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True)
class Hardware:
    """The accelerators that stages may use.

    Parameters
    ----------
    kind
        ``"cuda"``, or ``"cpu"`` when there is no usable GPU.
    name
        Model name of the first GPU, or of the processor.
    count
        GPUs; always 1 on a CPU: the machine is one slot.
    memory_bytes
        Memory of the smallest GPU, or of the machine (of the container, if it is limited).
    driver
        GPU driver version; empty on a CPU.
    cores
        Processor cores this process may run on.
    devices
        What to write into ``CUDA_VISIBLE_DEVICES``, one entry per GPU; empty on a CPU. Numbers as
        this machine or container counts, for engines read them as such.
    uuids
        Which cards those are, in the same order, by names that are the same wherever a card is
        seen from; empty on a CPU.
    features
        The processor's instruction sets by which CPU engines choose their kernels, sorted, e.g.
        ``("avx2", "avx512_bf16", "avx512f")``; empty with a GPU.
    capability
        Least CUDA compute capability of the GPUs, e.g. 8.9; None on a CPU or if the driver does
        not say.
    """

    kind: Literal["cpu", "cuda"]
    name: str
    count: int
    memory_bytes: int
    driver: str = ""
    cores: int = 1
    devices: tuple[str, ...] = ()
    uuids: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    capability: float | None = None

    def measured(self) -> list[object]:
        """Return what measurements depend on; memory in GiB, for a kernel's own share varies."""
        memory_gib = round(self.memory_bytes / 1024**3)
        return [
            self.kind, self.name, self.count, memory_gib, self.driver, self.cores,
            self.capability, *self.features,
        ]  # fmt: skip

    @property
    def accelerator(self) -> str:
        """What the history calls it; a CPU's cost is looked up by the first word."""
        return f"CPU {self.name}" if self.kind == "cpu" else self.name

    @property
    def label(self) -> str:
        """One line for people and for the history, e.g. ``8 x NVIDIA H100 80GB HBM3``."""
        if self.kind == "cpu":
            return f"{self.name} ({self.cores} cores)"
        return f"{self.count} x {self.name}"


def detect(
    environ: Mapping[str, str] | None = None,
    query: Callable[[], str] | None = None,
) -> Hardware:
    """Return the hardware of this machine.

    ``CUDA_VISIBLE_DEVICES`` narrows the choice when it is set, as it does for every CUDA program;
    where it hides all GPUs, the driver is not asked.

    Parameters
    ----------
    environ
        Environment variables; the process's own by default.
    query
        Returns what ``nvidia-smi`` lists, or an empty string without a driver.

    Raises
    ------
    AcceleratorError
        If the driver does not answer, or there are GPUs of which none can be used as it is.
    """
    environ = os.environ if environ is None else environ
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.partition(",")[0].strip() in _HIDDEN:
        return _cpu()
    lines = (query or partial(nvidia_smi, *_QUERY))().strip().splitlines()
    gpus = [_parse(line) for line in lines if line.count(",") >= 5]
    if not gpus:
        return _cpu()
    if visible is not None:
        gpus = _narrow(gpus, visible)
    for gpu in gpus:
        if not gpu.memory_bytes:
            raise AcceleratorError(
                f"{gpu.name} (GPU {gpu.index}): the driver gives no number for its memory, which "
                f"is not supported; leave it out of CUDA_VISIBLE_DEVICES, or {WITHOUT_GPUS}"
            )
    return Hardware(
        kind="cuda",
        name=gpus[0].name,
        count=len(gpus),
        memory_bytes=min(gpu.memory_bytes for gpu in gpus),
        driver=gpus[0].driver,
        cores=_cores(),
        devices=tuple(gpu.index for gpu in gpus),
        uuids=tuple(gpu.uuid for gpu in gpus),
        capability=min((g.capability for g in gpus if g.capability), default=None),
    )


@dataclass(frozen=True)
class _Gpu:
    index: str
    uuid: str
    name: str
    memory_bytes: int
    driver: str
    capability: float | None


def _parse(line: str) -> _Gpu:
    index, uuid, rest = (part.strip() for part in line.split(",", 2))
    # A product name may hold a comma, the last three fields cannot.
    name, memory, driver, capability = (part.strip() for part in rest.rsplit(",", 3))
    mebibytes = _number(memory) or 0.0
    return _Gpu(index, uuid, name, int(mebibytes * _MIB), driver, _number(capability))


def _number(text: str) -> float | None:
    """Return a number; None for what nvidia-smi writes where there is none, e.g. ``[N/A]``."""
    return float(text) if text.replace(".", "", 1).isdigit() else None


def _narrow(gpus: list[_Gpu], visible: str) -> list[_Gpu]:
    """Apply the rules of CUDA: indices or UUID prefixes, in order, up to the first bad entry."""
    chosen: list[_Gpu] = []
    for entry in (part.strip() for part in visible.split(",")):
        match = [g for g in gpus if entry and (g.index == entry or g.uuid.startswith(entry))]
        if len(match) != 1 or match[0] in chosen:
            break
        chosen.append(match[0])
    if not chosen:
        there = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in gpus)
        raise AcceleratorError(
            f"CUDA_VISIBLE_DEVICES={visible} begins with no GPU of this machine, which has "
            f"{there}; slices of one (MIG) are not supported: name whole GPUs, or {WITHOUT_GPUS}"
        )
    return chosen


def _cpu() -> Hardware:
    return Hardware(
        kind="cpu",
        name=_cpu_info("model name") or platform.processor() or platform.machine(),
        count=1,
        memory_bytes=_machine_memory(),
        cores=_cores(),
        features=tuple(sorted(_KERNEL_FEATURES & set(_cpu_info("flags").split()))),
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_info(key: str) -> str:
    """Return the first value of `key` in /proc/cpuinfo, or an empty string."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    found = (line.partition(":")[2].strip() for line in lines if line.startswith(key))
    return next(found, "")


def _machine_memory() -> int:
    total = psutil.virtual_memory().total
    for file in _CGROUP_LIMITS:
        try:
            text = file.read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            return min(total, int(text))
    return total
