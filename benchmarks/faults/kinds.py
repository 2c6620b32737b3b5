"""The faults: what each does to a stage in its middle, and how it is taken back.

Kills are ``SIGKILL``. A full disk is a file system of its own (tmpfs) in which not a byte is left;
a store that may only be read is mounted so; what runs out of memory is killed by the kernel, in a
control group that allows it no page more. These need the right to mount and to make groups. A power
cut ends all processes of the play at one change to a file, and the clock of all of them is put
forward or back, and right again when the command has ended (`benchmarks.faults.machine`).
"""

import contextlib
import os
import random
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.faults.machine import Machine
from benchmarks.faults.room import LIMIT_S, Home
from benchmarks.faults.stages import Stage
from benchmarks.plays import command_of, until, variable_of
from optikit_assets.artifacts import LocalStore
from optikit_assets.processes import OwnedProcess

DAMAGED, DISK_FULL, POWER_CUT = "artifact damaged", "disk full", "power cut"
CLOCK_FORWARD, CLOCK_BACK = "clock put forward", "clock put back"
_DISK_MIB = 256
# From the middle of a stage it goes on for about so many changes to files, at least.
_CHANGES = 100
_PUT_S = 3 * 3600
_TARGET_LIMIT_S = 60.0
_GROUPS = (
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
    (Path("/sys/fs/cgroup"), "memory.max"),
)


@dataclass(frozen=True)
class Scene:
    """A stage in its middle."""

    home: Home
    name: str
    stage: Stage
    driver: OwnedProcess

    def processes(self) -> list[psutil.Process]:
        """Return every process of this play, whoever its parent is by now."""
        home = str(self.home.folder)
        return [p for p in psutil.process_iter() if variable_of(p, "OPTIKIT_HOME") == home]

    def _running(self, part: str) -> list[psutil.Process]:
        return [p for p in self.processes() if part in command_of(p)]

    def worker(self) -> psutil.Process:
        """Return the process of the worker."""
        return _first(lambda: self._running("benchmarks.faults.worker"), "worker")

    def step(self) -> psutil.Process:
        """Return the process that asked for the worker."""
        parent = self.worker().parent()
        if parent is None:
            raise SystemExit("the worker has no parent")
        return parent

    def engine(self) -> psutil.Process:
        """Return the server."""
        return _first(lambda: self._running("tests.servers.vllm_stand_in"), "server")

    def client(self) -> psutil.Process:
        """Return one of the processes that send load."""
        module = "optikit_assets.benchmarker.client_process"
        return _first(lambda: self._running(module), "load client")


Family = Sequence[psutil.Process]
"""What a fault takes down: empty where nothing is killed."""

Strike = Callable[[Scene], AbstractContextManager[Family]]
"""Does it when entered, and takes it back when left: once the driver has ended."""


def _first(found: Callable[[], list[psutil.Process]], what: str) -> psutil.Process:
    until(lambda: bool(found()), _TARGET_LIMIT_S, f"no {what} came up")
    return found()[0]


def _kill(find: Callable[[Scene], psutil.Process]) -> Strike:
    @contextmanager
    def strike(scene: Scene) -> Iterator[Family]:
        hit = find(scene)
        family = [hit, *hit.children(recursive=True)]
        hit.kill()
        yield family

    return strike


@contextmanager
def _full_disk(scene: Scene) -> Iterator[Family]:
    ballast = scene.home.folder / "ballast"
    with ballast.open("wb", buffering=0) as out, contextlib.suppress(OSError):
        while True:
            # The last bytes one by one.
            free = os.statvfs(ballast).f_bavail * os.statvfs(ballast).f_frsize
            out.write(bytes(min(max(free, 1), 2**22)))
    yield []
    ballast.unlink()


@contextmanager
def _read_only_store(scene: Scene) -> Iterator[Family]:
    store = scene.home.folder / "artifacts"
    _run("mount", "--bind", store, store)
    try:
        _run("mount", "-o", "remount,bind,ro", store)
        yield []
    finally:
        _run("umount", "--lazy", store)


