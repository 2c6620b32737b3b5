"""Search of engine flags for the highest SLO-compliant rate per GPU."""

from optikit_assets.tuner.objective import LAMBDA, fitness, slo_penalty
from optikit_assets.tuner.outcome import TrialOutcome, outcome_of_benchmark
from optikit_assets.tuner.search_space import BoundedSpace, build, check
from optikit_assets.tuner.study import run_study

__all__ = [
    "LAMBDA",
    "BoundedSpace",
    "TrialOutcome",
    "build",
    "check",
    "fitness",
    "outcome_of_benchmark",
    "run_study",
    "slo_penalty",
]
