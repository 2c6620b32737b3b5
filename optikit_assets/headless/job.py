"""The job that optimizes one model version: what the sensor requests and the launchpad offers."""

import dagster as dg
from pydantic import Field

from optikit_assets.defs.sensors import OPTIMIZE_JOB
from optikit_assets.errors import StageError
from optikit_assets.graph import PIPELINE, get_flow
from optikit_assets.headless.agenda import Event
from optikit_assets.headless.optimize import resolve_submission, run_submission
from optikit_assets.headless.upstream import parent_tags
from optikit_assets.settings import settings
from optikit_assets.specs import Catalog, JobSpec


class OptimizeConfig(dg.Config):
    """Which graph to bring up to date."""

    model: str = Field(description="NAME or NAME@VERSION.")
    flow: str = Field(default=PIPELINE.name, description="Which stages are brought up to date.")
    slos: list[str] = Field(
        default_factory=list, description="SLO names; none for a flow that does not measure."
    )
    recipes: list[str] = Field(
        default_factory=list,
        description="Recipe names; empty: all, in a flow that makes no checkpoints the baseline "
        "alone.",
    )
    pools: list[str] = Field(
        default_factory=list, description="Names of hardware pools; empty: those of each SLO."
    )


@dg.op(description="Materializes every stale partition of one model, upstream first.")
def optimize(context: dg.OpExecutionContext, config: OptimizeConfig) -> None:
    """Drive the partitions of one submission; each is a run of its own."""
    catalog = Catalog.load(settings().recipes)
    job = JobSpec(
        name="launched",
        flow=get_flow(config.flow).name,
        model=config.model,
        slos=tuple(config.slos),
        recipes=tuple(config.recipes),
        pools=tuple(config.pools),
    )

    for error in () if config.recipes else catalog.broken["quantization"].values():
        context.log.warning(f"left out: {error}")

    def log(event: Event) -> None:
        context.log.info(f"{event.kind} {event.node} {event.text or event.outcome}")

    submission = resolve_submission(job, catalog)
    _, report = run_submission(submission, log, catalog, parent_tags(context.run))
    if report.failed:
        raise StageError("; ".join(f"{node}: {why}" for node, why in report.failed.items()))


@dg.job(name=OPTIMIZE_JOB, description="Bring the deployable configs of one model up to date.")
def optimize_model() -> None:
    """Run the driver as a Dagster job."""
    optimize()
