"""What an experiment tracker is told of a release: everything from the record of its deployment."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from optikit_assets.publishing import Account
from optikit_assets.schemas import Deployment

FIGURE = "figures/four_arms.svg"
# What MLflow's pages show above a run.
_NOTE = "mlflow.note.content"


def account_of(
    release: str,
    bundle_key: str,
    deployment: Deployment,
    bundle: Mapping[str, Path],
    folder: Path,
) -> Account:
    """Return the account of a release; figures are drawn into `folder`.

    Parameters
    ----------
    bundle
        Files of the bundle, as they are published.
    """
    from optikit_assets.deployment.arm_plots import four_arms
    from optikit_assets.deployment.canvas import encode

    figure = folder / FIGURE
    figure.parent.mkdir(parents=True, exist_ok=True)
    figure.write_bytes(encode(four_arms(deployment.arms)))
    return Account(
        release=release,
        title=f"{deployment.model_key} under SLO {deployment.slo.name}",
        metrics=dict(_metrics(deployment)),
        parameters=dict(_parameters(deployment)),
        tags={
            "model": deployment.model_key,
            "slo": deployment.slo.name,
            "bundle": bundle_key,
            _NOTE: deployment.summary,
        },
        files={**bundle, FIGURE: figure},
    )


def _metrics(deployment: Deployment) -> Iterator[tuple[str, float]]:
    gain = deployment.gain
    numbers: dict[str, float | None] = {
        "certified_rate_rps": deployment.certified_rate_rps,
        "certified_rate_per_gpu": deployment.certified_rate_per_gpu,
        "gain": gain and gain.estimate,
        "gain_low": gain and gain.low,
        "gain_high": gain and gain.high,
        "server_start_s": deployment.server_start_s,
        **{f"{name}_ms": value for name, value in deployment.latency_ms.items()},
    }
    for quality in deployment.quality:
        if quality.recipe == deployment.recipe:
            numbers["mean_recovery"] = quality.mean_recovery
            numbers |= {f"recovery/{row.task}": row.recovery for row in quality.tasks}
    yield from ((name, float(value)) for name, value in numbers.items() if value is not None)


def _parameters(deployment: Deployment) -> Iterator[tuple[str, str]]:
    """Yield what was decided, and on which machine."""
    told = {
        "recipe": deployment.recipe,
        "tuned": deployment.tuned,
        "gpus": deployment.gpus,
        "accelerator": deployment.accelerator,
        "engine": deployment.engine,
        **{f"version.{name}": value for name, value in deployment.versions.items()},
        **{f"flag.{name}": value for name, value in deployment.flags.items()},
    }
    # MLflow refuses longer ones.
    yield from ((name, str(value)[:6000]) for name, value in told.items() if value is not None)
