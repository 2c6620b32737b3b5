"""Stage 1: resolve and fetch a model version."""

import dagster as dg

from optikit_assets import graph
from optikit_assets.defs.body import Partition
from optikit_assets.defs.partitions import declared
from resources import (
    ArtifactStoreResource,
    HistoryResource,
    ModelRegistryResource,
    StageRunnerResource,
)


@dg.asset(
    **declared(graph.BASE_MODEL),
    kinds={"huggingface"},
)
def base_model(
    context: dg.AssetExecutionContext,
    models: ModelRegistryResource,
    artifacts: ArtifactStoreResource,
    history: HistoryResource,
    runner: StageRunnerResource,
) -> dg.MaterializeResult:
    """Fetch and check the model; safetensors only."""
    partition = Partition(context, models, artifacts, history, runner)
    model = partition.base
    return partition.result(
        metadata={
            "path": dg.MetadataValue.path(str(model.path)),
            "digest": model.digest,
            "architecture": model.architecture,
            "parameters": model.parameters,
            "bytes": model.total_bytes,
            "context_length": model.context_length or "unknown",
            "suite": partition.model_spec.suite,
            "owner": partition.model_spec.owner or "nobody",
        }
    )
