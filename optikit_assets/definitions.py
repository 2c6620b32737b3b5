"""The code location: assets, checks, jobs, sensors and resources."""

import dagster as dg

from optikit_assets.defs.assets import ASSETS, resources
from optikit_assets.defs.deployment.recertified_config import recertified_config
from optikit_assets.defs.evaluation.jobs import evaluate_endpoint, repeatability
from optikit_assets.defs.openings import (
    allocate_from_one_arena,
    collect_by_what_came_since,
    leave_nothing_behind,
)
from optikit_assets.defs.publishing.published_model import published_model
from optikit_assets.defs.sensors import new_model_versions, spec_changes
from optikit_assets.defs.spec_checks import SPEC_CHECKS
from optikit_assets.headless.engine_upgrades import RECERTIFY_JOB, engine_upgrades
from optikit_assets.headless.job import optimize_model
from optikit_assets.headless.requesting import STAGE_JOBS, stale_partitions
from optikit_assets.headless.upstream import bring_up_to_date

leave_nothing_behind()
allocate_from_one_arena()

defs = dg.Definitions(
    assets=dg.with_source_code_references([*ASSETS, published_model, recertified_config]),
    asset_checks=SPEC_CHECKS,
    jobs=[optimize_model, evaluate_endpoint, repeatability, RECERTIFY_JOB, *STAGE_JOBS.values()],
    sensors=[new_model_versions, spec_changes, stale_partitions, engine_upgrades],
    resources=resources(bring=bring_up_to_date),
)

collect_by_what_came_since()