@contextmanager
def _damaged(scene: Scene) -> Iterator[Family]:
    """Change one byte of every artifact of a kind; sizes and times stay."""
    store = LocalStore(scene.home.folder / "artifacts")
    kept = [store.get(key) for key in store.all_keys()]
    kind, file = scene.stage.reads
    damaged = [artifact for artifact in kept if artifact.kind == kind]
    if not damaged:
        raise SystemExit(f"there is no {kind} to damage")
    for artifact in damaged:
        _change_a_byte(artifact.folder() / file)
    yield []


def _change_a_byte(file: Path) -> None:
    """Make another digit of the last one of a text, another byte of the middle of what is none."""
    before, content = file.stat(), bytearray(file.read_bytes())
    digits = [place for place, byte in enumerate(content) if chr(byte).isdigit()]
    place = digits[-1] if file.suffix == ".json" else len(content) // 2
    content[place] = ord("1") if content[place] == ord("2") else ord("2")
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@contextmanager
def _second_driver(scene: Scene) -> Iterator[Family]:
    with scene.home.drive(scene.name, number=1) as second:
        yield []
        if second.wait(LIMIT_S) != 0:
            raise SystemExit(f"the second driver failed:\n{second.log_tail()}")


@contextmanager
def _out_of_memory(scene: Scene) -> Iterator[Family]:
    """Allow what holds the model no page more."""
    hit = scene.engine() if scene.stage.serves else scene.worker()
    root, limit = next(((r, name) for r, name in _GROUPS if (r / "cgroup.procs").exists()))
    group = root / f"optikit-faults-{hit.pid}"
    group.mkdir()
    try:
        (group / limit).write_text("4096")
        (group / "cgroup.procs").write_text(str(hit.pid))
        yield []
    finally:
        group.rmdir()


@contextmanager
def _power_cut(scene: Scene) -> Iterator[Family]:
    machine = Machine(scene.home.play)
    more = random.Random(scene.name).randrange(_CHANGES)
    machine.cut_after(more)
    until(lambda: machine.is_off, LIMIT_S, f"nothing was changed after {more} changes")
    family: list[psutil.Process] = []
    while left := [process for process in scene.processes() if process not in family]:
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        family += left
    yield family
    machine.start()


def _clock(put_s: int) -> Strike:
    @contextmanager
    def strike(scene: Scene) -> Iterator[Family]:
        machine = Machine(scene.home.play)
        machine.put_clock(put_s)
        yield []
        machine.start()

    return strike


def _run(*words: object) -> None:
    ended = subprocess.run([str(word) for word in words], check=False, capture_output=True)
    if ended.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}: {ended.stderr.decode().strip()}")


FAULTS: dict[str, Strike] = {
    "worker killed": _kill(Scene.worker),
    "engine killed": _kill(Scene.engine),
    "load client killed": _kill(Scene.client),
    "step killed": _kill(Scene.step),
    "driver killed": _kill(lambda scene: psutil.Process(scene.driver.pid)),
    POWER_CUT: _power_cut,
    "out of memory": _out_of_memory,
    DISK_FULL: _full_disk,
    "store read-only": _read_only_store,
    DAMAGED: _damaged,
    CLOCK_FORWARD: _clock(_PUT_S),
    CLOCK_BACK: _clock(-_PUT_S),
    "two drivers": _second_driver,
}
NEEDS_ENGINE = frozenset({"engine killed", "load client killed"})

_OWN_MACHINE = frozenset({POWER_CUT, CLOCK_FORWARD, CLOCK_BACK})


@contextmanager
def premises(fault: str, play: Path) -> Iterator[None]:
    """Give a play what it takes beside its fault while the context lasts."""
    if fault in _OWN_MACHINE:
        Machine(play).host(play)
    with _disk_of_its_own(play / "home") if fault == DISK_FULL else contextlib.nullcontext():
        yield


@contextmanager
def _disk_of_its_own(folder: Path) -> Iterator[None]:
    """Mount a small file system on a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m", "faults", folder)
    try:
        yield
    finally:
        _run("umount", "--lazy", folder)
