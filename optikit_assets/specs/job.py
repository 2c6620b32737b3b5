"""Job files (``recipes/jobs/NAME.yaml``): one submission, one spec."""

from pydantic import Field

from optikit_assets.specs.base import Name, Spec


class JobSpec(Spec):
    """What `optikit optimize --job FILE` runs."""

    model: str = Field(min_length=1, description="NAME or NAME@VERSION (unset version: latest).")
    slos: tuple[Name, ...] = Field(min_length=1, description="SLO names.")
    recipes: tuple[Name, ...] = Field(
        default=(), description="Recipe names; empty: all. The baseline always takes part."
    )
