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

    def __str__(self) -> str:
        return f"{HUB_PREFIX}{self.repository}@{self.revision}"


def download(reference: HubReference, cache: Path) -> Path:
    """Download a repository's safetensors model and return its folder.

    A branch is looked up each time; without a network the last downloaded state is used.

    Raises
    ------
    ModelError
        If the hub cannot be reached and there is no copy, or does not hand the model out.
    StorageError
        If the download would not fit.
    """
    try:
        import huggingface_hub
        from huggingface_hub import errors as hub_errors
    except ImportError as error:
        raise ModelError(
            f"{reference} needs the library huggingface_hub in the control environment; install it "
            "or add a local folder instead"
        ) from error
    try:
        info = huggingface_hub.HfApi().model_info(
            reference.repository, revision=reference.revision, files_metadata=True, timeout=30
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
        return _last_copy(huggingface_hub, reference, cache, error)
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
    folder = "models--" + reference.repository.replace("/", "--")
    return cache / folder / "snapshots" / (commit or "unknown")


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
