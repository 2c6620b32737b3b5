"""What a place that bundles are published at must offer, and the registry of those."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from optikit_assets.specs import plugins


@dataclass(frozen=True)
class Bundle:
    """A bundle on this machine.

    ``key`` is its content key; ``path`` is a folder that nobody changes any more.
    """

    key: str
    path: Path


@dataclass(frozen=True)
class Published:
    """The bundle that a model and SLO are served from.

    ``where`` names it for people and tools and stays the same for every bundle of the two; ``key``
    is the content key of what is there now.
    """

    where: str
    key: str


class Publisher(Protocol):
    """One kind of place; there is one current bundle per model version and SLO.

    Who reads while one bundle replaces another finds the old or the new one, never a mixture, and
    a publisher that is killed leaves the old one.
    """

    def publish(self, bundle: Bundle, model: str, slo: str) -> Published:
        """Make this bundle the current one; once more changes nothing.

        Parameters
        ----------
        model
            ``NAME@VERSION``.

        Raises
        ------
        StorageError
            If the place cannot be written; what was published stays.
        """
        ...

    def published(self, model: str, slo: str) -> Published | None:
        """Return what is published now, None if nothing is."""
        ...


MakeT = TypeVar("MakeT", bound=Callable[[Path], Publisher])

_PUBLISHERS: plugins.Registry[Callable[[Path], Publisher]] = plugins.Registry(
    "publisher", plugins.PUBLISHERS, "OPTIKIT_PUBLISHER names it"
)


def register_publisher(name: str) -> Callable[[MakeT], MakeT]:
    """Register a publisher under the name that ``OPTIKIT_PUBLISHER`` has for it.

    What is registered takes ``OPTIKIT_HOME``. Other packages register theirs as entry points in the
    group ``optikit.publishers``.
    """

    def add(make: MakeT) -> MakeT:
        _PUBLISHERS.register(name)(make)
        return make

    return add


def get_publisher(name: str, home: Path) -> Publisher:
    """Return the publisher called `name`: an own one, or that of an installed package.

    Raises
    ------
    UnknownNameError
        If there is none.
    EnvironmentMissingError
        If the package that registered it cannot be imported.
    """
    return _PUBLISHERS.get(name)(home)


def publisher_names() -> tuple[str, ...]:
    """Return the names of all registered publishers, sorted."""
    return _PUBLISHERS.names()
