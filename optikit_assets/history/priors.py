"""The flags that won earlier studies of what is alike."""

import json

from optikit_assets.errors import HistoryError
from optikit_assets.history.archive import History
from optikit_assets.specs.search_space import Scalar

MOST = 3
# Token counts within this factor of each other are a workload of the same shape.
_ALIKE = 2.0
_BEST = """
SELECT flags, model = $model AS same_model, recipe = $recipe AS same_recipe,
       abs(ln(input_tokens / $input)) + abs(ln(output_tokens / $output)) AS distance
FROM tuning_trials
WHERE is_best AND NOT is_default AND architecture = $architecture AND accelerator = $accelerator
  AND engine = $engine AND objectives = $objectives AND study <> $study
  AND abs(ln(input_tokens / $input)) <= ln($alike)
  AND abs(ln(output_tokens / $output)) <= ln($alike)
ORDER BY same_model DESC, same_recipe DESC, distance, ended_at DESC
"""


def earlier_winners(
    history: History,
    *,
    study: str,
    engine: str,
    model: str,
    recipe: str,
    architecture: str,
    accelerator: str,
    input_tokens: float,
    output_tokens: float,
    objectives: str,
) -> list[dict[str, Scalar]]:
    """Return the flags that won earlier studies, those of what is most alike first, at most `MOST`.

    Alike: the same architecture, accelerator, engine and objectives, and token counts within a
    factor of two; the same model and recipe go first, then the nearest workload. A history that
    cannot be asked has none.
    """
    parameters = {
        "study": study,
        "engine": engine,
        "model": model,
        "recipe": recipe,
        "architecture": architecture,
        "accelerator": accelerator,
        "input": max(1.0, input_tokens),
        "output": max(1.0, output_tokens),
        "objectives": objectives,
        "alike": _ALIKE,
    }
    try:
        found = history.query(_BEST, parameters)
    except HistoryError:
        return []
    flags = [json.loads(text) for text in found["flags"]]
    return [f for i, f in enumerate(flags) if f not in flags[:i]][:MOST]
