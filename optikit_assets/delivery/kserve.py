"""KServe's InferenceService in its standard mode, from release 0.20 on.

The server is a container of its own: KServe's runtimes pass arguments through a shell, which takes
quotation marks off them.
"""

from optikit_assets.delivery.capacity import capacity
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


def canary(deployed: ServingPlan, new: ServingPlan, percent: int) -> list[Manifest]:
    """Return the service of what is deployed, with a share of the traffic for the new one.

    A canary has as many replicas as its share takes, and is not scaled.
    """
    *files, service = inference_service(deployed)
    described = dict(service["spec"]["predictor"])
    share = capacity(new.capacity.rate_rps, new.capacity.target_rps * percent / 100.0, None)
    other = {k: v for k, v in predictor(new).items() if k not in ("minReplicas", "maxReplicas")}
    other |= {"name": "new", "minReplicas": share.replicas}
    service["spec"] = {
        "predictor": {"name": "deployed", **described},
        "canary": [{"predictor": other, "trafficPercent": percent}],
    }
    other_files = settings(new)
    # With the same flags under the same name it is the same file.
    return [*files, *([] if other_files in files else [other_files]), service]


def predictor(plan: ServingPlan) -> Manifest:
    """Return what serves; KServe puts the weights where the engine's file says."""
    served = container(plan, "kserve-container", weights=False)
    served["env"] = [{"name": "STORAGE_URI", "value": plan.model_uri}, *served["env"]]
    return {
        "minReplicas": plan.capacity.min_replicas,
        "maxReplicas": plan.capacity.replicas,
        "deploymentStrategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
        },
        "containers": [served],
        "volumes": shared_volumes(plan),
    }
