"""Model versions: where they are declared, what they are called, how they are fetched.

A version comes from the ``source`` in ``recipes/models/NAME.yaml``, or from
``HOME/models/NAME/VERSION/``: a folder with weights, or one file ``source.json`` that points to a
folder elsewhere or to another source, at the revision that the version stands for.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from optikit_assets.artifacts.arrivals import why_not_arrived
from optikit_assets.artifacts.file_digests import FileDigests
from optikit_assets.artifacts.model_folder import ModelFolder, check_model_folder
from optikit_assets.errors import ModelError, SpecError, StorageError, UnknownNameError
from optikit_assets.locks import locked
from optikit_assets.sources import source_of
from optikit_assets.sources.base import ASK_LIMIT_S, Watched
from optikit_assets.sources.folder import sub_folders
from optikit_assets.sources.references import HubReference
from optikit_assets.specs import Catalog, check_name, digest
from optikit_assets.specs.json_text import parse_json

SEPARATOR = "@"
SOURCE_FILE = "source.json"

# Adding goes on without a source that does not answer soon: it is asked again before the first use.
_ADD_LIMIT_S = 10

_ADD_HINT = "Add one with `optikit models add PATH|hf:ORG/NAME[@REV]|s3://BUCKET/…`"


@dataclass(frozen=True)
class ModelVersion:
    """One version of a model.

    Attributes
    ----------
    source
        What the version's source calls it: an absolute folder or ``hf:ORG/NAME@REVISION``.
    commit
        What the source named when the version was added or first used; it stays that, however
        far a branch moves. None for a folder, or if nobody could say yet.
    """

    name: str
    version: str
    source: str
    commit: str | None = None

    @property
    def key(self) -> str:
        """Partition key, ``NAME@VERSION``."""
        return f"{self.name}{SEPARATOR}{self.version}"

    @property
    def in_place(self) -> Path | None:
        """The folder that the version is used from as it lies; None if it is fetched."""
        return source_of(self.source).in_place(self.source)


class FetchedModel(BaseModel):
    """A checked model on this machine's disk, with what others tell of it."""

    model_config = ConfigDict(frozen=True)

    path: Path
    digest: str = Field(description="sha256 over names and contents of weights, config, tokenizer.")
    total_bytes: int = Field(description="All files that count for the digest.")
    weight_bytes: int
    architecture: str
    parameters: int = Field(description="Stored tensor elements.")
    context_length: int | None


