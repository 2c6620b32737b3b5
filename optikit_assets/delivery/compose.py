"""Docker Compose: one replica on one machine."""

from optikit_assets.delivery.kubernetes import Manifest, bench_arguments
from optikit_assets.delivery.plan import CONFIG_FOLDER
from optikit_assets.schemas import ServingPlan


def compose(plan: ServingPlan) -> Manifest:
    """Return the project; ``OPTIKIT_MODEL`` is the folder with the weights."""
    ask = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{plan.port}{plan.health_path}')"
    server: Manifest = {
        "image": plan.image,
        "entrypoint": list(plan.command),
        "command": list(plan.arguments),
        "environment": plan.environment,
        "ports": [f"{plan.port}:{plan.port}"],
        "ipc": "host",
        "stop_grace_period": "2m",
        "configs": [{"source": "engine", "target": f"{CONFIG_FOLDER}/{plan.config_file}"}],
        "volumes": [f"${{OPTIKIT_MODEL:?the folder with the weights}}:{plan.model_folder}:ro"],
        "healthcheck": {
            "test": ["CMD", "python3", "-c", ask],
            "interval": "10s",
            "timeout": "10s",
            "retries": 6,
            "start_period": f"{plan.probes.patience_s}s",
        },
    }
    if plan.gpus:
        device = {"driver": "nvidia", "count": plan.gpus, "capabilities": ["gpu"]}
        server["deploy"] = {"resources": {"reservations": {"devices": [device]}}}
    files: Manifest = {"engine": {"file": f"./{plan.config_file}"}}
    services = {"server": server}
    if plan.slo_text is not None:
        files["slo"] = {"file": f"./{plan.slo}.yaml"}
        services["bench"] = {
            "profiles": ["bench"],
            "image": plan.bench_image,
            "command": bench_arguments(plan, f"http://server:{plan.port}/v1", CONFIG_FOLDER),
            "environment": {"OPTIKIT_HOME": "/tmp/optikit"},
            "configs": [{"source": "slo", "target": f"{CONFIG_FOLDER}/{plan.slo}.yaml"}],
            "depends_on": {"server": {"condition": "service_healthy"}},
        }
    return {"name": plan.name, "services": services, "configs": files}
