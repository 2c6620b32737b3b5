"""Port Artifact store: content-addressed artifacts, each either complete or not there.

What asks for an artifact knows its key, not where it lies. Messages carry references; whoever needs
files asks the store of its own machine for a folder.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path

from optikit_assets.artifacts.artifact import Artifact, ArtifactDraft, Quarantined
from optikit_assets.artifacts.file_digests import FileDigests
from optikit_assets.artifacts.references import Reference, check_unchanged
from optikit_assets.artifacts.remains import Remains
from optikit_assets.artifacts.shared_log import BucketLog
from optikit_assets.errors import StorageError
from optikit_assets.specs import plugins

_KEY = re.compile(r"^[0-9a-f]{64}$")
_KIND = re.compile(r"^[a-z][a-z0-9_]*$")
_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]*)://")

# Longer than any stage may take.
TURN_TIMEOUT_S = 7 * 24 * 3600.0


class ArtifactStore(ABC):
    """Artifacts by their keys; safe from many processes at once, wherever they run.

    `tests/contract/artifact_store.py` says what the rest relies on.

    Attributes
    ----------
    variables
        Environment variables that it reads: names, or prefixes that end in ``*``. They reach every
        worker that uses this store, secrets among them, and no server.
    """

    variables: tuple[str, ...] = ()

    @property
    @abstractmethod
    def url(self) -> str:
        """What `open_store` opens it by, on every machine that reaches it."""

    @abstractmethod
    def look(self, key: str) -> Artifact | None:
        """Return the artifact called `key` to whoever does not rely on it, or None.

        What is not whole, as far as that is seen without reading its files, does not count: it is
        replaced by the next `create`.
        """

    @abstractmethod
    def find(self, key: str) -> Artifact | None:
        """Return the artifact called `key`, as `look` does, and mark its use.

        What was found has been marked before any `expire` that has not taken it yet looks.
        """

    @abstractmethod
    def last_use(self, key: str) -> float | None:
        """Return when an artifact (complete or not) was made or used last; None: it is not there.

        In seconds since the epoch, on the clock of the store. It may lag behind the last use by
        as much as `expire` allows for.
        """

    @abstractmethod
    def expire(self, key: str, unused_since: float) -> bool:
        """Delete an artifact (complete or not) that nobody used since; say whether it is gone.

        Nobody who found it since `unused_since`, or finds it while this decides, loses it, and
        nobody ever finds a part of it.

        Parameters
        ----------
        unused_since
            In seconds since the epoch.
        """

    @abstractmethod
    def verify(self, key: str, *, remembered: bool = True, in_use: bool = True) -> Artifact:
        """Return the artifact called `key` after a look at the content of every file.

        A damaged one is put aside, so that the next run makes it anew. One of an earlier release
        has no digests: its sizes are compared, and ``verified`` stays False.

        Parameters
        ----------
        key
            sha256 in hex.
        remembered
            Do not read files again that were read before and look unchanged. Without it, what a
            disk has silently lost is found too.
        in_use
            Mark its use, as `find` does.

        Raises
        ------
        DamagedArtifactError
            If it differs from what was put into the store.
        StorageError
            If it is missing or cannot be read.
        """

    @abstractmethod
    def create(
        self, key: str, kind: str, needed_bytes: int | None = None
    ) -> AbstractContextManager[ArtifactDraft]:
        """Open a draft that becomes the artifact `key` when the block ends without an exception.

        Of two makers of one key the first wins; the second's draft is dropped.

        Parameters
        ----------
        key
            sha256 in hex.
        kind
            Lower-case word, e.g. ``checkpoint``.
        needed_bytes
            Expected size, checked against free space before anything is written.

        Raises
        ------
        StorageError
            When the disk is full (also if the block failed because of that) or not writable.
        """

    @abstractmethod
    def turn(
        self,
        key: str,
        *,
        on_wait: Callable[[], object] = lambda: None,
        timeout_s: float = TURN_TIMEOUT_S,
    ) -> AbstractContextManager[None]:
        """Hold the right to make the artifact `key`, alone among all users of the store.

        Look the artifact up again inside: whoever had the turn before has probably made it.

        Parameters
        ----------
        on_wait
            Called once if somebody else has the turn.
        timeout_s
            Longest wait.

        Raises
        ------
        StorageError
            If the turn does not come within `timeout_s`, or the store cannot be written.
        """

    @abstractmethod
    def share(self, reference: Reference) -> Reference:
        """Return a reference by which every machine of this store finds what `reference` names.

        Parameters
        ----------
        reference
            Of something on this machine.

        Raises
        ------
        ChangedInputError
            If it has another digest by now.
        StorageError
            If it cannot be read, or shared.
        """

    @abstractmethod
    def local(self, reference: Reference) -> Path:
        """Return the folder or file of a reference on this machine, fetched if need be.

        Raises
        ------
        StorageError
            If it is not there, or cannot be had.
        """

    def check(self, references: Iterable[Reference], digests: FileDigests | None = None) -> None:
        """Compare with the disk what was read from it; an artifact does not change.

        Raises
        ------
        ChangedInputError
            Naming everything that has another digest by now or cannot be read.
        """
        check_unchanged(references, digests)

    @abstractmethod
    def keep_here(self, name: str, keys: Iterable[str]) -> None:
        """Fetch artifacts, and let them stay on this machine for as long as they are `name`.

        Parameters
        ----------
        name
            Of what is served from here, a path of words; what it was before may go.
        keys
            What it needs.

        Raises
        ------
        StorageError
            If one cannot be had.
        """

    @property
    def shared_log(self) -> BucketLog | None:
        """What the histories of several machines are exchanged by; None for one machine's store."""
        return None

    @abstractmethod
    def remove(self, key: str) -> bool:
        """Delete an artifact (complete or not); say whether there was one."""

    @abstractmethod
    def all_keys(self) -> list[str]:
        """Return the keys of all artifacts, complete or not, in order."""

    @abstractmethod
    def quarantined(self) -> list[Quarantined]:
        """Return the damaged artifacts that were put aside and not deleted yet, oldest last."""

    @abstractmethod
    def remains(self, key: str) -> list[Remains]:
        """Return what is left under a key, here and in quarantine, whether it is whole or not.

        Raises
        ------
        StorageError
            If that cannot be read.
        """

    @abstractmethod
    def sweep_staging(self, older_than_s: float = 60.0) -> list[str]:
        """Remove drafts whose maker has died; return their names.

        Parameters
        ----------
        older_than_s
            Leave younger drafts alone.
        """

    def find_complete(self, key: str) -> Artifact | None:
        """Return the artifact called `key` if all that it refers to is there too, and unchanged."""
        artifact = self.find(key)
        if artifact is None:
            return None
        for other, digest in artifact.references.items():
            found = self.find_complete(other)
            if found is None or digest not in (None, found.digest):
                return None
        return artifact

    def get(self, key: str) -> Artifact:
        """Return the artifact called `key`.

        Raises
        ------
        StorageError
            If it is missing or incomplete.
        """
        artifact = self.find(key)
        if artifact is None:
            raise self.missing(key)
        return artifact

    def all(self, kind: str | None = None) -> Iterator[Artifact]:
        """Yield every complete artifact, of one kind if given, in order of key; marks no use."""
        for key in self.all_keys():
            artifact = self.look(key)
            if artifact is not None and kind in (None, artifact.kind):
                yield artifact

    def missing(self, key: str) -> StorageError:
        """Return the error of an artifact that should be there."""
        return StorageError(
            f"artifact {key[:12]}… is not in {self.url} or is damaged; materialize it again"
        )