class ModelRegistry:
    """The model versions that exist.

    Parameters
    ----------
    home
        State folder (``OPTIKIT_HOME``): added versions, hub downloads and file digests live there.
    repo_root
        What relative sources in model specs are relative to.
    catalog
        Model specs.
    """

    def __init__(self, home: Path, repo_root: Path, catalog: Catalog) -> None:
        self.home = Path(home)
        self.repo_root = Path(repo_root)
        self.catalog = catalog
        self._digests = FileDigests(self.home / "cache" / "file-digests.json")

    def versions(self, name: str | None = None, away: set[str] | None = None) -> list[ModelVersion]:
        """Return all versions, or those of one model, in natural order (v2 before v10).

        `away` gets the names of models of which there may be more that nobody can list now.
        """
        away = set() if away is None else away
        found = {version.key: version for version in self._scan([], away, name)}
        wanted = [v for v in found.values() if name in (None, v.name)]
        return sorted(wanted, key=lambda v: (v.name, _natural(v.version)))

    def problems(self) -> list[str]:
        """Return one line per folder that looks like a version but cannot be one."""
        problems: list[str] = []
        self._scan(problems, set())
        return problems

    def resolve(self, reference: str) -> ModelVersion:
        """Return the version called ``NAME@VERSION``, or the latest of ``NAME``.

        Raises
        ------
        UnknownNameError
            If there is none.
        SpecError
            If the file of the model is broken.
        """
        name, _, version = reference.partition(SEPARATOR)
        self.catalog.model(name)
        versions = self.versions(name)
        if not versions:
            known = [v.key for v in self.versions()]
            raise UnknownNameError("model", reference, known, f"{_ADD_HINT}.")
        if not version:
            return versions[-1]
        for candidate in versions:
            if candidate.version == version:
                return candidate
        raise UnknownNameError(
            "model version", reference, [v.key for v in versions], f"{_ADD_HINT}."
        )

    def add(
        self, reference: str, name: str | None = None, version: str | None = None
    ) -> ModelVersion:
        """Register what a reference names, a folder or a hub repository, under a name and version.

        A folder is checked now, anything else when it is fetched. Without `name` and `version` they
        are what the source makes of the reference: a folder ``…/NAME/VERSION`` gives both, any
        other folder its name and version ``1``, and a repository its name and revision. Adding the
        same again changes nothing for a folder; what is fetched is looked up anew: the version is
        what the source names now.

        Raises
        ------
        SpecError
            If the reference is malformed, or name or version cannot be part of a partition key.
        ModelError
            If the folder is not a usable model or the version exists with another source.
        """
        try:
            found = source_of(reference).parse(reference)
        except ValueError as error:
            raise SpecError("<argument>", [str(error)]) from error
        entry = ModelVersion(
            _checked("name", name or found.name),
            _checked("version", version or found.version),
            found.reference,
        )
        if entry.in_place is not None:
            check_model_folder(entry.in_place, self._trusts(entry.name))
        for existing in self.versions(entry.name):
            if existing.version == entry.version:
                if existing.source != entry.source:
                    raise ModelError(
                        f"{entry.key} exists already with source {existing.source}; choose another "
                        "--version for a changed model"
                    )
                if existing.in_place is not None:
                    return existing
        if entry.in_place is None:
            return self._pinned(entry, anew=True)
        self._write_source(entry)
        return entry

    def fetch(self, version: ModelVersion) -> FetchedModel:
        """Check a version's files, fetching them first if they do not lie here.

        Raises
        ------
        ModelError
            If the folder is not a usable model, or its source does not hand it out.
        StorageError
            If it does not fit on the disk.
        """
        commit = version.commit
        if version.in_place is None and commit is None:
            commit = self._pinned(version).commit
        path = source_of(version.source).fetch(version.source, commit, self.home)
        return self.describe(path, self._trusts(version.name))

    def state(self, version: ModelVersion) -> str:
        """Return a cheap digest of what a version is now, without asking anybody far away."""
        if version.in_place is None:
            return digest([version.source, version.commit])
        return source_of(version.source).revision(version.source, self.home) or ""

    def why_not_arrived(self, version: ModelVersion, quiet_s: float, now_s: float) -> str | None:
        """Return what speaks against using a version now, None if nothing does."""
        folder = version.in_place
        if folder is None:
            return _why_not_quiet(version, quiet_s, now_s)
        try:
            trusted = self._trusts(version.name)
        except SpecError as error:
            return str(error)
        return why_not_arrived(folder, quiet_s, now_s, trusted)

    def describe(self, path: Path, trust_remote_code: bool = False) -> FetchedModel:
        """Check any model folder, a quantized checkpoint for example, and read its facts."""
        folder = check_model_folder(path, trust_remote_code)
        return _facts(folder, self._digests.over(folder.path, folder.files))

    def _pinned(self, version: ModelVersion, anew: bool = False) -> ModelVersion:
        """Return a version with its commit, which is written down for all who come later.

        Parameters
        ----------
        version
            Of a source that it is fetched from.
        anew
            Ask the source also if the commit is known; one that does not answer changes nothing.
        """
        ask = source_of(version.source).revision
        # Two that use a version for the first time have to agree.
        with self._lock():
            known = self._written_commit(version)
            commit = known
            if anew or known is None:
                limit_s = _ADD_LIMIT_S if anew else ASK_LIMIT_S
                commit = ask(version.source, self.home, limit_s) or known
            found = replace(version, commit=commit)
            if anew or commit != known:
                self._write_source(found)
        return found

    def _written_commit(self, version: ModelVersion) -> str | None:
        try:
            source, commit = _read_source(self.home / "models" / version.name / version.version)
        except (OSError, ValueError):
            return None
        return commit if source == version.source else None

    @contextmanager
    def _lock(self) -> Iterator[None]:
        file = self.home / "models" / ".lock"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        except OSError as error:
            raise StorageError(f"cannot write {file}: {error}") from error
        with locked(file, wait=True):
            yield

    def _trusts(self, name: str) -> bool:
        return self.catalog.model(name).trust_remote_code

    def _scan(
        self, problems: list[str], away: set[str], wanted: str | None = None
    ) -> list[ModelVersion]:
        """Return every version; a version declared in the recipes comes last and so wins.

        Raises
        ------
        SpecError
            If nobody can read the source of the `wanted` model; that of another is a problem.
        """
        found: list[ModelVersion] = []
        away.update(self.catalog.broken["models"])
        for folder in sub_folders(self.home / "models"):
            for child in sub_folders(folder):
                self._collect(folder.name, child.name, child, found, problems)
        for name, spec in self.catalog.models.items():
            if spec.source is None:
                continue
            try:
                listed = source_of(spec.source).versions(spec.source, self.repo_root)
            except ValueError as error:
                away.add(name)
                file = f"{self.catalog.root.name}/models/{name}.yaml"
                wrong = SpecError(file, [f"source: {error}"])
                if name == wanted:
                    raise wrong from error
                problems.append(str(wrong))
                continue
            except ModelError as error:
                away.add(name)
                problems.append(f"{name}: {error}")
                continue
            for item in listed:
                self._collect(name, item.version, item.reference, found, problems)
        return found

    def _collect(
        self,
        name: str,
        version: str,
        where: Path | str,
        found: list[ModelVersion],
        problems: list[str],
    ) -> None:
        try:
            entry = ModelVersion(check_name(name), check_name(version), str(where))
            folder = entry.in_place
            if folder is None:
                found.append(replace(entry, commit=self._written_commit(entry)))
            else:
                source, commit = _read_source(folder)
                found.append(replace(entry, source=source, commit=commit))
        except ValueError as error:
            problems.append(f"{where}: {error}")

    def _write_source(self, version: ModelVersion) -> None:
        content = {"source": version.source}
        if version.commit is not None:
            content["commit"] = version.commit
        folder = self.home / "models" / version.name / version.version
        temporary = folder / f"{SOURCE_FILE}.{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
            temporary.replace(folder / SOURCE_FILE)
        except OSError as error:
            raise StorageError(f"cannot write {folder / SOURCE_FILE}: {error}") from error


