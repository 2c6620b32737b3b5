"""`optikit deploy` and `publish`: how a certified configuration gets somewhere else."""

from functools import partial
from pathlib import Path

from rich.console import Console

from optikit_assets.delivery import canary_file, deploy_files, serving_plan
from optikit_assets.disk import storage_error
from optikit_assets.engines import get_engine
from optikit_assets.errors import OptikitError
from optikit_assets.headless.bundles import newest_bundle, published_uri, resolve_model
from optikit_assets.headless.promotion import deployed_in
from optikit_assets.headless.publication import publish
from optikit_assets.schemas import ServingPlan
from optikit_assets.settings import settings


def run_deploy(
    model: str,
    slo: str,
    target_rps: float | None,
    model_uri: str | None,
    image: str | None,
    bench_image: str | None,
    canary: int | None,
    channel: str | None,
    out: Path | None,
) -> None:
    """Write the files and say what they hold.

    With `canary`, also one that sends so many percent of the traffic of a channel there, by default
    ``production``.

    Raises
    ------
    OptikitError
        If there is no bundle, its engine has no image, or a value cannot be used.
    """
    if channel is not None and canary is None:
        raise OptikitError(
            f"--channel {channel} is for --canary PERCENT alone: without it the files are of the "
            "newest bundle, whatever the channel has; leave --channel out or add --canary"
        )
    model_key = resolve_model(model)
    artifact, deployment = newest_bundle(model_key, slo)
    model_uri = model_uri or published_uri(artifact.key)
    engine = get_engine(deployment.engine)
    planned = partial(
        serving_plan,
        deployment,
        engine,
        target_rps=target_rps,
        model_uri=model_uri,
        image=image,
        bench_image=bench_image,
    )
    plan = planned()
    if plan is None:
        raise OptikitError(
            f"no image of {engine.title} is known, so there are no manifests; serve the bundle "
            f"with `{engine.commands_on(deployment.accelerator_kind)[0]}`"
        )
    files = deploy_files(deployment, engine, plan)
    if canary is not None:
        channel = channel or "production"
        key, before = deployed_in(model_key, slo, channel)
        other = get_engine(before.engine)
        old = serving_plan(
            before, other, target_rps=plan.capacity.target_rps, model_uri=published_uri(key)
        )
        new = planned(served_name=before.model_key)
        if old is None or new is None:
            raise OptikitError(f"no image of {other.title} is known, which {channel} is served by")
        files |= canary_file(old, new, canary, model_key)
    folder = out or settings().home / "deploy" / model_key / slo
    write_files(folder, files)
    console = Console()
    for line in (*summary(plan), f"files: {folder}"):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def run_publish(model: str, slo: str, target: str) -> None:
    """Push the newest bundle and say where it is."""
    model_key = resolve_model(model)
    placed = publish(model_key, slo, target)
    sent = f"{placed.sent} files sent" if placed.sent else "it was there already"
    seen = f"; see {placed.link}" if placed.link else ""
    line = f"{model_key} under SLO {slo}: {placed.uri}, alias {placed.alias}; {sent}{seen}"
    Console().print(line, highlight=False, markup=False, soft_wrap=True)


def summary(plan: ServingPlan) -> list[str]:
    """Return the numbers of a plan in words."""
    found = plan.capacity
    each = "" if found.in_flight is None else f", {found.in_flight:.3g} requests in flight each"
    why = plan.why_not_certified
    rate = f"{found.rate_rps:.3g} requests/s per replica on {plan.accelerator}"
    share = f"{found.replicas} replicas at {found.utilization:.0%} of that or less"
    return [
        f"{plan.served_name} under SLO {plan.slo}: {rate}",
        f"{found.target_rps:.3g} requests/s: {share}{each}",
        f"{plan.image}, weights from {plan.model_uri}",
        f"certified: false: {why}" if why else "certified: true",
    ]


def write_files(folder: Path, files: dict[str, str]) -> None:
    """Write files below a folder, each of them whole.

    Raises
    ------
    StorageError
        If the disk refuses it.
    """
    try:
        for name, text in files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            draft = file.with_name(f".{file.name}.new")
            draft.write_text(text, encoding="utf-8")
            draft.replace(file)
    except OSError as error:
        raise storage_error(error, folder, "manifests") or error from error