def check_key(key: str) -> str:
    """Return `key`, or raise ``ValueError`` if it cannot be an artifact's."""
    if not _KEY.match(key):
        raise ValueError(f"an artifact key is a sha256 in lower-case hex, not {key!r}")
    return key


def is_key(text: str) -> bool:
    """Return whether `text` can be an artifact's key."""
    return _KEY.match(text) is not None


def check_kind(kind: str) -> str:
    """Return `kind`, or raise ``ValueError`` if it is no word."""
    if not _KIND.match(kind):
        raise ValueError(f"an artifact kind is a lower-case word, not {kind!r}")
    return kind


StoreFactory = Callable[[str, Path], ArtifactStore]
"""Called with a store's URL and OPTIKIT_HOME, below which it may keep what it fetched."""

_STORES: plugins.Registry[StoreFactory] = plugins.Registry(
    "artifact store", plugins.STORES, "OPTIKIT_STORE begins with it"
)


def register_store(scheme: str) -> Callable[[StoreFactory], StoreFactory]:
    """Register what opens a store under the scheme of its URLs.

    Other packages register theirs as entry points in the group ``optikit.stores``.
    """
    return _STORES.register(scheme)


@lru_cache(maxsize=16)
def open_store(url: str, home: Path) -> ArtifactStore:
    """Return the store behind a URL.

    Parameters
    ----------
    url
        ``file:///…``; any scheme that is registered.
    home
        OPTIKIT_HOME of this machine.

    Raises
    ------
    UnknownNameError
        If nobody registered the scheme.
    StorageError
        If it is no URL.
    """
    scheme = _SCHEME.match(url)
    if scheme is None:
        raise StorageError(
            f"{url!r} is no URL of an artifact store; write file:///FOLDER, or set OPTIKIT_STORE "
            f"to one of: {', '.join(f'{name}://' for name in _STORES.names())}"
        )
    return _STORES.get(scheme[1])(url, home)
