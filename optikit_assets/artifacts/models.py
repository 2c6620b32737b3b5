"""Model versions: where they are declared, what they are called, how they are fetched.

A version comes from a sub-folder of the ``source`` in ``recipes/models/NAME.yaml``, or from
``HOME/models/NAME/VERSION/``: a folder with weights, or one file ``source.json`` that points to a
folder elsewhere or to a hub repository, at the commit that the version stands for.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from optikit_assets.artifacts.file_digests import FileDigests
from optikit_assets.artifacts.hub import HUB_PREFIX, HubReference, download, resolve
from optikit_assets.artifacts.model_folder import ModelFolder, check_model_folder
from optikit_assets.errors import ModelError, SpecError, StorageError, UnknownNameError
from optikit_assets.locks import locked
from optikit_assets.specs import Catalog, check_name
from optikit_assets.specs.json_text import parse_json

SEPARATOR = "@"
SOURCE_FILE = "source.json"

# Adding goes on without a hub that does not answer soon: it is asked again before the first use.
_ADD_LIMIT_S = 10

_VERSION_LIKE = re.compile(r"^v?\d+([._-][0-9a-zA-Z]+)*$")
_ADD_HINT = "Add one with `optikit models add PATH|hf:ORG/NAME[@REV]`"


@dataclass(frozen=True)
class ModelVersion:
    """One version of a model.

    Attributes
    ----------
    source
        An absolute folder or ``hf:ORG/NAME@REVISION``.
    commit
        What the revision named when the version was added or first used; it stays that, however
        far a branch moves. None for a folder, or if nobody could ask the hub yet.
    """

    name: str
    version: str
    source: str
    commit: str | None = None

    @property
    def key(self) -> str:
        """Partition key, ``NAME@VERSION``."""
        return f"{self.name}{SEPARATOR}{self.version}"


class FetchedModel(BaseModel):
    """A checked model on this machine's disk, with the facts that later stages plan with."""

    model_config = ConfigDict(frozen=True)

    path: Path
    digest: str = Field(description="sha256 over names and contents of weights, config, tokenizer.")
    files: int
    total_bytes: int = Field(description="All files that count for the digest.")
    weight_bytes: int
    architecture: str
    parameters: int = Field(description="Stored tensor elements.")
    dtype: str | None
    quantization: str | None = Field(description="Method, if the weights come quantized already.")
    max_position_embeddings: int | None
    vocab_size: int | None
    hidden_size: int | None
    num_layers: int | None
    num_attention_heads: int | None
    num_key_value_heads: int | None
    head_dim: int | None


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

    def versions(self, name: str | None = None) -> list[ModelVersion]:
        """Return all versions, or those of one model, in natural order (v2 before v10)."""
        found = {version.key: version for version in self._scan([])}
        wanted = [v for v in found.values() if name in (None, v.name)]
        return sorted(wanted, key=lambda v: (v.name, _natural(v.version)))

    def problems(self) -> list[str]:
        """Return one line per folder that looks like a version but cannot be one."""
        problems: list[str] = []
        self._scan(problems)
        return problems

    def resolve(self, reference: str) -> ModelVersion:
        """Return the version called ``NAME@VERSION``, or the latest of ``NAME``.

        Raises
        ------
        UnknownNameError
            If there is none.
        """
        name, _, version = reference.partition(SEPARATOR)
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
        """Register a model folder or a hub repository under a name and a version.

        A folder is checked now, a hub repository when it is fetched. Without `name` and `version`,
        a folder ``…/NAME/VERSION`` gives both, any other folder its name and version ``1``, and a
        repository its name and revision. Adding the same source again changes nothing, but for a
        repository's branch, which is looked up anew: the version is what it names now.

        Raises
        ------
        SpecError
            If the name or version cannot be part of a partition key.
        ModelError
            If the folder is not a usable model or the version exists with another source.
        """
        hub = reference.startswith(HUB_PREFIX)
        parsed = None
        if hub:
            parsed = HubReference.parse(reference)
            source = str(parsed)
            default_name, default_version = parsed.name, parsed.revision
        else:
            path = Path(reference).expanduser().resolve()
            source = str(path)
            default_name, default_version = _named_after(path)
        entry = ModelVersion(
            _checked("name", name or default_name),
            _checked("version", version or default_version),
            source,
        )
        if not hub:
            check_model_folder(Path(source), self._trusts(entry.name))
        for existing in self.versions(entry.name):
            if existing.version == entry.version:
                if existing.source == entry.source:
                    return existing if parsed is None else self._resolved(existing, anew=True)
                raise ModelError(
                    f"{entry.key} exists already with source {existing.source}; choose another "
                    "--version for a changed model"
                )
        if parsed is not None:
            return self._resolved(entry, anew=True)
        self._write_source(entry, {"path": source})
        return entry

    def fetch(self, version: ModelVersion) -> FetchedModel:
        """Check a version's files, downloading them first if they are on a hub.

        Raises
        ------
        ModelError
            If the folder is not a usable model, or the hub does not hand it out.
        StorageError
            If the download does not fit on the disk.
        """
        path = Path(version.source)
        if version.source.startswith(HUB_PREFIX):
            reference = HubReference.parse(version.source)
            commit = version.commit or self._resolved(version).commit
            if commit is None:
                raise ModelError(
                    f"{reference} is not on this machine and the hub cannot be reached; add a "
                    "local folder with `optikit models add PATH`"
                )
            path = download(reference.at(commit), self._hub)
        return self.describe(path, self._trusts(version.name))

    def describe(self, path: Path, trust_remote_code: bool = False) -> FetchedModel:
        """Check any model folder, a quantized checkpoint for example, and read its facts."""
        folder = check_model_folder(path, trust_remote_code)
        return _facts(folder, self._digests.over(folder.path, folder.files))

    @property
    def _hub(self) -> Path:
        return self.home / "hub"

    def _resolved(self, version: ModelVersion, anew: bool = False) -> ModelVersion:
        """Return a hub version with its commit, which is written down for all who come later.

        Parameters
        ----------
        version
            With a hub reference as source.
        anew
            Ask the hub also if the commit is known; one that does not answer changes nothing.
        """
        reference = HubReference.parse(version.source)
        # Two that use a version for the first time have to agree.
        with self._lock():
            known = self._written_commit(version)
            commit = known
            if anew or known is None:
                commit = resolve(reference, self._hub, _ADD_LIMIT_S if anew else 30) or known
            content = {"hf": reference.repository, "revision": reference.revision}
            if commit is not None:
                content["commit"] = commit
            if anew or commit != known:
                self._write_source(version, content)
        return replace(version, commit=commit)

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

    def _scan(self, problems: list[str]) -> list[ModelVersion]:
        """Return every version; a version declared in the recipes comes last and so wins."""
        found: list[ModelVersion] = []
        for folder in _folders(self.home / "models"):
            for child in _folders(folder):
                self._collect(folder.name, child, found, problems)
        for name, spec in self.catalog.models.items():
            if spec.source is None:
                continue
            if spec.source.startswith(HUB_PREFIX):
                reference = HubReference.parse(spec.source)
                version = ModelVersion(name, reference.revision, str(reference))
                found.append(replace(version, commit=self._written_commit(version)))
                continue
            for child in _folders((self.repo_root / spec.source).resolve()):
                self._collect(name, child, found, problems)
        return found

    def _collect(
        self, name: str, folder: Path, found: list[ModelVersion], problems: list[str]
    ) -> None:
        try:
            check_name(name)
            check_name(folder.name)
            source, commit = _read_source(folder)
        except ValueError as error:
            problems.append(f"{folder}: {error}")
            return
        found.append(ModelVersion(name, folder.name, source, commit))

    def _write_source(self, version: ModelVersion, content: dict[str, str]) -> None:
        folder = self.home / "models" / version.name / version.version
        temporary = folder / f"{SOURCE_FILE}.{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
            temporary.replace(folder / SOURCE_FILE)
        except OSError as error:
            raise StorageError(f"cannot write {folder / SOURCE_FILE}: {error}") from error


