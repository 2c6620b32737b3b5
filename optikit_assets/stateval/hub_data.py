# pyright: standard, reportMissingImports=false
# The libraries behind this module have no types and live in another environment.
"""Items of a hub's data set, read at the one commit that the suite names.

The branch of a data set may move between two candidates, or after a score that is taken for
current. So control looks the commit up and puts it into the suite, and a task that reads a hub
without the suite saying what is refused.
"""

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

from optikit_assets.errors import EvaluationError
from optikit_assets.sources.references import check_commit, is_commit, parse_dataset
from optikit_assets.specs.suite import TaskSpec

# fmt: off
FILE_BUILDERS = frozenset({
    "arrow", "audiofolder", "conll", "csv", "eval", "fasta", "fastq", "genbank", "harbor", "hdf5",
    "iceberg", "imagefolder", "json", "lance", "meshfolder", "mmcif", "niftifolder", "pandas",
    "parquet", "pdb", "pdffolder", "text", "tsfile", "videofolder", "vortex", "webdataset", "xml",
})
# fmt: on
"""Builders of the datasets library that read files; any other name is a folder or a hub's."""

_PREFIX = "hf://datasets/"


def hub_name(path: str, folder: Path) -> str | None:
    """Return the data set on a hub that the datasets library takes `path` for, None if for files.

    Parameters
    ----------
    folder
        What it works in.
    """
    if path in FILE_BUILDERS or (folder / path).exists():
        return None
    return path.removeprefix(_PREFIX)


@contextlib.contextmanager
def held_to(task: TaskSpec) -> Generator[None]:
    """Have a task read the suite's data set of a hub at its commit, and no other of a hub.

    All ways of lm-eval's tasks to their data come by one function of the datasets library, those of
    a task's own code too; that may name a commit itself.

    Raises
    ------
    EvaluationError
        From what reads, if the data set is not the suite's and no commit is named, or the commit
        cannot be had.
    """
    from datasets import load

    original: Any = load.load_dataset_builder
    repository, revision = parse_dataset(task.dataset) if task.dataset else ("", None)

    def builder(path: str, *args: Any, **options: Any) -> Any:
        name = hub_name(str(path), Path.cwd())
        # Data sets from before there were organizations go by their last name too.
        if name is not None and name in (repository, repository.rpartition("/")[2]):
            path, options["revision"] = repository, revision or options.get("revision")
        elif name is not None and not is_commit(str(options.get("revision"))):
            raise EvaluationError(_refusal(task, name))
        built = original(path, *args, **options)
        if name is not None:
            try:
                check_commit(name, options.get("revision"), built.hash)
            except ValueError as error:
                raise EvaluationError(f"task {task.task!r}: {error}") from error
        return built

    load.load_dataset_builder = builder
    try:
        yield
    finally:
        load.load_dataset_builder = original


def _refusal(task: TaskSpec, name: str) -> str:
    named = f"names {task.dataset}" if task.dataset else "does not say so"
    reference = f"hf:{name if '/' in name else f'ORG/{name}'}"
    return (
        f"task {task.task!r} reads the data set {name} of a hub and the suite {named}, so that its "
        f"items could be others next time; set 'dataset: {reference}' for the task in the suite"
    )
