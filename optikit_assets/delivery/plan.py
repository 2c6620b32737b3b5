"""From the record of a deployment to what its manifests say."""

import re
from fnmatch import fnmatch

import yaml

from optikit_assets import __version__
from optikit_assets.delivery.capacity import capacity, probes
from optikit_assets.engines import Engine
from optikit_assets.errors import SpecError
from optikit_assets.schemas import Deployment, ServingPlan
from optikit_assets.specs import SloSpec, digest

MODEL_FOLDER = "/mnt/models"
CONFIG_FOLDER = "/etc/optikit"

# With a digest, and what charts put before and after it, it has to stay a DNS label.
_NAME_CHARACTERS = 30
# Of the files beside an SLO's own; an engine's file is another.
_TAKEN = (
    "autoscaling", "bench", "compose", "kserve", "kserve-canary", "kserve-llm", "kubernetes",
    "production-stack", "ray-serve",
)  # fmt: skip
_SCHEMES = ("az", "gs", "hf", "oci", "pvc", "s3")


def serving_plan(
    deployment: Deployment,
    engine: Engine,
    *,
    target_rps: float | None = None,
    model_uri: str | None = None,
    image: str | None = None,
    bench_image: str | None = None,
    served_name: str | None = None,
) -> ServingPlan | None:
    """Return the plan of a feasible deployment; None where its engine has no container.

    Parameters
    ----------
    target_rps
        Traffic to plan for; the certified rate of one replica by default.
    model_uri
        Where the target takes the weights from: ``s3://``, ``gs://``, ``az://``, ``hf://``,
        ``oci://REGISTRY/NAME[@DIGEST]`` or ``pvc://CLAIM/PATH``; by default a path of the claim
        ``models`` that is named after their content.
    image
        In place of the engine's own of the certified version.
    bench_image
        One that has the `optikit` command.
    served_name
        What requests call the model; by default ``NAME@VERSION``.

    Raises
    ------
    SpecError
        If a value cannot be used.
    """
    container, rate = engine.container, deployment.certified_rate_rps
    if container is None or rate is None:
        return None
    found, why_not = container.of(deployment.versions)
    if image is not None and image != found:
        why_not = f"{image} is not {found}, of the version that was measured"
    mean_ms = deployment.latency_ms.get("e2e_latency_mean")
    name = served_name or deployment.model_key
    config = engine.config_text(deployment.flags, model=MODEL_FOLDER, served_model_name=name)
    content = (deployment.checkpoint_digest or deployment.model_digest).removeprefix("sha256:")
    return ServingPlan(
        # Of no version: the next one takes over from this one.
        name=object_name(deployment.model, deployment.slo.name),
        served_name=name,
        slo=deployment.slo.name,
        accelerator=deployment.accelerator,
        gpus=0 if deployment.accelerator_kind == "cpu" else deployment.gpus or 1,
        model_uri=_checked_uri(model_uri or f"pvc://models/{content[:16]}"),
        model_folder=MODEL_FOLDER,
        image=image or found,
        command=(*engine.prefix_on(deployment.accelerator_kind), *container.command),
        arguments=engine.container_arguments(f"{CONFIG_FOLDER}/{engine.config_file}"),
        port=container.port,
        health_path=engine.health_path,
        metrics=container.metrics,
        config_file=engine.config_file,
        config_text=config,
        slo_text=_slo_text(deployment.slo, engine.config_file),
        flags=deployment.flags,
        environment={
            name: value
            for name, value in deployment.environment.items()
            if any(fnmatch(name, pattern) for pattern in engine.variables.effective)
        },
        engine=engine.name,
        engine_version=deployment.versions.get(container.distribution, ""),
        why_not_certified=why_not,
        start_s=deployment.server_start_s,
        probes=probes(deployment.server_start_s),
        capacity=capacity(
            rate, rate if target_rps is None else target_rps, mean_ms and mean_ms / 1000.0
        ),
        bench_image=bench_image or f"optikit-assets:{__version__}",
    )


def object_name(model: str, slo: str) -> str:
    """Return the DNS label of a model family and an SLO, which no other two share."""
    plain = f"{model}-{slo}"
    # With one hyphen it is plain which part is which; the digest is of what tells them apart.
    return label(plain if plain.count("-") == 1 else f"{model}/{slo}")


def label(text: str) -> str:
    """Return a DNS label for a name; what had to be cut or changed shows in a digest at its end."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if plain == text and len(plain) <= _NAME_CHARACTERS and plain[0].isalpha():
        return plain
    short = plain[:_NAME_CHARACTERS].strip("-")
    prefix = "" if short[:1].isalpha() else "m-"
    return f"{prefix}{short}-{digest(text)[:6]}"


def is_within_reach(uri: str) -> bool:
    """Whether a pod can take weights from there, wherever it runs."""
    return uri.partition("://")[0] in _SCHEMES


def _checked_uri(uri: str) -> str:
    scheme, separator, rest = uri.partition("://")
    if scheme not in _SCHEMES or not separator or not rest.strip("/"):
        known = ", ".join(f"{name}://" for name in _SCHEMES)
        raise SpecError("<argument>", [f"model_uri: {uri!r} begins with none of {known}"])
    # A digest or a revision comes after a path.
    if "@" in rest.partition("/")[0]:
        raise SpecError("<argument>", ["model_uri: has credentials in it; a secret has them"])
    return uri.rstrip("/")


def _slo_text(slo: SloSpec, config_file: str) -> str | None:
    """Return an SLO as a file.

    None if it needs files beside it, which a container has not, or if its own has to have the name
    of another one here: a spec's file is called after it.
    """
    if slo.name in _TAKEN or f"{slo.name}.yaml" == config_file:
        return None
    if slo.workload.trace is not None or slo.workload.prompts is not None:
        return None
    # What only a search of flags reads stays out: nothing is searched there.
    left_out = {"search_space", "pools"}
    content = slo.model_dump(mode="json", exclude_defaults=True, exclude=left_out)
    return yaml.safe_dump(content, sort_keys=False)