def _facts(folder: ModelFolder, digest: str) -> FetchedModel:
    config = folder.text_config
    heads, hidden = config("num_attention_heads", "n_head"), config("hidden_size", "n_embd")
    quantization = folder.config.get("quantization_config") or {}
    architectures = folder.config.get("architectures") or []
    return FetchedModel(
        path=folder.path,
        digest=digest,
        files=len(folder.files),
        total_bytes=sum((folder.path / name).stat().st_size for name in folder.files),
        weight_bytes=folder.weight_bytes,
        architecture=architectures[0] if architectures else config("model_type") or "unknown",
        parameters=folder.parameters,
        dtype=config("dtype", "torch_dtype"),
        quantization=quantization.get("quant_method"),
        max_position_embeddings=config("max_position_embeddings", "n_positions"),
        vocab_size=config("vocab_size"),
        hidden_size=hidden,
        num_layers=config("num_hidden_layers", "n_layer"),
        num_attention_heads=heads,
        num_key_value_heads=config("num_key_value_heads") or heads,
        head_dim=config("head_dim") or (hidden // heads if hidden and heads else None),
    )


def _read_source(folder: Path) -> tuple[str, str | None]:
    """Return what a version folder stands for: itself, or what its ``source.json`` points to.

    The second is the commit of a hub repository, if it is known.
    """
    file = folder / SOURCE_FILE
    if not file.exists():
        return str(folder.resolve()), None
    content = parse_json(file.read_text(encoding="utf-8"))
    if isinstance(content, dict) and isinstance(content.get("path"), str):
        return content["path"], None
    if isinstance(content, dict) and isinstance(content.get("hf"), str):
        source = f"{HUB_PREFIX}{content['hf']}@{content.get('revision') or 'main'}"
        return source, content.get("commit")
    raise ValueError(f'{SOURCE_FILE} must hold {{"path": …}} or {{"hf": …, "revision": …}}')


def _folders(parent: Path) -> list[Path]:
    """Return the visible sub-folders that are not empty, in order."""
    if not parent.is_dir():
        return []
    return sorted(
        child
        for child in parent.iterdir()
        if child.is_dir() and not child.name.startswith(".") and any(child.iterdir())
    )


def _named_after(path: Path) -> tuple[str, str]:
    if _VERSION_LIKE.match(path.name) and path.parent.name:
        return path.parent.name, path.name
    return path.name, "1"


def _checked(what: str, value: str) -> str:
    try:
        return check_name(value)
    except ValueError as error:
        raise SpecError("<argument>", [f"{what}: {error}; pass --{what}"]) from error


def _natural(version: str) -> list[tuple[int, int, str]]:
    """Sort key in which numbers compare as numbers and come before words."""
    parts = re.findall(r"\d+|[^\d]+", version)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]
