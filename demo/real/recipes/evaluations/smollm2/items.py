"""Items from the JSON Lines files beside this module, and how lm-eval scores IFEval."""

import json
from pathlib import Path
from typing import Any


def load(files: dict[str, str], **_: Any) -> dict[str, Any]:
    """Return a split for every file: name of the split -> its items, in the order of the file."""
    from datasets import Dataset

    folder = Path(__file__).parent
    return {
        split: Dataset.from_list(
            [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]
        )
        for split, name in files.items()
    }


def process_results(doc: Any, results: Any) -> Any:
    """Score an answer to an item of IFEval by its instructions."""
    from lm_eval.tasks.ifeval import utils

    return utils.process_results(doc, results)


def agg_inst_level_acc(items: Any) -> Any:
    """Return the share of all instructions that were followed."""
    from lm_eval.tasks.ifeval import utils

    return utils.agg_inst_level_acc(items)
