"""All files of a plan, as text: one per format, the engine's own, and what they say of the plan."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from optikit_assets.delivery.compose import compose
from optikit_assets.delivery.kserve import canary, inference_service
from optikit_assets.delivery.kubernetes import bench, pod, scaler, server, settings
from optikit_assets.delivery.readme import readme
from optikit_assets.engines import Engine, Format
from optikit_assets.schemas import Deployment, ServingPlan

FOLDER = "deploy"
README_FILE = "README.md"


def deploy_files(
    deployment: Deployment, engine: Engine, plan: ServingPlan | None, model_at: str | None = None
) -> dict[str, str]:
    """Return the files by their names within a bundle.

    Parameters
    ----------
    plan
        None where there is no container of the engine: then there is one file, for people.
    model_at
        Folder that the bundle's own file has the model in, where that is none of this machine.
    """
    if plan is None:
        return {README_FILE: readme(deployment, engine, None, {}, model_at)}
    formats = {name: form for name, form in _formats(plan, engine).items() if form.documents}
    files = {
        README_FILE: readme(deployment, engine, plan, formats, model_at),
        f"{FOLDER}/{plan.config_file}": plan.config_text,
        f"{FOLDER}/plan.json": json.dumps(_told(plan, formats), indent=1) + "\n",
        **{f"{FOLDER}/{name}": _text(plan, form) for name, form in formats.items()},
    }
    if plan.slo_text is not None:
        files[f"{FOLDER}/{plan.slo}.yaml"] = plan.slo_text
    return files


def canary_file(
    deployed: ServingPlan, new: ServingPlan, percent: int, model_key: str
) -> dict[str, str]:
    """Return the manifest that sends a share of the traffic to a new bundle.

    Parameters
    ----------
    new
        Its plan under the name that requests have for what is deployed: whoever asks does not know
        which of the two answers.
    model_key
        What it serves.
    """
    note = (
        f"{percent} % of the traffic go to {model_key}, under the name of what is deployed; the "
        "rest stays where it is."
    )
    title = "KServe InferenceService with a canary"
    documents = tuple(canary(deployed, new, percent))
    form = Format(title, documents, new.why_not_certified, (note,))
    return {f"{FOLDER}/kserve-canary.yaml": _text(new, form)}


def _formats(plan: ServingPlan, engine: Engine) -> dict[str, Format]:
    def form(title: str, documents: Sequence[Mapping[str, Any]]) -> Format:
        return Format(title, tuple(documents), plan.why_not_certified)

    return {
        "compose.yaml": form("Docker Compose", [compose(plan)]),
        "kubernetes.yaml": form("Kubernetes", server(plan)),
        "autoscaling.yaml": form("KEDA, beside kubernetes.yaml", scaler(plan)),
        "bench.yaml": form("Kubernetes job that measures it", bench(plan) if plan.slo_text else []),
        "kserve.yaml": form("KServe InferenceService", inference_service(plan)),
        **engine.formats(plan, settings(plan), pod(plan, "main")),
    }


def _told(plan: ServingPlan, formats: Mapping[str, Format]) -> dict[str, Any]:
    """Return what a program wants to know of the plan without reading manifests."""
    told = plan.model_dump(mode="json", exclude={"config_text", "slo_text"})
    return {
        **told,
        "formats": {
            name: {
                "title": f.title,
                "certified": not f.why_not_certified,
                "why": f.why_not_certified,
            }
            for name, f in formats.items()
        },
    }


def _text(plan: ServingPlan, form: Format) -> str:
    why = form.why_not_certified
    lines = [
        f"{form.title}: {plan.served_name} under SLO {plan.slo}.",
        f"certified: {f'false: {why}' if why else 'true'}",
        f"One replica: {plan.capacity.rate_rps:.3g} requests/s on {plan.accelerator}.",
        *form.notes,
    ]
    head = "".join(f"# {line}\n" for line in lines)
    return head + "---\n".join(_dump(document) for document in form.documents)


class _Dumper(yaml.SafeDumper):
    """Quotes what other readers of YAML take for true or false, and shares nothing by anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _string(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    quoted = re.fullmatch(r"[yYnN]", text)
    style = "|" if "\n" in text else "'" if quoted else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _string)


def _dump(document: Mapping[str, Any]) -> str:
    return yaml.dump(dict(document), Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)
