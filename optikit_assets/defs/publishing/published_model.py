"""The newest bundle with its weights, pushed to every publishing target.

No stage: no flow asks for it and no sensor requests it, for what leaves this place is somebody's
decision.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from optikit_assets import graph
from optikit_assets.artifacts import Artifact
from optikit_assets.defs.deployment.newest import newest_recorded
from optikit_assets.defs.partitions import OWNER, partitions_of
from optikit_assets.deployment.bundle import REPORT_FILE
from optikit_assets.errors import OptikitError, SpecError, StageError
from optikit_assets.releases import Pushed, publication_row, push_bundle
from optikit_assets.schemas import Deployment
from optikit_assets.settings import settings
from optikit_assets.specs import Catalog, PublishSpec, digest
from optikit_assets.who import who
from resources import ArtifactStoreResource, HistoryResource, ModelRegistryResource

PUBLISHED_MODEL = "published_model"


@dg.asset(
    name=PUBLISHED_MODEL,
    partitions_def=partitions_of(graph.DEPLOYABLE_CONFIG),
    deps=[graph.DEPLOYABLE_CONFIG],
    group_name="delivery",
    description="The newest bundle with its weights at every publishing target (recipes/publish/); "
    "each alias moves last. Made on request alone.",
    code_version="1",
    owners=[OWNER],
)
def published_model(
    context: dg.AssetExecutionContext,
    models: ModelRegistryResource,
    artifacts: ArtifactStoreResource,
    history: HistoryResource,
) -> dg.MaterializeResult:
    """Push to every target; one that fails keeps no other from its release."""
    by, catalog = who(), models.catalog()
    key = graph.Node.of(graph.DEPLOYABLE_CONFIG, context.partition_key).key
    artifact, deployment = newest_recorded(context.instance, artifacts.store, key.model, key.slo)
    failed: list[str] = []
    done: list[Pushed] = []
    for name in _targets(catalog):
        try:
            target = catalog.target(name)
            if not target.takes(deployment.model, key.slo):
                continue
            _check_alias(target)
            pushed = push_bundle(
                target,
                artifact,
                deployment,
                store=artifacts.store,
                registry=models.registry(catalog),
            )
        except OptikitError as error:
            failed.append(f"{name}: {error}")
            continue
        history.append("publications", [publication_row(pushed, artifact, deployment, by)])
        done.append(pushed)
    history.drain()
    if not done and not failed:
        raise StageError(f"no publishing target is for {deployment.model} under SLO {key.slo}")
    if failed:
        raise StageError(f"{len(done)} targets have it, and not {'; '.join(failed)}")
    version = digest([[p.target.to, p.target.alias, p.release] for p in done])
    return dg.MaterializeResult(
        data_version=dg.DataVersion(version), metadata=_metadata(done, artifact, deployment)
    )


def _targets(catalog: Catalog) -> list[str]:
    """Return the names of all targets, broken files among them."""
    names = catalog.names("publish")
    if not names:
        raise StageError(
            f"there is no publishing target: write one into {catalog.root / 'publish'}"
        )
    return names


def _check_alias(target: PublishSpec) -> None:
    """Raise `SpecError` if the bundles of several partitions would take one alias from each other.

    On the command line somebody names the one that an alias is for.
    """
    if target.mixed_up:
        problem = (
            f"alias: is the same for all: put {target.mixed_up} into it, or into the place and the "
            "name in MLflow; or name one under models and slos"
        )
        raise SpecError(f"recipes/publish/{target.name}.yaml", [problem])


def _metadata(done: list[Pushed], artifact: Artifact, deployment: Deployment) -> dict[str, Any]:
    records = [
        dg.TableRecord(
            {
                "target": pushed.target.name,
                "weights": pushed.placed.uri,
                "alias": pushed.placed.alias,
                "sent": pushed.placed.sent,
                "release": pushed.release,
            }
        )
        for pushed in done
    ]
    return {
        "targets": dg.MetadataValue.table(records),
        "certified_rate_rps": deployment.certified_rate_rps or 0.0,
        "recipe": deployment.recipe or "none",
        "report": dg.MetadataValue.url(f"{settings().reports}/{artifact.key}/{REPORT_FILE}"),
        **dict(_links(done)),
    }


def _links(done: list[Pushed]) -> Iterator[tuple[str, dg.MetadataValue]]:
    """Yield an address for people of each target, which is also that of its weights without one."""
    for pushed in done:
        link = pushed.placed.link or pushed.placed.uri
        yield f"at {pushed.target.name}", dg.MetadataValue.url(link)
