"""Data sets and judges on a hub, held to the commit that they were first used at."""

import json
import os
from pathlib import Path
from typing import Literal

from filelock import FileLock

from optikit_assets.errors import StorageError
from optikit_assets.sources.references import HUB_PREFIX, is_commit, parse_dataset


def pinned(
    reference: str,
    home: Path,
    kind: Literal["datasets", "judges"] = "datasets",
    timeout_s: float = 10.0,
) -> str:
    """Return ``hf:ORG/NAME@COMMIT`` for a data set, or a judge's model, whose branch may move.

    The commit is looked up once and kept in ``hub/KIND.json`` below `home`; to take a newer one,
    name it where the reference is written, or delete the entry. A reference whose hub cannot be
    reached yet is returned as it is.

    Parameters
    ----------
    reference
        ``hf:ORG/NAME[@REVISION]``.
    timeout_s
        Longest wait for the hub.

    Raises
    ------
    StorageError
        If the commit cannot be written down.
    ValueError
        If the reference is of another form.
    """
    record = home / "hub" / f"{kind}.json"
    repository, revision = parse_dataset(reference)
    if revision is not None and is_commit(revision):
        return reference
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{record}.lock"):
            known = json.loads(record.read_text("utf-8")) if record.exists() else {}
            if reference not in known:
                repo_type = "model" if kind == "judges" else "dataset"
                commit = _commit(repository, revision or "main", repo_type, timeout_s)
                if commit is None:
                    return reference
                fresh = record.with_name(f"{record.name}.{os.getpid()}")
                fresh.write_text(json.dumps({**known, reference: commit}, indent=1), "utf-8")
                fresh.replace(record)
                known[reference] = commit
    except OSError as error:
        raise StorageError(f"cannot write {record}: {error.strerror}") from error
    return f"{HUB_PREFIX}{repository}@{known[reference]}"


def _commit(repository: str, revision: str, repo_type: str, timeout_s: float) -> str | None:
    import huggingface_hub

    try:
        info = huggingface_hub.HfApi().repo_info(
            repository, repo_type=repo_type, revision=revision, timeout=timeout_s
        )
    except Exception:  # what is wrong with it, the worker that fetches it says
        return None
    return info.sha
