"""Load the demo tasks' items from the JSON Lines files beside this module.

lm-eval resolves a relative ``data_files`` against the working directory, but a ``!function``
against the folder of the task file. Loading through a function therefore works from every
directory, and in memory, so that nothing is written to the cache of the datasets library.
"""

import json
from pathlib import Path
from typing import Any


def load(file: str, **_: Any) -> dict[str, Any]:
    """Return the only split, ``test``, read from `file`.

    Parameters
    ----------
    file
        Name of a JSON Lines file in this folder, from the task's ``dataset_kwargs``.
    **_
        The task's metadata, which lm-eval passes to every such function.
    """
    from datasets import Dataset

    lines = (Path(__file__).parent / file).read_text(encoding="utf-8").splitlines()
    return {"test": Dataset.from_list([json.loads(line) for line in lines])}
