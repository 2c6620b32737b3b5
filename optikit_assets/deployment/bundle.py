"""The deploy bundle: ``vllm.yaml``, ``deployment.json`` and ``report.html`` in one folder."""

import json
from dataclasses import dataclass
from pathlib import Path

from optikit_assets.deployment.evidence import Evidence
from optikit_assets.deployment.report import render_report
from optikit_assets.schemas import DEPLOYMENT_FILE, Deployment

CONFIG_FILE = "vllm.yaml"
REPORT_FILE = "report.html"


@dataclass(frozen=True)
class Bundle:
    """Where the files of a written bundle are; no ``config`` if nothing can be deployed."""

    folder: Path
    record: Path
    report: Path
    config: Path | None


def write_bundle(
    folder: Path,
    deployment: Deployment,
    vllm_yaml: str | None = None,
    evidence: Evidence | None = None,
) -> Bundle:
    """Write the bundle into `folder`, which must exist.

    Parameters
    ----------
    vllm_yaml
        Content of vLLM's ``--config`` file; required if the deployment is feasible, not written
        otherwise.

    Raises
    ------
    ValueError
        If a feasible deployment comes without its configuration.
    """
    feasible = deployment.status == "feasible"
    if feasible and not vllm_yaml:
        raise ValueError(f"a feasible deployment of {deployment.model_key} needs its {CONFIG_FILE}")
    config = folder / CONFIG_FILE if feasible else None
    if config is not None and vllm_yaml is not None:
        config.write_text(vllm_yaml, encoding="utf-8")
    record = folder / DEPLOYMENT_FILE.file
    content = json.dumps(DEPLOYMENT_FILE.dump(deployment), indent=2, ensure_ascii=False)
    record.write_text(content + "\n", encoding="utf-8")
    report = folder / REPORT_FILE
    report.write_text(
        render_report(
            deployment, evidence or Evidence(), vllm_yaml if config is not None else None
        ),
        encoding="utf-8",
    )
    return Bundle(folder=folder, record=record, report=report, config=config)
