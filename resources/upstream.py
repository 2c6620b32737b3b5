"""What is done before a decision is made, as a Dagster resource."""

from collections.abc import Callable

import dagster as dg

Bring = Callable[[dg.AssetExecutionContext], object]
"""Told of the run of a decision; returns once what is upstream of it can be read."""


def as_it_is(context: dg.AssetExecutionContext) -> None:
    """Do nothing: whoever runs the decision sees to what is upstream of it."""


class UpstreamResource(dg.ConfigurableResource):
    """Brings what a decision is made from up to date."""

    bring: dg.ResourceDependency[Bring]

    @classmethod
    def by(cls, bring: Bring) -> "UpstreamResource":
        """Return the resource that does so in this way."""
        return cls(bring=dg.ResourceDefinition.hardcoded_resource(bring))
