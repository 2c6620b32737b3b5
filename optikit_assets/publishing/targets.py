"""What a place that releases are pushed to must offer, and the registry of those.

A release is the weights and the bundle of one certified configuration, under a key that stands for
the content of both. It is pushed in an order in which nothing half-done is seen: weights, bundle,
what makes the release whole, and last the alias, which is the commit point.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from optikit_assets.errors import SpecError
from optikit_assets.specs import plugins


@dataclass(frozen=True)
class Release:
    """Files on this machine that nobody changes: name -> path.

    ``key`` is a digest that another content never has; ``card`` is what people read of it where a
    place shows such a text, in Markdown.
    """

    key: str
    model: Mapping[str, Path]
    bundle: Mapping[str, Path]
    card: str = ""


@dataclass(frozen=True)
class Placed:
    """Where a release is.

    ``uri`` is what a server takes the weights from; ``sent`` how many files or blobs were not there
    before; ``link`` an address for people, where the place has one.
    """

    uri: str
    alias: str
    sent: int
    link: str = ""


class Target(Protocol):
    """One place. What is pushed again is found by its key, and only what is missing is sent."""

    def uri(self, key: str) -> str:
        """Return what a server takes the weights of a release from, before it is pushed."""
        ...

    def push(self, release: Release, alias: str) -> Placed:
        """Push a release and let the alias name it.

        Raises
        ------
        StorageError
            If the place cannot be reached or written; the alias names what it named before.
        """
        ...

    def current(self, alias: str) -> str | None:
        """Return the key of the release that an alias names, None if it names none."""
        ...


MakeT = TypeVar("MakeT", bound=Callable[[str], Target])

_TARGETS: plugins.Registry[Callable[[str], Target]] = plugins.Registry("target", plugins.TARGETS)


def register_target(scheme: str) -> Callable[[MakeT], MakeT]:
    """Register what opens a target under the scheme of its URLs.

    Other packages register theirs as entry points in the group ``optikit.targets``.
    """

    def add(make: MakeT) -> MakeT:
        _TARGETS.register(scheme)(make)
        return make

    return add


def open_target(url: str) -> Target:
    """Return the target behind a URL.

    Raises
    ------
    SpecError
        If nobody registered its scheme.
    """
    make = _TARGETS.find(url.partition("://")[0])
    if make is None:
        known = ", ".join(f"{name}://" for name in _TARGETS.names())
        raise SpecError("<argument>", [f"to: {url!r} begins with none of {known}"])
    return make(url)
