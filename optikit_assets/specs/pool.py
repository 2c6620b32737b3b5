"""Hardware pools (``recipes/hardware/NAME.yaml``): cards that are alike, and how they are reached.

A machine without any file has the pool `LOCAL`: whatever accelerators it has. A file of that name
says what they are and what they cost.
"""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag, model_validator

from optikit_assets.specs.base import Name, Spec, digest

LOCAL = "local"
"""Name of the pool of the machine itself, which needs no file."""

_Word = Annotated[str, StringConstraints(min_length=1, pattern=r"^\S+$")]


def _way(value: Any) -> str:
    """Tell the two ways apart: a word names the machine itself, a mapping selects nodes."""
    return "local" if isinstance(value, str) else "labels"


Reach = Annotated[
    Annotated[Literal["local"], Tag("local")]
    | Annotated[dict[_Word, _Word], Field(min_length=1), Tag("labels")],
    Discriminator(_way),
]


class PoolSpec(Spec):
    """Nodes of one kind.

    What is declared is held against what is found on a node (`execution.pools`); what is left out
    is as it is found. The price is no fact that a measurement depends on.
    """

    accelerator: str | None = Field(
        default=None,
        min_length=1,
        description="Card type, a word or words of the name that its driver gives and the value of "
        "Ray's label ray.io/accelerator-type, e.g. H100; cpu for nodes without cards.",
    )
    cards_per_node: int | None = Field(
        default=None, ge=1, le=1024, description="Cards of a node; 1 for nodes without cards."
    )
    memory_gib: float | None = Field(
        default=None, gt=0, description="Memory of a card, or of a node without cards, in GiB."
    )
    price_per_hour: float | None = Field(
        default=None, gt=0, description="Of one card, in any currency that all pools share."
    )
    card: Name | None = Field(
        default=None,
        description="Data sheet (recipes/hardware/cards/) that the planner predicts from; unset: "
        "the one of its accelerator.",
    )
    reach: Reach = Field(
        default="local",
        description="local, the machine itself; or the labels that select its nodes on a Ray "
        "cluster, e.g. {ray.io/accelerator-type: H100}.",
    )

    @model_validator(mode="after")
    def _known_before_it_is_reached(self) -> "PoolSpec":
        if self.name == LOCAL and self.labels:
            raise ValueError(f"reach: the pool {LOCAL} is the machine itself: name this one else")
        unknown = [name for name in ("accelerator", "cards_per_node") if not getattr(self, name)]
        if self.labels and unknown:
            raise ValueError(f"{' and '.join(unknown)}: required of a pool that labels select")
        return self

    @property
    def labels(self) -> dict[str, str]:
        """What selects its nodes on a Ray cluster; empty for the machine itself."""
        return {} if isinstance(self.reach, str) else dict(self.reach)

    def digest(self) -> str:
        """Return the digest of what is declared of the hardware: neither price nor way there."""
        facts = {"name", "accelerator", "cards_per_node", "memory_gib"}
        return digest(self.model_dump(mode="json", include=facts))