def _why_not_quiet(version: ModelVersion, quiet_s: float, now_s: float) -> str | None:
    """Return what speaks against a version that arrives file by file somewhere else."""
    source = source_of(version.source)
    if not isinstance(source, Watched):
        return None
    try:
        changed_s = source.changed_s(version.source)
    except ModelError as error:
        return str(error)
    if changed_s is None:
        return f"{version.source} has no files yet"
    left_s = changed_s + quiet_s - now_s
    return f"it changed a moment ago; waiting for {left_s:.0f} s" if left_s > 0 else None


def _facts(folder: ModelFolder, digest: str) -> FetchedModel:
    config = folder.text_config
    architectures = folder.config.get("architectures") or []
    return FetchedModel(
        path=folder.path,
        digest=digest,
        total_bytes=sum((folder.path / name).stat().st_size for name in folder.files),
        weight_bytes=folder.weight_bytes,
        architecture=architectures[0] if architectures else config("model_type") or "unknown",
        parameters=folder.parameters,
        context_length=config("max_position_embeddings", "n_positions"),
    )


def _read_source(folder: Path) -> tuple[str, str | None]:
    """Return what a version folder stands for: itself, or what its ``source.json`` points to.

    The second is the commit, if it is known. ``path``, or ``hf`` and ``revision``, were written
    by earlier releases.
    """
    file = folder / SOURCE_FILE
    if not file.exists():
        return str(folder.resolve()), None
    content = parse_json(file.read_text(encoding="utf-8"))
    if isinstance(content, dict):
        for key in ("source", "path"):
            if isinstance(content.get(key), str):
                return content[key], content.get("commit")
        if isinstance(content.get("hf"), str):
            reference = HubReference(content["hf"], content.get("revision") or "main")
            return str(reference), content.get("commit")
    raise ValueError(f'{SOURCE_FILE} must hold {{"source": …}}, with "commit" if it is known')


def _checked(what: str, value: str) -> str:
    try:
        return check_name(value)
    except ValueError as error:
        raise SpecError("<argument>", [f"{what}: {error}; pass --{what}"]) from error


def _natural(version: str) -> list[tuple[int, int, str]]:
    """Sort key in which numbers compare as numbers and come before words."""
    parts = re.findall(r"\d+|[^\d]+", version)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]
