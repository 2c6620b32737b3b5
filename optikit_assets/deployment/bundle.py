"""The deploy bundle: engine's file, ``deployment.json``, ``report.html``, manifests; one folder."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from optikit_assets.deployment.report_data import ReportData
from optikit_assets.schemas import DEPLOYMENT_FILE, Deployment

REPORT_FILE = "report.html"


@dataclass(frozen=True)
class ConfigFile:
    """What a server is started from.

    Parameters
    ----------
    name
        Of the file in the bundle.
    text
        Its content.
    commands
        How a server is started from it, the usual one first.
    """

    name: str
    text: str
    commands: tuple[str, ...]


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
    config: ConfigFile | None = None,
    data: ReportData | None = None,
    files: Mapping[str, str] | None = None,
) -> Bundle:
    """Write the bundle into `folder`, which must exist.

    Parameters
    ----------
    config
        What a server is started from; required if the deployment is feasible, not written
        otherwise.
    files
        Further ones, by name below `folder`.

    Raises
    ------
    ValueError
        If a feasible deployment comes without its configuration.
    """
    # It draws: what never writes a bundle has no use for Matplotlib, which is slow to import.
    from optikit_assets.deployment.report import render_report

    feasible = deployment.status == "feasible"
    if feasible and config is None:
        raise ValueError(f"a feasible deployment of {deployment.model_key} needs its configuration")
    shipped = config if feasible else None
    if shipped is not None:
        (folder / shipped.name).write_text(shipped.text, encoding="utf-8")
    record = folder / DEPLOYMENT_FILE.file
    content = json.dumps(DEPLOYMENT_FILE.dump(deployment), indent=2, ensure_ascii=False)
    record.write_text(content + "\n", encoding="utf-8")
    report = folder / REPORT_FILE
    report.write_text(render_report(deployment, data or ReportData(), shipped), encoding="utf-8")
    for name, text in (files or {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    written = None if shipped is None else folder / shipped.name
    return Bundle(folder=folder, record=record, report=report, config=written)
