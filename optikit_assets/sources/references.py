"""How models and data sets of a hub are named."""

import re
from dataclasses import dataclass

HUB = "hf"
HUB_PREFIX = f"{HUB}:"

_COMMIT = re.compile(r"[0-9a-f]{40}")
_MODEL = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>.*))?")
_DATASET = re.compile(r"(?P<repository>[^/@\s]+/[^/@\s]+)(?:@(?P<revision>[^\s@]+))?")


@dataclass(frozen=True)
class HubReference:
    """A model repository at a revision (branch, tag or commit)."""

    repository: str
    revision: str = "main"

    @classmethod
    def parse(cls, text: str) -> "HubReference":
        """Parse ``hf:ORG/NAME[@REVISION]``.

        Raises
        ------
        ValueError
            If it is of another form.
        """
        match = _MODEL.fullmatch(text.removeprefix(HUB_PREFIX))
        if not text.startswith(HUB_PREFIX) or match is None:
            raise ValueError(f"{text!r} is not of the form hf:ORG/NAME[@REVISION]")
        return cls(match["repository"], match["revision"] or "main")

    @property
    def name(self) -> str:
        """Last part of the repository's name."""
        return self.repository.rsplit("/", 1)[-1]

    def at(self, commit: str) -> "HubReference":
        """Return the repository as it was at a commit."""
        return HubReference(self.repository, commit)

    def __str__(self) -> str:
        return f"{HUB_PREFIX}{self.repository}@{self.revision}"


def is_commit(revision: str) -> bool:
    """Return whether a revision is a commit, which never moves."""
    return _COMMIT.fullmatch(revision) is not None


def is_hub_dataset(reference: str) -> bool:
    """Return whether calibration data come from a hub rather than from a file."""
    return reference.startswith(HUB_PREFIX)


def parse_dataset(reference: str) -> tuple[str, str | None]:
    """Return repository and revision, if there is one, of ``hf:ORG/DATASET[@REVISION]``.

    Raises
    ------
    ValueError
        If it is of another form.
    """
    match = _DATASET.fullmatch(reference.removeprefix(HUB_PREFIX))
    if not is_hub_dataset(reference) or match is None:
        raise ValueError(f"{reference!r} is not of the form hf:ORG/DATASET[@REVISION]")
    return match["repository"], match["revision"]


def check_commit(name: str, wanted: str | None, found: str | None) -> None:
    """Check that what a library loaded from a hub is what was asked for.

    Of a hub that is away the datasets library takes what it loaded last, at whatever commit.

    Parameters
    ----------
    wanted
        A revision; of one that may move nothing is known.
    found
        The commit that was loaded.

    Raises
    ------
    ValueError
        If it is another commit than `wanted`.
    """
    if wanted is not None and is_commit(wanted) and found != wanted:
        raise ValueError(
            f"the data set {name} cannot be had at commit {wanted}, only at {found}, which was "
            "loaded before; make the hub reachable and run again"
        )
