"""What requests say of their work."""

from optikit_assets.artifacts import Reference
from optikit_assets.execution.base import limit_of
from optikit_assets.specs import EngineSpec, SloSpec
from optikit_assets.workers.messages import BenchmarkRequest, ExploreRequest, Variant
from tests.definitions.world import HARDWARE

SLO = SloSpec.model_validate(
    {
        "name": "slow",
        "workload": {"input_tokens": 10, "output_tokens": 10},
        "budget": {"max_load_seconds": 36_000},
    }
)
SIX_HOURS_S = 6 * 3600.0
COMMON = {
    "store": "file:///store",
    "model": Reference(kind="model", where="/m", sha256="0" * 64, what="m"),
    "served_model_name": "m",
    "engine": EngineSpec(start_timeout_s=300.0),
    "hardware": HARDWARE,
    "seed": 1,
}


def test_no_worker_is_ended_before_its_load_may_be() -> None:
    asked = BenchmarkRequest(**COMMON, slo=SLO, artifact_key="a" * 64)
    assert limit_of(asked, SIX_HOURS_S) >= 300.0 + 36_000.0
    # The others have their turns meanwhile.
    beside = asked.model_copy(update={"beside": 2})
    assert limit_of(beside, SIX_HOURS_S) == 3 * limit_of(asked, SIX_HOURS_S)
    variants = tuple(Variant(artifact_key=c * 64, flags={}) for c in "abcd")
    explore = ExploreRequest(**COMMON, slo=SLO, variants=variants)
    assert limit_of(explore, SIX_HOURS_S) >= 4 * 36_000.0


def test_a_request_whose_work_is_short_has_the_limit_of_all() -> None:
    short = SLO.model_copy(
        update={"budget": SLO.budget.model_copy(update={"max_load_seconds": 60.0})}
    )
    asked = BenchmarkRequest(**COMMON, slo=short, artifact_key="a" * 64)
    assert limit_of(asked, SIX_HOURS_S) == SIX_HOURS_S
