"""Leases of a cluster in virtual time: its head is simulated, who waits for what is not."""

import threading

import pytest

from benchmarks.cluster.campaign import node_of
from benchmarks.cluster.cards import Group, SimulatedGroups
from benchmarks.cluster.virtual_time import VirtualTime
from optikit_assets.errors import AcceleratorError
from optikit_assets.execution.ray.leases import ClusterLeases

WORK_S, ROUNDS = 100.0, 40


def leases_on(time: VirtualTime, timeout_s: float) -> ClusterLeases:
    groups = SimulatedGroups(time, node_of("h100", 4), 2, "node")
    return ClusterLeases(groups, timeout_s=timeout_s, clock=time, pause=groups.pause, date=time)


def wait_for_a_node(timeout_s: float) -> float:
    """Return how long a whole node is waited for while others keep asking for a card each."""
    time = VirtualTime()
    leases = leases_on(time, timeout_s)
    waited: list[float] = []

    def one_after_the_other(number: int) -> None:
        for _ in range(ROUNDS):
            with leases.lease(1):
                time.sleep(WORK_S + number)

    def all_of_a_node() -> None:
        time.sleep(WORK_S / 2)
        asked = time.now
        with leases.lease(4) as lease:
            waited.append(time.now - asked)
            assert len(lease.devices) == 4

    for number in range(12):
        time.start(lambda number=number: one_after_the_other(number))
    time.start(all_of_a_node)
    time.run()
    return waited[0]


def test_a_request_for_a_whole_node_is_overtaken_for_a_quarter_of_the_longest_wait_alone():
    # As long as the others look at it every ten minutes, and what they have under way.
    assert 1000 <= wait_for_a_node(4000.0) <= 1000 + 600 + 2 * (WORK_S + 12)
    # Nobody is held back here, so it waits until the others have done everything.
    assert wait_for_a_node(1e9) >= ROUNDS * 12 / 8 * WORK_S * 0.9


def test_a_wait_ends_at_its_limit_or_when_it_is_told_and_leaves_nothing_that_waits():
    time = VirtualTime()
    leases = leases_on(time, 500.0)
    stop = threading.Event()
    said: list[str] = []

    def holder() -> None:
        with leases.lease(4), leases.lease(4):
            time.sleep(5000.0)
        assert leases._groups.waiting() == []

    def waits(stop: threading.Event | None) -> None:
        time.sleep(1.0)
        with pytest.raises(AcceleratorError) as told, leases.lease(1, stop):
            raise AssertionError
        said.append(str(told.value))

    stop.set()
    time.start(holder)
    time.start(lambda: waits(None))
    time.start(lambda: waits(stop))
    time.run()
    assert said[0] == "the wait for 1 accelerators was broken off"
    assert said[1].startswith("no 1 accelerators became free within 500 s; nodes there: node-0")


class DeafGroups(SimulatedGroups):
    """Of a head that is away for a while, and comes back with its state."""

    deaf = False

    def give_back(self, group: Group) -> bool:
        return not self.deaf and super().give_back(group)


def test_cards_that_nobody_took_back_are_given_back_with_the_next_request():
    time = VirtualTime()
    groups = DeafGroups(time, node_of("h100", 4), 1, "node")
    leases = ClusterLeases(groups, timeout_s=500.0, clock=time, pause=groups.pause, date=time)
    granted: list[float] = []

    def work() -> None:
        groups.deaf = True
        for count in (1, 3):
            with leases.lease(count):
                time.sleep(1.0)
        groups.deaf = False
        with leases.lease(4):
            granted.append(time.now)

    time.start(work)
    time.run()
    assert granted == [2.0]
