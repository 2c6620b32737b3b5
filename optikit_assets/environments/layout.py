"""Which environments exist, what goes into each, and where everything lies under OPTIKIT_HOME.

::

    OPTIKIT_HOME/
      bootstrap/        a virtual environment that holds uv and nothing else
      cache/uv/         downloads, shared by the three environments
      dagster/          DAGSTER_HOME; dagster.yaml is copied here
      envs/NAME/        a stage environment; envs/NAME/optikit-stamp.json says that it is complete
      logs/setup/       one log per environment, of its latest installation
"""

import hashlib
import json
import os
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from optikit_assets import locations
from optikit_assets.environments.nvidia_smi import nvidia_smi
from optikit_assets.errors import OptikitError, StorageError
from optikit_assets.locations import IS_CHECKOUT, REPOSITORY

Accelerator = Literal["cpu", "gpu"]

# Where the project is installed, what it was installed into is the control environment.
ENVIRONMENT_NAMES: tuple[str, ...] = (
    ("control", "compress", "serve") if IS_CHECKOUT else ("compress", "serve")
)

# Not in the repository's root: Dagster warns at every start of a dagster.yaml in the working folder
# that is not the one in DAGSTER_HOME.
INSTANCE_TEMPLATE = Path(__file__).with_name("dagster.yaml")

_STAMP_NAME = "optikit-stamp.json"


@dataclass(frozen=True, slots=True)
class Installation:
    """What one environment is made from.

    Parameters
    ----------
    name
        ``"control"``, ``"compress"``, ``"serve"`` or ``"clients"``.
    requirements
        The pinned set, relative to the repository root.
    source
        What the pinned set is compiled from, with the arguments for ``uv pip compile``.
    overrides
        Requirements that replace what packages ask for when the set is compiled, if any.
    torch_backend
        Which builds of torch are wanted: ``"cpu"`` ones, or ``None`` for the registry's (CUDA).
    installs_project
        Whether the project is installed, with its commands and its dependencies, or its modules
        are only importable.
    """

    name: str
    requirements: str
    source: tuple[str, ...]
    overrides: str | None = None
    torch_backend: Literal["cpu"] | None = None
    installs_project: bool = False


_CONTROL = Installation(
    "control",
    "requirements/control.txt",
    ("pyproject.toml", "--extra", "dev", "--extra", "otel"),
    installs_project=True,
)
_CONTROL_WITH_RAY = Installation(
    "control",
    "requirements/control-ray.txt",
    # The same versions as without it.
    (
        *("pyproject.toml", "--extra", "dev", "--extra", "otel"),
        *("--extra", "ray", "--extra", "postgres"),
        *("-c", "requirements/control.txt"),
    ),
    installs_project=True,
)
EXTRAS: dict[str, Installation] = {"ray": _CONTROL_WITH_RAY}
"""The control environment with an extra of the package, which the default one is without."""

CLIENTS = Installation("clients", "requirements/clients.txt", ("requirements/clients.in",))
"""What others read published models with, for tests and benchmarks alone: no stage runs in it."""

