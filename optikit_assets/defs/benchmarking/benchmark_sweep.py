"""Stage 4: the highest SLO-compliant request rate of q* with the engine's defaults."""

import dagster as dg

from optikit_assets import graph
from optikit_assets.defs.benchmarking.recording import benchmark_metadata, remember_sweep
from optikit_assets.defs.benchmarking.serving import (
    Benchmarked,
    Measurement,
    benchmark,
    known_beforehand,
)
from optikit_assets.defs.body import Partition
from optikit_assets.defs.evaluation.candidates import representative_of
from optikit_assets.defs.partitions import declared
from optikit_assets.schemas import BENCHMARK_FILE
from optikit_assets.specs import SloSpec
from resources import (
    ArtifactStoreResource,
    HistoryResource,
    ModelRegistryResource,
    StageRunnerResource,
)


@dg.asset(
    **declared(graph.BENCHMARK_SWEEP),
    kinds={"gpu"},
)
def benchmark_sweep(
    context: dg.AssetExecutionContext,
    models: ModelRegistryResource,
    artifacts: ArtifactStoreResource,
    history: HistoryResource,
    runner: StageRunnerResource,
) -> dg.MaterializeResult:
    """Search the rate, unless the answer is certain without a server."""
    partition = Partition(context, models, artifacts, history, runner)
    recipe, slo = partition.recipe, partition.slo_spec
    with partition.turn():
        found = artifacts.find(partition.key)
        done = _measure(partition, recipe, slo) if found is None else Benchmarked.of(found)
    remember_sweep(partition, recipe, slo, done)
    return partition.result(
        status=done.outcome.status,
        cached=found is not None,
        artifact=done.artifact,
        metadata=benchmark_metadata(done, slo, f"{recipe}, engine defaults"),
    )


def _measure(partition: Partition, recipe: str, slo: SloSpec) -> Benchmarked:
    candidate = representative_of(partition, recipe)
    certain = known_beforehand(partition, slo, candidate, {})
    if certain is not None:
        with partition.keep() as draft:
            BENCHMARK_FILE.write(draft, certain)
        return Benchmarked(certain, partition.artifacts.store.get(partition.key))
    return benchmark(
        Measurement(
            partition, slo, candidate, artifact_key=partition.key, flags={}, seed=partition.seed()
        )
    )
