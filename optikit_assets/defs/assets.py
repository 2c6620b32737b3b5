"""All assets and resources of the graph in one place."""

from collections.abc import Mapping
from typing import Any

from optikit_assets.defs.base_model import base_model
from optikit_assets.defs.benchmarking.benchmark_sweep import benchmark_sweep
from optikit_assets.defs.deployment.deployable_config import deployable_config
from optikit_assets.defs.evaluation.eval_scores import eval_scores
from optikit_assets.defs.quantization.quantized_model import quantized_model
from optikit_assets.defs.sources import SOURCES
from optikit_assets.defs.tuning.tuned_config import tuned_config
from optikit_assets.execution import Pools
from optikit_assets.history import History
from optikit_assets.settings import settings
from optikit_assets.specs import Catalog
from resources import (
    ArtifactStoreResource,
    HistoryResource,
    ModelRegistryResource,
    PublisherResource,
    StageRunnerResource,
    UpstreamResource,
)
from resources.stage_runner import Listener, nobody
from resources.upstream import Bring, as_it_is

ASSETS = [
    base_model,
    *SOURCES,
    quantized_model,
    eval_scores,
    benchmark_sweep,
    tuned_config,
    deployable_config,
]


def resources(listener: Listener = nobody, bring: Bring = as_it_is) -> dict[str, object]:
    """Return the resources of this process, bound to its settings.

    Parameters
    ----------
    listener
        Told of what workers report.
    bring
        What a decision does first about what is upstream of it.
    """
    here = settings()
    return {
        "models": ModelRegistryResource(
            home=str(here.home), recipes=str(here.recipes), root=str(here.root)
        ),
        "artifacts": ArtifactStoreResource(url=here.store, home=str(here.home)),
        "history": HistoryResource(root=str(here.history), store=here.store, home=str(here.home)),
        "publisher": PublisherResource(name=here.publisher, home=str(here.home)),
        "runner": StageRunnerResource.over(
            lambda: Pools.of(here, Catalog.load(here.recipes), _keep_lease), listener
        ),
        "upstream": UpstreamResource.by(bring),
    }


def _keep_lease(row: Mapping[str, Any]) -> None:
    History(settings().history).append("leases", [row])
