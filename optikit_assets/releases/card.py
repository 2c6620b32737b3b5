"""The model card of a release: what a hub shows of it, and reads from it."""

from collections.abc import Iterator

import yaml

from optikit_assets.schemas import Deployment, RecipeQuality
from optikit_assets.sources.references import HubReference
from optikit_assets.specs.catalog import BASELINE

_HUB = "hf:"


def card_of(deployment: Deployment, source: str) -> str:
    """Return the card, in Markdown with what hubs read at its top.

    Parameters
    ----------
    source
        Reference of the base model; one on a hub is named there.
    """
    quantized = deployment.recipe not in (None, BASELINE)
    # Hubs call a library what its engine is called here.
    said: dict[str, object] = {"library_name": deployment.engine}
    if source.startswith(_HUB):
        said["base_model"] = HubReference.parse(source).repository
        if quantized:
            said["base_model_relation"] = "quantized"
    said["tags"] = ["optikit", *([deployment.recipe] if quantized else [])]
    front = yaml.safe_dump(said, sort_keys=False)
    return f"---\n{front}---\n\n" + "\n".join(_lines(deployment, source)) + "\n"


def _lines(deployment: Deployment, source: str) -> Iterator[str]:
    based = HubReference.parse(source).repository if source.startswith(_HUB) else deployment.model
    yield f"# {deployment.model_key} under SLO {deployment.slo.name}"
    yield ""
    yield (
        f"Base model: {based}, version {deployment.model_version}. Recipe: {deployment.recipe}"
        + (", with tuned engine flags." if deployment.tuned else ".")
    )
    yield ""
    yield "## Rate"
    yield ""
    cards = f"{deployment.gpus} × " if deployment.accelerator_kind == "cuda" else ""
    engine = deployment.versions.get(deployment.engine, "of unknown version")
    yield (
        f"Certified at **{deployment.certified_rate_rps:.3g} requests/s on {cards}"
        f"{deployment.accelerator}** with {deployment.engine} {engine}. It is worth nothing on "
        "other hardware."
    )
    gain = deployment.gain
    if gain is not None:
        yield (
            f"Per accelerator that is {gain.estimate:.2f} times what the unquantized model serves "
            f"with the engine's defaults (paired interval {gain.low:.2f} to {gain.high:.2f})."
        )
    yield from _scores(deployment)
    yield ""
    yield "## Files"
    yield ""
    yield (
        "`bundle/` has the certified flags, manifests, record (`deployment.json`) and the report "
        "with its proof; `release.json` the sha256 of every file."
    )


def _scores(deployment: Deployment) -> Iterator[str]:
    quality = next((q for q in deployment.quality if q.recipe == deployment.recipe), None)
    if quality is None or not quality.tasks:
        return
    yield ""
    yield "## Scores"
    yield ""
    yield from _table(quality)


def _table(quality: RecipeQuality) -> Iterator[str]:
    yield "| task | base model | this model | recovery (paired interval) | items | verdict |"
    yield "|---|---|---|---|---|---|"
    for row in quality.tasks:
        span = "" if None in (row.low, row.high) else f" ({row.low:.3f} to {row.high:.3f})"
        cells = [_number(row.baseline_score), _number(row.score), _number(row.recovery) + span]
        yield f"| {row.task} | {' | '.join(cells)} | {row.items or ''} | {row.verdict} |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
