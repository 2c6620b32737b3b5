"""Downloads from a model hub (``hf:ORG/NAME[@REVISION]``)."""

import errno
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optikit_assets.artifacts.store import check_free_space
from optikit_assets.errors import ModelError, SpecError, StorageError

HUB_PREFIX = "hf:"

# Never pickles, never a second copy of the weights in another layout.
_WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.py"]
_UNWANTED = ["*/*", "consolidated*"]
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPOSITORY = re.compile(r"^[\w.-]+/[\w.-]+$")


@dataclass(frozen=True)
class HubReference:
    """A repository at a revision (branch, tag or commit)."""

    repository: str
    revision: str = "main"

    @classmethod
    def parse(cls, text: str) -> "HubReference":
        """Parse ``hf:ORG/NAME[@REVISION]``, or raise `SpecError`."""
        repository, _, revision = text.removeprefix(HUB_PREFIX).partition("@")
        if not text.startswith(HUB_PREFIX) or not _REPOSITORY.match(repository):
            raise SpecError("<argument>", [f"{text!r} is not of the form hf:ORG/NAME[@REVISION]"])
        return cls(repository, revision or "main")

    @property
    def name(self) -> str:
        """Last part of the repository's name."""
        return self.repository.rsplit("/", 1)[-1]

    def at(self, commit: str) -> "HubReference":
        """Return the repository as it was at a commit."""
        return HubReference(self.repository, commit)

    def __str__(self) -> str:
        return f"{HUB_PREFIX}{self.repository}@{self.revision}"


def resolve(reference: HubReference, cache: Path, timeout_s: float = 30) -> str | None:
    """Return the commit that a branch or tag names now; None if the hub cannot be reached.

    Without a network it is the commit that an earlier release downloaded last, if there is one.

    Raises
    ------
    ModelError
        If the hub does not hand the model out or has no such revision.
    """
    if _COMMIT.fullmatch(reference.revision):
        return reference.revision
    try:
        return _model_info(reference, timeout_s).sha
    except _UnreachableError:
        known = _folder(cache, reference) / "refs" / reference.revision
        return known.read_text(encoding="utf-8").strip() if known.is_file() else None


def download(reference: HubReference, cache: Path) -> Path:
    """Download a repository's safetensors model and return its folder.

    A commit that was downloaded before is used without a network.

    Raises
    ------
    ModelError
        If the hub cannot be reached and there is no copy, or does not hand the model out.
    StorageError
        If the download would not fit.
    """
    try:
        info = _model_info(reference)
    except _UnreachableError as error:
        return _last_copy(_library(reference), reference, cache, error)
    huggingface_hub = _library(reference)
    if not _snapshot(cache, reference, info.sha).is_dir():
        check_free_space(cache, _wanted_bytes(huggingface_hub, info))
    try:
        return Path(
            huggingface_hub.snapshot_download(
                reference.repository,
                revision=reference.revision,
                cache_dir=cache,
                allow_patterns=_WANTED,
                ignore_patterns=_UNWANTED,
            )
        )
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"disk full while downloading {reference} to {cache}; what arrived is kept: free "
                "some space and try again"
            ) from error
        reason = _one_line(error)
        raise ModelError(f"download of {reference} failed: {reason}; try again") from error


class _UnreachableError(Exception):
    """The hub did not answer."""


def _library(reference: HubReference) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ModelError(
            f"{reference} needs the library huggingface_hub in the control environment; install it "
            "or add a local folder instead"
        ) from error
    return huggingface_hub


def _model_info(reference: HubReference, timeout_s: float = 30) -> Any:
    api = _library(reference).HfApi()
    from huggingface_hub import errors as hub_errors

    try:
        return api.model_info(
            reference.repository,
            revision=reference.revision,
            files_metadata=True,
            timeout=timeout_s,
        )
    except hub_errors.GatedRepoError as error:
        raise ModelError(
            f"{reference} is gated: accept its terms on the hub and set HF_TOKEN"
        ) from error
    except hub_errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{reference} does not exist or is private: check the name, set HF_TOKEN"
        ) from error
    except hub_errors.RevisionNotFoundError as error:
        raise ModelError(f"{reference}: the repository has no such revision") from error
    except Exception as error:  # the hub client lets errors of its HTTP library through
        raise _UnreachableError(_one_line(error)) from error


def _last_copy(hub: Any, reference: HubReference, cache: Path, reason: Exception) -> Path:
    try:
        return Path(
            hub.snapshot_download(
                reference.repository,
                revision=reference.revision,
                cache_dir=cache,
                local_files_only=True,
                allow_patterns=_WANTED,
                ignore_patterns=_UNWANTED,
            )
        )
    except Exception as error:
        raise ModelError(
            f"{reference} is not on this machine and the hub cannot be reached "
            f"({_one_line(reason)}); add a local folder with `optikit models add PATH`"
        ) from error


def _snapshot(cache: Path, reference: HubReference, commit: str | None) -> Path:
    return _folder(cache, reference) / "snapshots" / (commit or "unknown")


def _folder(cache: Path, reference: HubReference) -> Path:
    return cache / ("models--" + reference.repository.replace("/", "--"))


def _wanted_bytes(hub: Any, info: Any) -> int:
    files = hub.utils.filter_repo_objects(
        info.siblings or [],
        allow_patterns=_WANTED,
        ignore_patterns=_UNWANTED,
        key=lambda file: file.rfilename,
    )
    return sum(file.size or 0 for file in files)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