INSTALLATIONS: dict[tuple[str, Accelerator], Installation] = {
    ("control", "cpu"): _CONTROL,
    ("control", "gpu"): _CONTROL,
    ("compress", "cpu"): Installation(
        "compress",
        "requirements/compress-cpu.txt",
        ("requirements/compress.in",),
        overrides="requirements/overrides-cpu.txt",
        torch_backend="cpu",
    ),
    ("compress", "gpu"): Installation(
        "compress", "requirements/compress-gpu.txt", ("requirements/compress.in",)
    ),
    ("serve", "cpu"): Installation(
        "serve",
        "requirements/serve-cpu.txt",
        ("requirements/serve-cpu.in",),
        overrides="requirements/overrides-cpu.txt",
        torch_backend="cpu",
    ),
    ("serve", "gpu"): Installation(
        "serve", "requirements/serve-gpu.txt", ("requirements/serve-gpu.in",)
    ),
}


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a complete environment was built from; written last, removed first.

    Parameters
    ----------
    digest
        sha256 over the pinned set, the Python version and, where the project is installed, its
        metadata.
        It holds no path: equal digests mean equal libraries on any machine.
    location
        The environment's own path: a virtual environment cannot be moved.
    repository
        The copy of the repository whose modules it imports.
    accelerator
        For which kind of machine it was built.
    extra
        The extra of the package that it was asked for with, if any; later set-ups keep it.
    """

    digest: str
    location: str
    repository: str
    accelerator: str
    extra: str = ""


def installation_of(name: str, accelerator: Accelerator, extra: str = "") -> Installation:
    """Return what an environment is made from; only the control environment has extras."""
    if name == "control" and extra in EXTRAS:
        return EXTRAS[extra]
    return CLIENTS if name == CLIENTS.name else INSTALLATIONS[name, accelerator]


def default_home(environ: Mapping[str, str] | None = None) -> Path:
    """Return OPTIKIT_HOME, or what stands in for it when it is not set."""
    value = (os.environ if environ is None else environ).get("OPTIKIT_HOME", "").strip()
    return Path(value).expanduser().absolute() if value else locations.default_home()


def environment_path(home: Path, name: str) -> Path:
    """Return the folder of an environment."""
    return home / "envs" / name


def python_path(home: Path, name: str) -> Path:
    """Return the interpreter of an environment, whether or not it exists."""
    return environment_path(home, name) / "bin" / "python"


def setup_log_path(home: Path, name: str) -> Path:
    """Return the log of the latest installation of an environment."""
    return home / "logs" / "setup" / f"{name}.log"


def detect_accelerator(environ: Mapping[str, str] | None = None) -> Accelerator:
    """Say whether this machine has an NVIDIA GPU that its driver lists.

    ``OPTIKIT_ACCELERATOR=cpu|gpu`` decides instead, for instance to prepare an image for GPU
    machines on a machine without one.

    Raises
    ------
    OptikitError
        If OPTIKIT_ACCELERATOR has another value. `AcceleratorError` if the driver does not answer.
    """
    environ = os.environ if environ is None else environ
    wanted = environ.get("OPTIKIT_ACCELERATOR", "").strip().lower()
    match wanted:
        case "cpu" | "gpu":
            return wanted
        case "":
            pass
        case _:
            message = f"OPTIKIT_ACCELERATOR is {wanted!r}; allowed: cpu, gpu, or not set (detect)"
            raise OptikitError(message)
    listing = nvidia_smi("-L", path=environ.get("PATH"))
    return "gpu" if any(line.startswith("GPU ") for line in listing.splitlines()) else "cpu"


def _meaningful_lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror}); restore it with git"
        raise OptikitError(message) from error
    lines = (line.split(" #", 1)[0].strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def wanted_digest(installation: Installation, repository: Path = REPOSITORY) -> str:
    """Compute the digest that a complete, current environment carries in its stamp.

    Comments do not count. Of pyproject.toml only what an installation depends on counts, so that
    an edit of a linter's settings rebuilds nothing.

    Raises
    ------
    OptikitError
        If a requirement file or pyproject.toml cannot be read.
    """
    files = [installation.requirements]
    parts: dict[str, object] = {
        "python": ".".join(str(number) for number in sys.version_info[:2]),
        "torch_backend": installation.torch_backend,
    }
    if installation.installs_project:
        files.append("requirements/build.txt")
        pyproject = repository / "pyproject.toml"
        try:
            project = tomllib.loads(pyproject.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            message = f"{pyproject} cannot be read ({error}); restore it with git"
            raise OptikitError(message) from error
        parts["project"] = {
            "name": project["project"]["name"],
            "scripts": project["project"].get("scripts", {}),
            "entry-points": project["project"].get("entry-points", {}),
            "build-system": project["build-system"],
        }
    parts["files"] = {name: _meaningful_lines(repository / name) for name in files}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_stamp(home: Path, name: str) -> Stamp | None:
    """Return the stamp of an environment; ``None`` means that its state is unknown."""
    path = environment_path(home, name) / _STAMP_NAME
    try:
        return Stamp(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_stamp(home: Path, name: str, stamp: Stamp) -> None:
    """Declare an environment complete, atomically."""
    text = json.dumps(asdict(stamp), indent=2) + "\n"
    write_atomically(environment_path(home, name) / _STAMP_NAME, text)


def remove_stamp(home: Path, name: str) -> None:
    """Declare the state of an environment unknown, before it is touched."""
    (environment_path(home, name) / _STAMP_NAME).unlink(missing_ok=True)


def instance_template(environ: Mapping[str, str] | None = None) -> Path:
    """Return the settings of the Dagster instance: the project's, or what OPTIKIT_INSTANCE names.

    Raises
    ------
    StorageError
        If it names no file.
    """
    value = (os.environ if environ is None else environ).get("OPTIKIT_INSTANCE", "").strip()
    if not value:
        return INSTANCE_TEMPLATE
    file = Path(value).expanduser().absolute()
    if not file.is_file():
        raise StorageError(f"OPTIKIT_INSTANCE={value} is no file: name a dagster.yaml, or unset it")
    return file


def prepare_dagster_home(home: Path, template: Path | None = None) -> Path:
    """Copy `template` to where Dagster looks for it, and return that folder (DAGSTER_HOME).

    By default it is that of `instance_template`.

    Raises
    ------
    StorageError
        If the folder cannot be written.
    """
    target = home / "dagster" / "dagster.yaml"
    wanted = (template or instance_template()).read_text(encoding="utf-8")
    try:
        present = target.read_text(encoding="utf-8") if target.exists() else None
        if present != wanted:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, wanted)
    except OSError as error:
        message = (
            f"{target} cannot be written ({error.strerror}); free disk space or set OPTIKIT_HOME"
        )
        raise StorageError(message) from error
    return target.parent


def write_atomically(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old content or the new, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
