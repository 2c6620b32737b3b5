"""How a pod gets the weights, by the scheme of their address."""

from typing import Any

from optikit_assets.schemas import ServingPlan

STORAGE_IMAGE = "kserve/storage-initializer:v0.21.0"
"""Fetches what no volume can hold; its credentials come from the secret ``NAME-storage``."""

_VOLUME = "weights"


def weights_volume(plan: ServingPlan) -> dict[str, Any]:
    """Return the volume that holds the weights, or takes them in."""
    scheme, _, rest = plan.model_uri.partition("://")
    if scheme == "oci":
        return {"name": _VOLUME, "image": {"reference": rest, "pullPolicy": "IfNotPresent"}}
    if scheme == "pvc":
        claim = rest.partition("/")[0]
        return {"name": _VOLUME, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
    return {"name": _VOLUME, "emptyDir": {}}


def weights_mount(plan: ServingPlan) -> dict[str, Any]:
    """Return where a container sees it."""
    scheme, _, rest = plan.model_uri.partition("://")
    if scheme == "oci":
        # Such an image holds the files in the folder models/.
        return {
            "name": _VOLUME,
            "mountPath": plan.model_folder.rpartition("/")[0],
            "readOnly": True,
        }
    mount = {"name": _VOLUME, "mountPath": plan.model_folder, "readOnly": True}
    path = rest.partition("/")[2]
    return {**mount, "subPath": path} if scheme == "pvc" and path else mount


def weights_fetchers(plan: ServingPlan) -> list[dict[str, Any]]:
    """Return the containers that fetch them before the server starts; mostly none."""
    if plan.model_uri.startswith(("oci://", "pvc://")):
        return []
    return [
        {
            "name": "fetch-weights",
            "image": STORAGE_IMAGE,
            "args": [plan.model_uri, plan.model_folder],
            "envFrom": [{"secretRef": {"name": f"{plan.name}-storage", "optional": True}}],
            "volumeMounts": [{"name": _VOLUME, "mountPath": plan.model_folder}],
        }
    ]
