"""`optikit recertify`: whether what was certified still holds."""

from pathlib import Path

from rich.console import Console

from optikit_assets.cli.output_file import check_output, write_json
from optikit_assets.environments.status import python_of
from optikit_assets.headless.bundles import resolve_model
from optikit_assets.headless.driver import describe_record
from optikit_assets.headless.recertification import recertify_bundle
from optikit_assets.schemas import RecertifiedDeployment
from optikit_assets.settings import settings


def run_recertify(
    model: str,
    slo: str,
    *,
    certified_on: Path | None = None,
    quality: bool = False,
    channel: str | None = None,
    json_out: Path | None = None,
) -> int:
    """Measure and say what came of it; 0 only if the certificate stands."""
    check_output(json_out)
    model_key = resolve_model(model)
    for home in (settings().envs_home, *([] if certified_on is None else [certified_on])):
        python_of(home, "serve")
    console = Console(highlight=False, markup=False, soft_wrap=True)
    found = recertify_bundle(
        model_key,
        slo,
        certified_on=certified_on,
        quality=quality,
        channel=channel,
        listener=lambda _, record: console.print(f"  {describe_record(record)}"),
    )
    for line in summary(found):
        console.print(line)
    if json_out is not None:
        content = found.model_dump(mode="json")
        write_json(json_out, content, kept_in="the history: optikit sql 'FROM recertifications'")
    return 0 if found.stands else 1


def summary(found: RecertifiedDeployment) -> list[str]:
    """Return what was found, in words."""
    said = found.found
    with_what = {
        "engine": "the engine that it was certified on, served in turn",
        "record": "the record of its certification, its rounds with the same arrivals",
    }[said.against]
    held = "no rate" if said.held_rps is None else f"{said.held_rps:.3g} requests/s"
    changed = [
        f"{name} {found.certified_versions.get(name, '–')} → {version}"
        for name, version in found.versions.items()
        if found.certified_versions.get(name) != version
    ]
    same = "the same versions" if found.versions else "of which versions is not known"
    rates = f"certified at {found.certified_rate_rps:.3g} requests/s, all probes of now vouch for"
    answers = []
    if found.quality is not None:
        tasks = "; ".join(task.text for task in found.quality.representative.tasks)
        answers = [f"answers to suite {found.quality.suite}, against those of then: {tasks}"]
    return [
        f"{found.model} under SLO {found.slo}: {said.summary}",
        f"against {with_what}; {said.rounds} rounds, {said.load_seconds:.0f} s of load",
        f"{rates} {held}; {', '.join(changed) or same}",
        *answers,
    ]
