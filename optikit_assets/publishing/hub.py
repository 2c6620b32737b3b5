"""Releases in a model repository of a hub: ``hf://ORG/NAME``, by the hub's own client.

::

    branch KEY      one release: the model's files, bundle/…, README.md (its card), release.json
    branch ALIAS    the same files as the release that it names; ``main`` is what people see first

Large files are sent first, and nothing refers to them until one commit has all files of a release;
a hub knows them by their content, so a push that was killed goes on with those that are missing.
That commit is made on ``KEY-draft``, of which the release's branch is made then: a branch begins
with what another one has. The alias moves by one commit, last; a new one is made of the release's.
A repository that is made is private. ``HF_TOKEN`` is the permission, ``HF_ENDPOINT`` another hub;
no token is taken from a file.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from optikit_assets.errors import (
    OptikitError,
    PermissionDeniedError,
    SpecError,
    StorageError,
    reason_of,
)
from optikit_assets.hosts import is_loopback
from optikit_assets.publishing.digests import RELEASE_FILE, release_text
from optikit_assets.publishing.targets import Placed, Release, register_target

_BRANCH_CHARACTERS = 32
_DRAFT = "-draft"
_ASK_S = 30.0
# To connect, read, write and wait for a connection; the hub's client has no limits of its own.
_LIMITS_S = (30.0, 600.0, 600.0, 30.0)
_CARD = "README.md"
# Of the hub's own, in every repository.
_HUBS = ".gitattributes"
_DENIED = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)


@register_target("hf")
class HubTarget:
    """A repository."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._name = url.removeprefix("hf://")
        if self._name.count("/") != 1:
            raise SpecError("<argument>", [f"to: {url!r} is not of the form hf://ORG/NAME"])

    def uri(self, key: str) -> str:
        return f"{self.url}:{key[:_BRANCH_CHARACTERS]}"

    def push(self, release: Release, alias: str) -> Placed:
        branch = release.key[:_BRANCH_CHARACTERS]
        link = f"{self._api().endpoint}/{self._name}/tree/{alias}"
        lacking = [name for name in (branch, alias) if self.current(name) != release.key]
        sent = 0
        if lacking:
            with self._explained("make the repository"):
                self._api().create_repo(self._name, private=True, exist_ok=True)
            bundle = {f"bundle/{name}": path for name, path in release.bundle.items()}
            files = {**release.model, **bundle}
            told = {_CARD: release.card, RELEASE_FILE: release_text(release.key, files)}
            draft = f"{branch}{_DRAFT}"
            if branch in lacking:
                there = self._has(branch)
                self._commit(branch if there else draft, release.model, files, told)
                if not there:
                    self._begin(branch, draft)
            # Before the alias moves: a push that finds that done looks no further.
            self._drop(draft)
            if alias in lacking and self._has(alias):
                self._commit(alias, release.model, files, told)
            elif alias in lacking:
                self._begin(alias, branch)
            sent = len(files) + len(told) if branch in lacking else 0
        return Placed(self.uri(release.key), alias, sent, link)

    def current(self, alias: str) -> str | None:
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        api = self._api()
        with self._explained(f"read {alias}"), tempfile.TemporaryDirectory() as folder:
            try:
                # Unlike a download it is not tried for a minute where nobody answers.
                head = api.model_info(self._name, revision=alias, timeout=_ASK_S)
            except (RepositoryNotFoundError, RevisionNotFoundError):
                return None
            if RELEASE_FILE not in [item.rfilename for item in head.siblings or ()]:
                return None
            found = api.hf_hub_download(
                self._name, RELEASE_FILE, revision=head.sha, local_dir=folder
            )
            return json.loads(Path(found).read_text("utf-8"))["key"]

    def _commit(
        self,
        branch: str,
        weights: Mapping[str, Path],
        files: Mapping[str, Path],
        told: Mapping[str, str],
    ) -> None:
        """Let a branch have these files alone, by one commit; large ones are sent first."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        api = self._api()
        with self._explained(f"write the branch {branch}"):
            exists = self._has(branch)
            adds = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
            texts = [CommitOperationAdd(name, text.encode()) for name, text in told.items()]
            first = [item for item in adds if item.path_in_repo in weights]
            for group in (first, [item for item in adds if item not in first]):
                api.preupload_lfs_files(self._name, group, revision=branch if exists else "main")
            if not exists:
                api.create_branch(self._name, branch=branch)
            head = api.model_info(self._name, revision=branch, timeout=_ASK_S)
            kept = {*files, *told, _HUBS}
            there = [item.rfilename for item in head.siblings or ()]
            gone = [CommitOperationDelete(name) for name in there if name not in kept]
            api.create_commit(
                self._name,
                [*adds, *texts, *gone],
                commit_message="optikit publish",
                revision=branch,
                # Of two that push at once, the second is refused.
                parent_commit=head.sha,
            )

    def _begin(self, branch: str, start: str) -> None:
        with self._explained(f"make the branch {branch}"):
            self._api().create_branch(self._name, branch=branch, revision=start)

    def _drop(self, branch: str) -> None:
        from huggingface_hub.errors import RevisionNotFoundError

        if self._has(branch):
            with self._explained(f"delete the branch {branch}"), suppress(RevisionNotFoundError):
                self._api().delete_branch(self._name, branch=branch)

    def _has(self, branch: str) -> bool:
        from huggingface_hub.errors import RevisionNotFoundError

        with self._explained(f"read {branch}"):
            try:
                self._api().model_info(self._name, revision=branch, timeout=_ASK_S)
            except RevisionNotFoundError:
                return False
        return True

    def _api(self) -> Any:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import get_session

        get_session().timeout = _LIMITS_S

        # False: none that a file of this user has either.
        token = os.environ.get("HF_TOKEN") or False
        api = HfApi(token=token)
        endpoint = httpx.URL(api.endpoint)
        if token and endpoint.scheme != "https" and not is_loopback(endpoint.netloc.decode()):
            raise PermissionDeniedError(
                f"{self.url}: HF_TOKEN is not sent to {endpoint.host} without TLS; give "
                "HF_ENDPOINT an address with https://"
            )
        return api

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        from huggingface_hub.errors import HfHubHTTPError

        try:
            yield
        except HfHubHTTPError as error:
            if error.response is not None and error.response.status_code in _DENIED:
                raise PermissionDeniedError(
                    f"{self.url}: no permission to {what}; set HF_TOKEN to a token that may write "
                    "there"
                ) from error
            raise StorageError(f"{self.url}: cannot {what} ({_short(error)}); run again") from error
        except (OptikitError, OSError):
            raise
        except Exception as error:  # the hub's client lets errors of its HTTP library through
            raise StorageError(
                f"{self.url}: cannot {what} ({_short(error)}); check that the hub can be reached, "
                "and run again: what was sent is not sent once more"
            ) from error


def _short(error: BaseException) -> str:
    """Return what the client says; of an upload that failed, why it did."""
    cause = error.__cause__ if isinstance(error, RuntimeError) else None
    return reason_of(cause or error)
