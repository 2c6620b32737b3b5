"""What serves vLLM alone: KServe's LLMInferenceService, vLLM's production stack, Ray Serve.

The first two run the image that was certified with the certified file. Ray's images bring a vLLM of
their own, and it takes arguments of the engine alone, none of the server's.
"""

from collections.abc import Mapping
from typing import Any

from optikit_assets.engines.container import Format
from optikit_assets.engines.vllm.flag_catalog import catalog
from optikit_assets.schemas import ServingPlan

# ray[llm] 2.60.0 pins this vLLM (setup.py, "llm").
_RAY_IMAGE, _RAY_VLLM = "rayproject/ray-llm:2.60.0-py311-cu128", "0.29.0"
_HELM = "helm install NAME vllm/vllm-stack -f production-stack.yaml"


def formats(
    plan: ServingPlan, files: Mapping[str, Any], pod: Mapping[str, Any]
) -> dict[str, Format]:
    """Return one format per file.

    Parameters
    ----------
    files
        The object that holds the engine's file.
    pod
        Of a replica, with one container called ``main``.
    """
    return {
        "kserve-llm.yaml": Format(
            "KServe LLMInferenceService",
            (files, _llm_inference_service(plan, files, pod)),
            plan.why_not_certified,
            ("The container replaces the launcher of KServe's preset, and its TLS to the pod.",),
        ),
        "production-stack.yaml": Format(
            "values of the production stack's Helm chart",
            (_production_stack(plan, pod),),
            plan.why_not_certified,
            (_HELM, "Needs the ConfigMap of kubernetes.yaml in its namespace."),
        ),
        "ray-serve.yaml": _ray_serve(plan),
    }


def _llm_inference_service(
    plan: ServingPlan, files: Mapping[str, Any], pod: Mapping[str, Any]
) -> dict[str, Any]:
    main = {name: value for name, value in pod["containers"][0].items() if name != "lifecycle"}
    mounts = [m for m in main["volumeMounts"] if m["name"] != "weights"]
    cards = plan.flags.get("tensor_parallel_size", 1)
    return {
        "apiVersion": "serving.kserve.io/v1alpha2",
        "kind": "LLMInferenceService",
        "metadata": {**files["metadata"], "name": plan.name},
        "spec": {
            "model": {"uri": plan.model_uri, "name": plan.served_name},
            "replicas": plan.capacity.replicas,
            "parallelism": {"tensor": cards},
            "router": {"route": {}, "gateway": {}},
            "template": {
                "containers": [{**main, "volumeMounts": mounts}],
                "volumes": [v for v in pod["volumes"] if v["name"] != "weights"],
            },
        },
    }


def _production_stack(plan: ServingPlan, pod: Mapping[str, Any]) -> dict[str, Any]:
    main = pod["containers"][0]
    repository, _, tag = plan.image.rpartition(":")
    # The port of a registry is no tag.
    if not repository or "/" in tag:
        repository, tag = plan.image, "latest"
    model: dict[str, Any] = {
        "name": plan.name,
        "repository": repository,
        "tag": tag,
        "modelURL": plan.model_folder,
        "replicaCount": plan.capacity.replicas,
        "resources": main.get("resources", {"requests": {"cpu": "1"}}),
        # The chart turns prefix caching off where it is not told to be on, against the file.
        "vllmConfig": {
            "enablePrefixCaching": plan.flags.get("enable_prefix_caching", True),
            "extraArgs": list(plan.arguments),
        },
        "env": main["env"],
        "extraVolumes": pod["volumes"],
        "extraVolumeMounts": main["volumeMounts"],
    }
    for fetcher in pod.get("initContainers", []):
        mounts = {"extraVolumeMounts": fetcher["volumeMounts"]}
        model["initContainer"] = {
            **{name: fetcher[name] for name in ("name", "image", "args")},
            **mounts,
        }
        model["envFromSecret"] = {"name": fetcher["envFrom"][0]["secretRef"]["name"]}
    probe = {
        "initialDelaySeconds": plan.probes.period_s,
        "periodSeconds": plan.probes.period_s,
        "failureThreshold": plan.probes.failures,
        "httpGet": {"path": plan.health_path, "port": plan.port},
    }
    return {"servingEngineSpec": {"startupProbe": probe, "modelSpec": [model]}}


def _ray_serve(plan: ServingPlan) -> Format:
    flags = catalog().flags
    left_out = sorted(name for name in plan.flags if flags[name].server_only)
    scaling: dict[str, Any] = {
        "min_replicas": plan.capacity.min_replicas,
        "max_replicas": plan.capacity.replicas,
    }
    if plan.capacity.in_flight is not None:
        scaling["target_ongoing_requests"] = max(1, round(plan.capacity.in_flight))
    config = {
        "model_loading_config": {
            "model_id": plan.served_name,
            "model_source": plan.model_folder,
        },
        "engine_kwargs": catalog().to_arguments(
            {name: value for name, value in plan.flags.items() if name not in left_out}
        ),
        "runtime_env": {"env_vars": plan.environment},
        "deployment_config": {"autoscaling_config": scaling},
    }
    why = plan.why_not_certified
    if plan.engine_version != _RAY_VLLM:
        why = (
            f"{_RAY_IMAGE} brings vLLM {_RAY_VLLM}, measured was {plan.engine_version or 'another'}"
        )
    notes = [f"Image: {_RAY_IMAGE}, with the weights in {plan.model_folder}."]
    if left_out:
        notes.append(f"Ray serves HTTP itself, so these are left out: {', '.join(left_out)}.")
    application = {
        "name": plan.name,
        "route_prefix": "/",
        "import_path": "ray.serve.llm:build_openai_app",
        "args": {"llm_configs": [config]},
    }
    return Format("Ray Serve", ({"applications": [application]},), why, tuple(notes))
