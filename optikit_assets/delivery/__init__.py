"""Runs a certified configuration elsewhere: plan, capacity, and the files of every format."""

from optikit_assets.delivery.capacity import UTILIZATION, capacity
from optikit_assets.delivery.files import FOLDER, README_FILE, canary_file, deploy_files
from optikit_assets.delivery.plan import MODEL_FOLDER, is_within_reach, serving_plan

__all__ = [
    "FOLDER",
    "MODEL_FOLDER",
    "README_FILE",
    "UTILIZATION",
    "canary_file",
    "capacity",
    "deploy_files",
    "is_within_reach",
    "serving_plan",
]
