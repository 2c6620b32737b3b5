"""Adaptive calibration: further rounds of trials while the quality gate is not passed.

The paper leaves it to future work (section 6). Round r = 0, 1, … of a recipe with n rows per trial
and growth g draws ⌈n·g^r⌉ rows; from the second round on the samplers that the recipe lists take
turns. A round is an ordinary recipe, so that its candidates are memoized like any others; its
trials are numbered on from those of the rounds before, and the number seeds what they draw.

Going on until a test passes tests more often than once: with R rounds each is judged at α / R
(Bonferroni), which keeps the error of the whole at α.
"""

import math

from optikit_assets.specs import RecipeSpec, SuiteSpec

_MOST_ROWS = 100_000


def rounds(recipe: RecipeSpec) -> int:
    """Return how many rounds there may be."""
    adaptive = recipe.calibration.adaptive if recipe.calibration else None
    return adaptive.max_rounds if adaptive else 1


def goes_on(recipe: RecipeSpec, number: int, verdict: str) -> bool:
    """Whether another round follows round `number` (from 0) after the gate's `verdict`."""
    return verdict != "pass" and number + 1 < rounds(recipe)


def round_recipe(recipe: RecipeSpec, number: int) -> RecipeSpec:
    """Return the recipe of round `number`, from 0; that of the first round is the recipe itself."""
    calibration = recipe.calibration
    adaptive = calibration.adaptive if calibration else None
    if calibration is None or adaptive is None or number == 0:
        return recipe
    samplers = adaptive.samplers or (calibration.sampler,)
    changes = {
        "samples": min(_MOST_ROWS, math.ceil(calibration.samples * adaptive.growth**number)),
        "sampler": samplers[(number - 1) % len(samplers)],
    }
    return recipe.model_copy(update={"calibration": calibration.model_copy(update=changes)})


def suite_of_a_round(suite: SuiteSpec, recipe: RecipeSpec) -> SuiteSpec:
    """Return the suite with the share of α that each round may spend."""
    gate = suite.gate.model_copy(update={"alpha": suite.gate.alpha / rounds(recipe)})
    return suite.model_copy(update={"gate": gate})
