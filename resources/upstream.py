"""What is done before a decision is made, as a Dagster resource."""

from collections.abc import Callable, Iterable

import dagster as dg

from optikit_assets.graph import Node

Bring = Callable[[dg.AssetExecutionContext], Iterable[Node]]
"""Told of the run of a decision; returns, once it is up to date, what the decision is made from."""


def as_it_is(context: dg.AssetExecutionContext) -> Iterable[Node]:
    """Do nothing: whoever runs the decision sees to what is upstream of it."""
    return ()


class UpstreamResource(dg.ConfigurableResource):
    """Brings what a decision is made from up to date."""

    bring: dg.ResourceDependency[Bring]

    @classmethod
    def by(cls, bring: Bring) -> "UpstreamResource":
        """Return the resource that does so in this way."""
        return cls(bring=dg.ResourceDefinition.hardcoded_resource(bring))
