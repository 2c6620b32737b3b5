"""Partitions: models are dynamic, recipes and SLOs static; a scenario packs ``recipe@slo``.

Dagster allows two dimensions, so the third is packed. A multi-partition key is ``model|other``:
Dagster orders dimensions by name, and ``model`` sorts before ``recipe``, ``scenario`` and ``slo``.
"""

import dagster as dg

from optikit_assets.settings import settings
from optikit_assets.specs import Catalog, check_name

SEP = "@"
MODEL_DIMENSION = "models"

catalog = Catalog.load(settings().recipes)
RECIPES = sorted(catalog.recipes)
SLOS = sorted(catalog.slos)


def scenario_key(recipe: str, slo: str) -> str:
    """Pack a recipe and an SLO into one key."""
    return f"{recipe}{SEP}{slo}"


def split_scenario(key: str) -> tuple[str, str]:
    """Return the recipe and the SLO of a scenario key."""
    recipe, slo = key.split(SEP)
    return recipe, slo


def split_model(key: str) -> tuple[str, str]:
    """Return name and version of a model key, checked: Dagster silently drops bad dynamic keys."""
    name, _, version = key.partition(SEP)
    return check_name(name), check_name(version)


models = dg.DynamicPartitionsDefinition(name=MODEL_DIMENSION)
recipes = dg.StaticPartitionsDefinition(RECIPES)
slos = dg.StaticPartitionsDefinition(SLOS)
scenarios = dg.StaticPartitionsDefinition([scenario_key(r, s) for r in RECIPES for s in SLOS])
model_x_recipe = dg.MultiPartitionsDefinition({"model": models, "recipe": recipes})
model_x_scenario = dg.MultiPartitionsDefinition({"model": models, "scenario": scenarios})
model_x_slo = dg.MultiPartitionsDefinition({"model": models, "slo": slos})

same_model = dg.DimensionPartitionMapping("model", dg.IdentityPartitionMapping())
by_model = dg.MultiToSingleDimensionPartitionMapping("model")
by_recipe = dg.MultiToSingleDimensionPartitionMapping("recipe")
by_scenario = dg.MultiToSingleDimensionPartitionMapping("scenario")
recipe_to_scenario = dg.MultiPartitionMapping(
    {
        "model": same_model,
        "recipe": dg.DimensionPartitionMapping(
            "scenario",
            dg.StaticPartitionMapping({r: [scenario_key(r, s) for s in SLOS] for r in RECIPES}),
        ),
    }
)
scenario_to_slo = dg.MultiPartitionMapping(
    {
        "model": same_model,
        "scenario": dg.DimensionPartitionMapping(
            "slo",
            dg.StaticPartitionMapping({scenario_key(r, s): s for r in RECIPES for s in SLOS}),
        ),
    }
)
recipe_to_slo = dg.MultiPartitionMapping({"model": same_model})
