"""How an engine is run elsewhere: its container image, and formats of its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Container:
    """The images of an engine.

    Parameters
    ----------
    distribution
        Package that the image of the same version holds.
    image
        Repository of it.
    tag
        With ``{version}`` in it.
    command
        What is run in it, before the arguments.
    metrics
        Gauges of its metrics endpoint whose sum is the number of requests it has.
    port
        That it listens on where none is given.
    other_builds
        Package -> repository that is closest to it: the same engine, and another build.
    """

    distribution: str
    image: str
    tag: str
    command: tuple[str, ...]
    metrics: tuple[str, ...]
    port: int = 8000
    other_builds: Mapping[str, str] = field(default_factory=dict)

    def of(self, versions: Mapping[str, str]) -> tuple[str, str]:
        """Return the image for the versions of a measurement, and why it is not what was measured.

        The second is empty where it is.
        """
        version = versions.get(self.distribution)
        if version is not None:
            return f"{self.image}:{self.tag.format(version=version)}", ""
        for name, image in self.other_builds.items():
            if name in versions:
                tagged = f"{image}:{self.tag.format(version=versions[name])}"
                return (
                    tagged,
                    f"measured with the build {name} {versions[name]}, which no image is of",
                )
        return f"{self.image}:latest", "the record names no version of the engine"


@dataclass(frozen=True)
class Format:
    """One way to run an engine elsewhere, as a file.

    Parameters
    ----------
    title
        What people call it.
    documents
        What the YAML file holds.
    why_not_certified
        Empty: the certificate holds for it.
    notes
        Lines for people at its top.
    """

    title: str
    documents: tuple[Mapping[str, Any], ...]
    why_not_certified: str = ""
    notes: tuple[str, ...] = ()
