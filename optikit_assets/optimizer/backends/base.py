"""What a compression library must offer to be used by recipes, and the registry of those."""

import importlib
import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from optikit_assets.errors import EnvironmentMissingError
from optikit_assets.optimizer.compression import Compression
from optikit_assets.specs import plugins


@dataclass(frozen=True)
class CompressedModel:
    """A checkpoint on disk.

    Attributes
    ----------
    path
        Folder with safetensors weights, config.json (with its quantization_config) and tokenizer.
    total_bytes
        Size of all files.
    elapsed_s
        Wall-clock time of loading, compressing and saving.
    notes
        What the backend decided that the recipe leaves to it.
    """

    path: Path
    total_bytes: int
    elapsed_s: float
    notes: tuple[str, ...] = ()

    @classmethod
    def saved(cls, path: Path, elapsed_s: float, notes: tuple[str, ...] = ()) -> "CompressedModel":
        """Describe the checkpoint that was just saved in `path`."""
        total = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        return cls(path, total, elapsed_s, notes)


class CompressionBackend(Protocol):
    """One compression library.

    Implementations import their library inside the methods: the registry is also loaded where the
    library is not installed.
    """

    def versions(self) -> dict[str, str]:
        """Return the versions of the libraries that determine the result.

        Raises
        ------
        EnvironmentMissingError
            If a library cannot be imported.
        """
        ...

    def compress(self, compression: Compression) -> CompressedModel:
        """Carry out `compression`; the same gives the same bytes.

        Raises
        ------
        CompressionError
            If the library refuses or runs out of memory, with the library's reason.
        """
        ...


def library_versions(library: str, module: str, distributions: Sequence[str]) -> dict[str, str]:
    """Return the versions of a library's distributions, once its module could be imported.

    Raises
    ------
    EnvironmentMissingError
        If one is not installed, or is but cannot be imported.
    """
    try:
        found = {name: importlib.metadata.version(name) for name in distributions}
        importlib.import_module(module)
    except ImportError as error:
        raise EnvironmentMissingError(
            f"{library} cannot be imported ({error}); install the compress environment again: "
            "`optikit doctor` says how"
        ) from error
    return found


_BACKENDS: plugins.Registry[Callable[[], CompressionBackend]] = plugins.Registry(
    "compression backend", plugins.BACKENDS
)


def register_backend(
    name: str,
) -> Callable[[Callable[[], CompressionBackend]], Callable[[], CompressionBackend]]:
    """Register a backend class under the name that recipes use.

    Other packages register theirs as entry points in the group ``optikit.backends``.
    """
    return _BACKENDS.register(name)


def get_backend(name: str) -> CompressionBackend:
    """Return the backend called `name`: an own one, or that of an installed package.

    Raises
    ------
    UnknownNameError
        If there is none.
    EnvironmentMissingError
        If the package that registered it cannot be imported.
    """
    return _BACKENDS.get(name)()


def backend_names() -> tuple[str, ...]:
    """Return the names of all registered backends, sorted."""
    return _BACKENDS.names()
