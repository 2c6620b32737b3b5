"""The bundle that a decision was recorded with last."""

import dagster as dg

from optikit_assets import graph
from optikit_assets.artifacts import Artifact, ArtifactStore
from optikit_assets.defs.recorded import recorded
from optikit_assets.errors import OptikitError
from optikit_assets.freshness import artifact_of
from optikit_assets.graph import Key, Node
from optikit_assets.schemas import DEPLOYMENT_FILE, Deployment


def newest_recorded(
    instance: dg.DagsterInstance, store: ArtifactStore, model_key: str, slo: str
) -> tuple[Artifact, Deployment]:
    """Return the bundle that was decided on last, and its record.

    Raises
    ------
    OptikitError
        If nothing was decided yet, or nothing can be deployed.
    """
    artifact, deployment = newest_decided(instance, store, model_key, slo)
    if deployment.status != "feasible":
        raise OptikitError(
            f"no configuration of {model_key} meets SLO {slo}, so there is nothing to deploy: "
            f"{deployment.closest}"
        )
    return artifact, deployment


def newest_decided(
    instance: dg.DagsterInstance, store: ArtifactStore, model_key: str, slo: str
) -> tuple[Artifact, Deployment]:
    """Return the bundle that was decided on last, and its record, whether it meets the SLO or not.

    Raises
    ------
    OptikitError
        If nothing was decided yet, or the bundle is gone.
    """
    known = recorded(instance, Node(graph.DEPLOYABLE_CONFIG, Key(model_key, slo=slo)))
    artifact = artifact_of(store, known)
    if artifact is None:
        raise OptikitError(
            f"there is no bundle of {model_key} under SLO {slo}; make one with "
            f"`optikit optimize --model {model_key} --slo {slo}`"
        )
    return artifact, DEPLOYMENT_FILE.read(artifact)
