"""Models of a hub: ``hf:ORG/NAME[@REVISION]``."""

import errno
from pathlib import Path
from typing import Any

from optikit_assets.disk import check_free_space
from optikit_assets.errors import ModelError, StorageError, reason_of
from optikit_assets.sources.base import ASK_LIMIT_S, SourcedVersion, register_source
from optikit_assets.sources.references import HUB, HubReference, is_commit

# Never pickles, never a second copy of the weights in another layout.
_WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.py"]
_UNWANTED = ["*/*", "consolidated*"]


@register_source(HUB)
class HubSource:
    """A version is a repository at a commit, downloaded below ``OPTIKIT_HOME``."""

    def parse(self, reference: str) -> SourcedVersion:
        parsed = HubReference.parse(reference)
        return SourcedVersion(parsed.name, parsed.revision, str(parsed))

    def versions(self, place: str, root: Path) -> list[SourcedVersion]:
        return [self.parse(place)]

    def in_place(self, reference: str) -> Path | None:
        return None

    def revision(self, reference: str, home: Path, timeout_s: float = ASK_LIMIT_S) -> str | None:
        return resolve(HubReference.parse(reference), _cache(home), timeout_s)

    def fetch(self, reference: str, revision: str | None, home: Path) -> Path:
        parsed = HubReference.parse(reference)
        if revision is None:
            raise ModelError(
                f"{parsed} is not on this machine and the hub cannot be reached; add a "
                "local folder with `optikit models add PATH`"
            )
        return download(parsed.at(revision), _cache(home))


def _cache(home: Path) -> Path:
    return home / "hub"


def resolve(reference: HubReference, cache: Path, timeout_s: float = ASK_LIMIT_S) -> str | None:
    """Return the commit that a branch or tag names now; None if the hub cannot be reached.

    Without a network it is the commit that an earlier release downloaded last, if there is one.

    Raises
    ------
    ModelError
        If the hub does not hand the model out or has no such revision.
    """
    if is_commit(reference.revision):
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
        reason = reason_of(error)
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


def _model_info(reference: HubReference, timeout_s: float = ASK_LIMIT_S) -> Any:
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
        raise _UnreachableError(reason_of(error)) from error


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
            f"({reason_of(reason)}); add a local folder with `optikit models add PATH`"
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
