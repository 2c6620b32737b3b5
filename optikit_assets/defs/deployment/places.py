"""One pool that a configuration may be deployed on: what ran there, and its certification."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from optikit_assets.defs.body import Partition
from optikit_assets.defs.deployment.fresh_servers import StageServers
from optikit_assets.defs.deployment.outcomes import Evaluated, collect
from optikit_assets.deployment import (
    Contender,
    Limits,
    RecipeOutcome,
    Selection,
    certify,
    select,
)
from optikit_assets.graph import pool_name
from optikit_assets.schemas import Certification
from optikit_assets.specs import SloSpec


def certification_seed(partition: Partition, pool: str | None) -> int:
    """Return the seed of a certification on a pool; None is the machine itself."""
    return partition.seed("certification", *([] if pool is None else [pool]))


@dataclass(frozen=True)
class Place:
    """A pool; ``partition`` has its workers there."""

    partition: Partition
    slo: SloSpec
    evaluated: tuple[Evaluated, ...]
    selection: Selection
    servers: StageServers

    @classmethod
    def of(
        cls, partition: Partition, slo: SloSpec, recipes: Sequence[str], trials: Iterator[int]
    ) -> "Place":
        """Read what ran under an SLO on the pool of a stage; `trials` numbers its servers."""
        evaluated = tuple(collect(partition, recipes))
        selection = select([item.outcome for item in evaluated], slo.objectives)
        return cls(partition, slo, evaluated, selection, StageServers(slo, partition, trials))

    @property
    def outcomes(self) -> list[RecipeOutcome]:
        """Of every recipe."""
        return [item.outcome for item in self.evaluated]

    @property
    def contender(self) -> Contender:
        """What the searches on it claim."""
        name = pool_name(self.partition.node.key.pool)
        best = next(iter(self.selection.candidates), None)
        return Contender(
            pool=name,
            accelerator=self.partition.runner.hardware.label,
            price_per_hour=self.partition.catalog.pool(name).price_per_hour,
            claimed_per_gpu=0.0 if best is None else best.rate_per_gpu,
            at_best_per_gpu=max(
                (arm.at_best_per_gpu for arm in self.selection.candidates), default=0.0
            ),
            recipe=best and best.recipe,
            tuned=best and best.tuned,
            gpus=best and best.gpus,
            reason=self.selection.closest,
        )

    def certify(self) -> Certification:
        """Certify on fresh servers of this pool."""
        budget, pool = self.slo.budget, self.partition.node.key.pool
        return certify(
            self.selection.candidates,
            self.servers,
            seed=certification_seed(self.partition, pool),
            limits=Limits(
                budget.tolerance, budget.certification.max_rounds, budget.certification_load_seconds
            ),
            max_candidates=budget.certification.candidates,
        )
