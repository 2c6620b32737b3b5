# pyright: standard, reportMissingImports=false
# The libraries behind this module have no types and live in another environment.
"""What a task's scoring reads besides its items, looked for before any model is loaded.

lm-eval tries to download such data when it imports the task's code, goes on where that fails, and
asks for them again only when it scores the responses.
"""

import sys
from collections.abc import Mapping

from optikit_assets.errors import EvaluationError

NLTK_DATA: Mapping[str, tuple[str, ...]] = {
    "ifeval": ("tokenizers/punkt_tab/english/",),
    "leaderboard_ifeval": ("tokenizers/punkt_tab/english/",),
}
"""Task -> resources of nltk, as ``nltk.data.find`` names them (CATEGORY/PACKAGE/…)."""

_PACKAGE = "lm_eval.tasks."


def check_task_resources(task: str, scoring: object = None) -> None:
    """Raise `EvaluationError` if something that scores the task is not on this machine.

    Call it after the task is loaded: on a machine with a network lm-eval has fetched it by then.

    Parameters
    ----------
    task
        Its name.
    scoring
        Its ``process_results``: a task of another name may borrow that of one of lm-eval's own.
    """
    module = getattr(scoring, "__module__", None) or ""
    lenders = module.removeprefix(_PACKAGE).split(".") if module.startswith(_PACKAGE) else []
    wanted = (resource for name in (task, *lenders) for resource in NLTK_DATA.get(name, ()))
    for resource in dict.fromkeys(wanted):
        import nltk

        try:
            nltk.data.find(resource)
        except LookupError as error:
            package = resource.split("/")[1]
            raise EvaluationError(
                f"task {task!r} cannot be scored: nltk finds no usable {resource} for it; run "
                f"'{sys.executable} -m nltk.downloader {package}', or set NLTK_DATA to a folder "
                f"that holds {resource}"
            ) from error
