"""Search of engine flags for the highest SLO-compliant rate per GPU."""

from optikit_assets.tuner.at_once import trials_at_once
from optikit_assets.tuner.bounded_space import BoundedSpace
from optikit_assets.tuner.economy import margin, worth_rps
from optikit_assets.tuner.journal import forget, forget_unless_whole, results_in
from optikit_assets.tuner.objective import LAMBDA, fitness, slo_penalty
from optikit_assets.tuner.search_space import build, check
from optikit_assets.tuner.study import run_study
from optikit_assets.tuner.telling import tell
from optikit_assets.tuner.trial_result import TrialResult, result_of_benchmark

__all__ = [
    "LAMBDA",
    "BoundedSpace",
    "TrialResult",
    "build",
    "check",
    "fitness",
    "forget",
    "forget_unless_whole",
    "margin",
    "result_of_benchmark",
    "results_in",
    "run_study",
    "slo_penalty",
    "tell",
    "trials_at_once",
    "worth_rps",
]
