import gc
import os

import pytest

from optikit_assets.benchmarker.priority import prompt_thread


@pytest.fixture(autouse=True)
def nothing_frozen():
    # As in a program: what the suite has left out of collections would be given back with the rest.
    gc.unfreeze()


def state():
    return os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0), gc.get_freeze_count()


def test_priority_is_raised_where_allowed_and_always_given_back():
    before = state()
    with prompt_thread():
        raised = os.sched_getscheduler(0) == os.SCHED_RR
        assert raised or os.getpriority(os.PRIO_PROCESS, 0) <= before[1]
        assert gc.get_freeze_count() > 0
    assert state() == before


def test_priority_is_given_back_after_an_error():
    before = state()
    with pytest.raises(RuntimeError), prompt_thread():
        raise RuntimeError
    assert state() == before


def test_without_the_right_to_more_the_client_runs_as_it_is(monkeypatch):
    def refuse(*arguments):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    monkeypatch.setattr(os, "setpriority", refuse)
    before = state()
    with prompt_thread():
        assert state()[:2] == before[:2]
    assert state() == before
