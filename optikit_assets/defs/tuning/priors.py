"""What a study begins with: the best of earlier ones of what is alike, then what is predicted."""

from dataclasses import replace

from optikit_assets.defs.body import Partition
from optikit_assets.engines import Flags
from optikit_assets.errors import OptikitError
from optikit_assets.graph import pool_name
from optikit_assets.history import earlier_winners
from optikit_assets.model_files import read_config
from optikit_assets.planner import Architecture, Question, places, promising
from optikit_assets.specs import SearchSpaceSpec, SloSpec
from resources.own_fits import own_fits


def priors(partition: Partition, recipe: str, slo: SloSpec, space: SearchSpaceSpec) -> list[Flags]:
    """Return the configurations that a study tries first, after the default; they may be alike."""
    return [*_winners(partition, recipe, slo), *_predicted(partition, recipe, slo, space)]


def objectives_of(slo: SloSpec) -> str:
    """Return the objectives of an SLO as the history tells them apart."""
    return ", ".join(sorted(objective.label for objective in slo.objectives))


def architecture_of(partition: Partition) -> str:
    """Return the architecture of the partition's model as the history tells them apart."""
    return ", ".join(read_config(partition.base.path).get("architectures") or ())


def _winners(partition: Partition, recipe: str, slo: SloSpec) -> list[Flags]:
    return earlier_winners(
        partition.history.history,
        study=partition.key,
        engine=partition.engine.name,
        model=partition.model_key,
        recipe=recipe,
        architecture=architecture_of(partition),
        accelerator=partition.runner.hardware.accelerator,
        input_tokens=slo.workload.mean_input_tokens or 0.0,
        output_tokens=slo.workload.mean_output_tokens,
        objectives=objectives_of(slo),
    )


def _predicted(
    partition: Partition, recipe: str, slo: SloSpec, space: SearchSpaceSpec
) -> list[Flags]:
    """Return what the planner takes for better than the default; [] where it knows too little."""
    catalog, engine, hardware = (
        partition.catalog, partition.model_spec.engine, partition.runner.hardware,
    )  # fmt: skip
    file = partition.base.path / "config.json"
    try:
        architecture = Architecture.of(read_config(partition.base.path), str(file))
        pool = pool_name(partition.node.key.pool)
        (place,) = places(catalog, [pool], lambda _: hardware.accelerator)
        registry = partition.models.registry(catalog)
        fits = own_fits(
            partition.history.history, catalog, registry, architecture, engine.name, [place.card]
        )
        place = replace(place, cards=hardware.count)
        question = Question(architecture, slo, engine, fits)
        return promising(question, place, catalog.recipe(recipe), space)
    except OptikitError as error:
        partition.context.log.info(f"the study begins without a prediction: {error}")
        return []
