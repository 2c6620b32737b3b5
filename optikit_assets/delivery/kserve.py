"""KServe's InferenceService in its standard mode, from release 0.20 on.

The server is a container of its own: KServe's runtimes pass arguments through a shell, which takes
quotation marks off them.
"""

from optikit_assets.delivery.kubernetes import (
    Manifest,
    container,
    metadata,
    settings,
    shared_volumes,
)
from optikit_assets.schemas import ServingPlan


def inference_service(plan: ServingPlan) -> list[Manifest]:
    """Return the service and the files that it reads."""
    described = metadata(plan)
    described["annotations"] |= {"serving.kserve.io/deploymentMode": "Standard"}
    return [
        settings(plan),
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": described,
            "spec": {"predictor": predictor(plan)},
        },
    ]


def predictor(plan: ServingPlan) -> Manifest:
    """Return what serves; KServe puts the weights where the engine's file says."""
    return {
        "minReplicas": plan.capacity.min_replicas,
        "maxReplicas": plan.capacity.replicas,
        "deploymentStrategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
        },
        "storageUris": [{"uri": plan.model_uri, "mountPath": plan.model_folder}],
        "containers": [container(plan, "kserve-container", weights=False)],
        "volumes": shared_volumes(plan),
    }
