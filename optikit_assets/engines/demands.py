"""What a recipe itself asks of the hardware (``requires``), whichever engine serves it."""

from optikit_assets.engines.hardware import Hardware
from optikit_assets.specs import RecipeSpec
from optikit_assets.specs.recipe import CpuFeature


def unmet_demands(recipe: RecipeSpec, hardware: Hardware) -> list[str]:
    """Return which of the recipe's own demands the hardware does not meet."""
    wanted = recipe.requires
    if wanted.accelerator not in ("any", hardware.kind):
        return [f"it requires accelerator {wanted.accelerator}, this is a {hardware.kind} machine"]
    if hardware.kind == "cpu":
        missing = missing_features(wanted.cpu_features, hardware)
        return [f"it requires {missing}, which {hardware.name} does not have"] if missing else []
    least, found = wanted.compute_capability, hardware.capability
    if least is None or found is None or found >= least:
        return []
    return [f"it requires compute capability {least}, {named(hardware)}"]


def missing_features(wanted: tuple[CpuFeature, ...], hardware: Hardware) -> str:
    """Return the instruction sets that a processor lacks, for people."""
    return ", ".join(feature for feature in wanted if feature not in hardware.features)


def named(hardware: Hardware) -> str:
    """Say which compute capability a GPU has."""
    return f"{hardware.name} has {hardware.capability}"
