"""Stage 4: the highest SLO-compliant request rate of q* with the engine's defaults."""

import dagster as dg

from optikit_assets import graph
from optikit_assets.defs.automation import VERSIONED
from optikit_assets.defs.benchmarking.measurement import (
    Benchmarked,
    benchmark,
    benchmark_metadata,
    known_beforehand,
    remember_sweep,
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
    automation_condition=VERSIONED,
)
def benchmark_sweep(
    context: dg.AssetExecutionContext,
    models: ModelRegistryResource,
    artifacts: ArtifactStoreResource,
    history: HistoryResource,
    runner: StageRunnerResource,
) -> dg.MaterializeResult:
    """Search the rate, unless the answer is certain without a server."""
    stage = Partition(context, models, artifacts, history, runner)
    recipe, slo = stage.recipe, stage.slo_spec
    with stage.turn():
        found = artifacts.find(stage.key)
        done = _measure(stage, recipe, slo) if found is None else Benchmarked.of(found)
    remember_sweep(stage, recipe, slo, done)
    return stage.result(
        status=done.outcome.status,
        cached=found is not None,
        artifact=done.artifact,
        metadata=benchmark_metadata(done, slo, f"{recipe}, engine defaults"),
    )


def _measure(stage: Partition, recipe: str, slo: SloSpec) -> Benchmarked:
    candidate = representative_of(stage, recipe)
    certain = known_beforehand(stage, slo, candidate, {})
    if certain is not None:
        with stage.keep() as draft:
            BENCHMARK_FILE.write(draft, certain)
        return Benchmarked(certain, stage.artifacts.store.get(stage.key))
    return benchmark(stage, slo, candidate, artifact_key=stage.key, flags={}, seed=stage.seed())
