"""What a compression library must offer to be used by recipes, and the registry of those."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from optikit_assets.errors import UnknownNameError
from optikit_assets.optimizer.plan import CompressionPlan


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
    """

    path: Path
    total_bytes: int
    elapsed_s: float


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

    def compress(self, plan: CompressionPlan) -> CompressedModel:
        """Carry out `plan`; the same plan gives the same bytes.

        Raises
        ------
        CompressionError
            If the library refuses or runs out of memory, with the library's reason.
        """
        ...


_BACKENDS: dict[str, Callable[[], CompressionBackend]] = {}


def register_backend(
    name: str,
) -> Callable[[Callable[[], CompressionBackend]], Callable[[], CompressionBackend]]:
    """Register a backend class under the name that recipes use."""

    def add(make: Callable[[], CompressionBackend]) -> Callable[[], CompressionBackend]:
        if name in _BACKENDS:
            raise ValueError(f"backend {name!r} is registered already")
        _BACKENDS[name] = make
        return make

    return add


def get_backend(name: str) -> CompressionBackend:
    """Return the backend called `name`.

    Raises
    ------
    UnknownNameError
        If there is none.
    """
    if name not in _BACKENDS:
        raise UnknownNameError("compression backend", name, list(_BACKENDS))
    return _BACKENDS[name]()


def backend_names() -> tuple[str, ...]:
    """Return the names of all registered backends, sorted."""
    return tuple(sorted(_BACKENDS))
