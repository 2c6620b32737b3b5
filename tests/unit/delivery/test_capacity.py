import math

import pytest

from optikit_assets.delivery import capacity
from optikit_assets.delivery.capacity import probes
from optikit_assets.errors import SpecError


@pytest.mark.parametrize(
    ("rate", "target", "replicas"),
    # ⌈Λ/(0.8 λ)⌉ for much traffic, ⌈Λ/λ⌉ + 1 for little, where the loss of one weighs more.
    [
        (7.5, 40.0, 7),
        (7.5, 7.5, 2),
        (7.5, 0.1, 2),
        (10.0, 80.0, 10),
        (10.0, 81.0, 11),
        (1, 1e3, 1250),
    ],
)
def test_replicas_keep_below_the_share_and_survive_the_loss_of_one(rate, target, replicas):
    found = capacity(rate, target, None)
    assert found.replicas == replicas
    assert target <= found.replicas * rate * found.utilization * (1 + 1e-12)
    assert target <= (found.replicas - 1) * rate
    assert found.in_flight is None


def test_in_flight_is_littles_law_at_the_planned_share():
    assert capacity(7.5, 40.0, 0.3).in_flight == pytest.approx(7.5 * 0.3 * 0.8)


@pytest.mark.parametrize("target", [0.0, -1.0, math.inf, math.nan, 1e9])
def test_a_traffic_that_nothing_serves_is_one_line(target):
    with pytest.raises(SpecError, match="target_rps"):
        capacity(7.5, target, None)


@pytest.mark.parametrize(("start", "patience"), [(71.0, 215), (1.0, 60), (None, 600)])
def test_a_start_gets_three_times_what_was_measured(start, patience):
    assert probes(start).patience_s == patience
