"""The code location: assets, checks, jobs, sensors and resources."""

import dagster as dg

from optikit_assets.defs.assets import ASSETS, resources
from optikit_assets.defs.automation import SENSORS
from optikit_assets.defs.evaluation.jobs import evaluate_endpoint, repeatability
from optikit_assets.defs.sensors import new_model_versions, spec_changes
from optikit_assets.headless.job import optimize_model

defs = dg.Definitions(
    assets=dg.with_source_code_references(ASSETS),
    jobs=[optimize_model, evaluate_endpoint, repeatability],
    sensors=[
        new_model_versions,
        spec_changes,
        dg.AutomationConditionSensorDefinition(
            "stale_partitions",
            target=dg.AssetSelection.groups("optimization"),
            default_status=SENSORS,
        ),
    ],
    resources=resources(),
)
