"""Plain Kubernetes: files, server, service, disruption budget, bench, and a scaler by KEDA."""

from typing import Any

from optikit_assets.delivery.plan import CONFIG_FOLDER
from optikit_assets.delivery.weights import weights_fetchers, weights_mount, weights_volume
from optikit_assets.schemas import ServingPlan

Manifest = dict[str, Any]

_DRAIN_S = 15
_LONGEST_BENCH_S = 6 * 3600
# What Kubernetes makes the ends of generated names from: no word of a longer name is all of these.
_GENERATED = "[bcdfghjklmnpqrstvwxz2456789]"


def settings(plan: ServingPlan) -> Manifest:
    """Return the one copy of the engine's file and of the SLO, which nobody changes."""
    files = {plan.config_file: plan.config_text}
    if plan.slo_text is not None:
        files[f"{plan.slo}.yaml"] = plan.slo_text
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(plan, plan.settings_name),
        "immutable": True,
        "data": files,
    }


def server(plan: ServingPlan) -> list[Manifest]:
    """Return the deployment of the server and what goes with it."""
    selector = {"app.kubernetes.io/instance": plan.name}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(plan),
        "spec": {
            "replicas": plan.capacity.replicas,
            "selector": {"matchLabels": selector},
            # A replica goes when its successor serves.
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
            },
            "progressDeadlineSeconds": 2 * plan.probes.patience_s,
            "template": {
                "metadata": metadata(plan, None),
                "spec": {**pod(plan, "server"), "terminationGracePeriodSeconds": 120},
            },
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(plan),
        "spec": {
            "selector": selector,
            "ports": [{"name": "http", "port": plan.port, "targetPort": "http"}],
        },
    }
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(plan),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector}},
    }
    return [settings(plan), deployment, service, budget]


def pod(plan: ServingPlan, name: str) -> Manifest:
    """Return the pod of one replica; `name` is that of the container in it."""
    fetchers = weights_fetchers(plan)
    return {
        **({"initContainers": fetchers} if fetchers else {}),
        "containers": [container(plan, name, weights=True)],
        "volumes": [weights_volume(plan), *shared_volumes(plan)],
    }


def container(plan: ServingPlan, name: str, *, weights: bool) -> Manifest:
    """Return the container of the server; without `weights` somebody else mounts them."""
    get = {"path": plan.health_path, "port": plan.port, "scheme": "HTTP"}
    mounts = [
        {"name": "files", "mountPath": CONFIG_FOLDER, "readOnly": True},
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    return {
        "name": name,
        "image": plan.image,
        "command": list(plan.command),
        "args": list(plan.arguments),
        "env": [{"name": name, "value": value} for name, value in plan.environment.items()],
        "ports": [{"name": "http", "containerPort": plan.port, "protocol": "TCP"}],
        "startupProbe": {
            "httpGet": get,
            "periodSeconds": plan.probes.period_s,
            "failureThreshold": plan.probes.failures,
            "timeoutSeconds": 5,
        },
        "readinessProbe": {"httpGet": get, "periodSeconds": 5, "timeoutSeconds": 5},
        # A busy server may answer late; one that is dead stays so.
        "livenessProbe": {
            "httpGet": get,
            "periodSeconds": 10,
            "timeoutSeconds": 10,
            "failureThreshold": 6,
        },
        # Until nobody sends to it any more.
        "lifecycle": {"preStop": {"sleep": {"seconds": _DRAIN_S}}},
        **resources(plan),
        "volumeMounts": [*([weights_mount(plan)] if weights else []), *mounts],
    }


def resources(plan: ServingPlan) -> Manifest:
    """Return the cards of a replica; none on a processor."""
    if not plan.gpus:
        return {}
    cards = {"nvidia.com/gpu": str(plan.gpus)}
    return {"resources": {"requests": cards, "limits": cards}}


def shared_volumes(plan: ServingPlan) -> list[Manifest]:
    """Return the files and the shared memory of its processes."""
    return [
        {"name": "files", "configMap": {"name": plan.settings_name}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
    ]


def bench_arguments(plan: ServingPlan, base_url: str, slo_folder: str) -> list[str]:
    """Return the bench of what was deployed: the certified SLO against one address."""
    return [
        "optikit",
        "bench",
        f"--base-url={base_url}",
        f"--model={plan.served_name}",
        f"--slo={slo_folder}/{plan.slo}.yaml",
        f"--engine={plan.engine}",
    ]


def bench(plan: ServingPlan) -> list[Manifest]:
    """Return the job that measures what was deployed."""
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(plan, f"{plan.name}-bench"),
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": _LONGEST_BENCH_S,
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [
                        {
                            "name": "bench",
                            "image": plan.bench_image,
                            "command": bench_arguments(
                                plan, f"http://{plan.name}:{plan.port}/v1", CONFIG_FOLDER
                            ),
                            "env": [{"name": "OPTIKIT_HOME", "value": "/tmp/optikit"}],
                            "volumeMounts": [
                                {"name": "files", "mountPath": CONFIG_FOLDER, "readOnly": True}
                            ],
                        }
                    ],
                    "volumes": [{"name": "files", "configMap": {"name": plan.settings_name}}],
                },
            },
        },
    }
    return [job]


def scaler(plan: ServingPlan) -> list[Manifest]:
    """Return a scaler by what the servers have in flight; none if that is not known."""
    if plan.capacity.in_flight is None:
        return []
    scaled = {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": metadata(plan),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": plan.name},
            "minReplicaCount": plan.capacity.min_replicas,
            "maxReplicaCount": plan.capacity.replicas,
            "triggers": [trigger(plan, f'pod=~"{pods_of(plan.name)}"')],
        },
    }
    return [scaled]


def pods_of(name: str) -> str:
    """Return the expression for the pods of a deployment, and none of another's."""
    return f"{name}-{_GENERATED}+-{_GENERATED}{{5}}"


def trigger(plan: ServingPlan, selector: str) -> Manifest:
    """Return KEDA's question to Prometheus: requests in flight, so many for each replica.

    Completions saturate when a server does; what it has in flight goes on growing.
    """
    query = " + ".join(f"sum({name}{{{selector}}})" for name in plan.metrics)
    return {
        "type": "prometheus",
        "metricType": "AverageValue",
        "metadata": {
            "serverAddress": "http://prometheus-operated.monitoring.svc:9090",
            "query": query,
            "threshold": f"{plan.capacity.in_flight or 1.0:.3g}",
        },
    }


def metadata(plan: ServingPlan, name: str | None = "") -> Manifest:
    """Return name, labels and whether the certificate holds; None: of what has no name."""
    named = {} if name is None else {"name": name or plan.name}
    why = {"optikit.dev/why": plan.why_not_certified} if plan.why_not_certified else {}
    return {
        **named,
        "labels": {
            "app.kubernetes.io/name": plan.engine,
            "app.kubernetes.io/instance": plan.name,
            "app.kubernetes.io/managed-by": "optikit",
        },
        "annotations": {
            "optikit.dev/certified": "false" if plan.why_not_certified else "true",
            **why,
        },
    }
