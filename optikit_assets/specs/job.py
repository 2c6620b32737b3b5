"""Job files (``recipes/jobs/NAME.yaml``): one submission, one spec.

The fields of the paper's ``OptimizationJob`` (appendix A.2), and where they are here:

=================  =================================================================================
``flow``           `JobSpec.flow`.
``model``          `JobSpec.model`; where versions come from is said in ``recipes/models/``.
``dataset``        ``calibration_data`` of the model (``recipes/models/``).
``flow_params``    `JobSpec.recipes`; a recipe's number of trials is its own ``trials``
                   (``recipes/quantization/``), the search is that of the SLO (``recipes/slos/``).
``compute_config`` `JobSpec.pools`: stages lease as many of their accelerators as they need.
=================  =================================================================================

What a job does not have cannot be said in it either: a data set or a number of trials of its own
would make other checkpoints under the name of the same recipe. Another recipe says it.
"""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field, field_validator

from optikit_assets.specs import plugins
from optikit_assets.specs.base import Name, Spec, digest

_RECIPE = "belongs to a recipe (recipes/quantization/), whose checkpoints follow from it"
_SAID_ELSEWHERE = {
    "dataset": "is calibration_data of the model (recipes/models/): checkpoints follow from it",
    "calibration_data": "is said of the model (recipes/models/): checkpoints follow from it",
    "num_trials": _RECIPE,
    "trials": _RECIPE,
    "flow_params": "is the names of recipes here; what else one needs is said in its own file",
    "compute": "is the names of pools here (recipes/hardware/), whose accelerators stages lease",
    "compute_config": "is the names of pools here (recipes/hardware/), whose accelerators stages "
    "lease",
}


class JobSpec(Spec):
    """What `optikit optimize --job FILE` runs."""

    said_elsewhere: ClassVar[Mapping[str, str]] = _SAID_ELSEWHERE

    flow: Name = Field(
        default=plugins.DEFAULT_FLOW,
        description="Which stages are brought up to date: "
        f"{', '.join(plugins.BUILTIN_FLOWS)}, or one of a package.",
    )
    model: str = Field(min_length=1, description="NAME or NAME@VERSION (unset version: latest).")
    slos: tuple[Name, ...] = Field(
        default=(), description="SLO names; at least one for a flow that measures, else none."
    )
    recipes: tuple[Name, ...] = Field(
        default=(),
        description="Recipe names; empty: all, in a flow that makes no checkpoints the baseline "
        "alone. The baseline always takes part.",
    )

    pools: tuple[Name, ...] = Field(
        default=(),
        description="Names of hardware pools (recipes/hardware/, or local) that it measures on; "
        "checkpoints and scores are made on the first. Empty: those of each SLO.",
    )

    @field_validator("flow")
    @classmethod
    def _known(cls, name: str) -> str:
        return plugins.known_flow(name)

    def digest(self) -> str:
        """Return the digest, in which flow and pools count unless they are those of old jobs."""
        earlier = {"flow"} if self.flow == plugins.DEFAULT_FLOW else set()
        earlier |= set() if self.pools else {"pools"}
        return digest(self.model_dump(mode="json", exclude={"description", *earlier}))
