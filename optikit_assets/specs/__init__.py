"""The files in ``recipes/``: models, loading, digests."""

from optikit_assets.specs.base import Spec, SpecModel, check_name, digest
from optikit_assets.specs.card import CardSpec, is_type_of
from optikit_assets.specs.catalog import BASELINE, Catalog
from optikit_assets.specs.job import JobSpec
from optikit_assets.specs.loading import load_spec
from optikit_assets.specs.model import EngineSpec, ModelSpec
from optikit_assets.specs.pool import LOCAL, PoolSpec
from optikit_assets.specs.publish import PublishSpec
from optikit_assets.specs.recipe import Calibration, RecipeSpec
from optikit_assets.specs.search_space import Choices, FloatRange, IntRange, SearchSpaceSpec
from optikit_assets.specs.slo import Metric, Objective, SearchBudget, SloSpec
from optikit_assets.specs.suite import Gate, SuiteSpec, TaskSpec
from optikit_assets.specs.workload import Workload

__all__ = [
    "BASELINE",
    "LOCAL",
    "Calibration",
    "CardSpec",
    "Catalog",
    "Choices",
    "EngineSpec",
    "FloatRange",
    "Gate",
    "IntRange",
    "JobSpec",
    "Metric",
    "ModelSpec",
    "Objective",
    "PoolSpec",
    "PublishSpec",
    "RecipeSpec",
    "SearchBudget",
    "SearchSpaceSpec",
    "SloSpec",
    "Spec",
    "SpecModel",
    "SuiteSpec",
    "TaskSpec",
    "Workload",
    "check_name",
    "digest",
    "is_type_of",
    "load_spec",
]
