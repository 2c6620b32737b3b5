"""Servers side by side on a machine that is disturbed, in virtual time."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from benchmarks.certification import BUDGET, VirtualServers
from optikit_assets.deployment.race import Start
from tests.servers.disturbed import Machine, Rotation, pace
from tests.servers.shapes import CASES
from tests.unit.deployment.samples import arm

CASE = next(case for case in CASES if case.name == "light_tail")
SLO = CASE.slo.model_copy(update={"budget": CASE.slo.budget.model_copy(update=BUDGET)})
QUIET_S, STEP_S = 45.0, 5.0


@pytest.mark.slow
def test_what_slows_the_machine_down_slows_all_servers_of_a_round_alike() -> None:
    ratios: dict[bool, float] = {}
    for room in (False, True):
        # Slow from the middle of the first search on.
        speeds = np.where(np.arange(200) * STEP_S < QUIET_S, 1.0, 0.6)
        servers = VirtualServers(
            Machine(pace(speeds, STEP_S)), {"a": CASE.shape, "b": CASE.shape}, SLO, room=room
        )
        first, second = servers.search([Start(arm("a"), 27.0), Start(arm("b"), 27.0)], seed=3)
        assert first.limit_rps is not None
        assert second.limit_rps is not None
        ratios[room] = abs(math.log(first.limit_rps / second.limit_rps))
    assert ratios[False] > 0.15
    assert ratios[True] < ratios[False] / 2


def test_who_leaves_a_rotation_is_not_waited_for() -> None:
    rotation = Rotation(3)
    rotation.leave(1)
    had: list[int] = []

    def take(place: int) -> None:
        for _ in range(2):
            with rotation.turn(place):
                had.append(place)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(take, (2, 0)))
    assert had == [0, 2, 0, 2]
