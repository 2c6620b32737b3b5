from types import SimpleNamespace
from typing import Any

import pytest

from optikit_assets.deployment import certify
from tests.unit.deployment.samples import arm, confirm_up_to

SETTINGS: dict[str, Any] = {"seed": 7, "tolerance": 0.05}


class Recorder:
    """Answers from a per-candidate capacity and remembers what it was asked."""

    def __init__(self, capacity):
        self.capacity = capacity
        self.asked = []

    def __call__(self, candidate, rates, seed):
        self.asked.append((candidate.recipe, rates, seed))
        return confirm_up_to(self.capacity[candidate.recipe])(candidate, rates, seed)


def test_rate_that_holds_is_certified_at_once_with_the_overload_probe_missing():
    found = certify([arm("a", 8.0)], confirm_up_to(8.2), **SETTINGS)
    assert found.status == "certified"
    assert found.rate_rps == 8.0
    assert found.limit_shown
    assert [(a.purpose, a.rate_rps) for a in found.attempts] == [
        ("confirm", 8.0),
        ("overload", 12.0),
    ]
    assert "1.5 times that rate misses the SLO" in found.summary


def test_a_miss_steps_down_by_the_tolerance():
    found = certify([arm("a", 8.0)], confirm_up_to(7.9), **SETTINGS)
    assert found.rate_rps == pytest.approx(8.0 / 1.05)
    assert found.latency_ms["e2e_latency_p95"] == pytest.approx(60 * 8.0 / 1.05)
    assert "down from 8" in found.summary


def test_every_attempt_has_its_own_seed():
    recorder = Recorder({"a": 7.4})
    certify([arm("a", 8.0)], recorder, **SETTINGS)
    seeds = [seed for _, _, seed in recorder.asked]
    assert len(seeds) == len(set(seeds)) == 3
    again = Recorder({"a": 7.4})
    certify([arm("a", 8.0)], again, **SETTINGS)
    assert [seed for _, _, seed in again.asked] == seeds


def test_winner_that_steps_below_the_runner_up_loses_its_place():
    recorder = Recorder({"a": 5.0, "b": 7.8})
    found = certify([arm("a", 8.0), arm("b", 7.8)], recorder, **SETTINGS)
    assert [recipe for recipe, _, _ in recorder.asked] == ["a", "b"]
    assert found.candidate is not None
    assert found.candidate.recipe == "b"
    assert found.refusals() == {("a", False): "at 8 requests/s: e2e_latency_p95 560 ms > 500 ms"}


def test_runner_up_is_compared_per_gpu():
    recorder = Recorder({"a": 1.0, "b": 15.0})
    found = certify([arm("a", 8.0), arm("b", 15.0, gpus=2)], recorder, **SETTINGS)
    assert found.rate_rps == 15.0
    assert found.rate_per_gpu == 7.5


def test_no_candidate_holds_ends_in_a_refusal_within_the_bounds():
    recorder = Recorder({"a": 1.0, "b": 1.0, "c": 1.0, "d": 100.0})
    candidates = [arm("a", 8.0), arm("b", 7.9), arm("c", 7.8), arm("d", 1.0)]
    found = certify(candidates, recorder, **SETTINGS, max_candidates=3, max_attempts=2)
    assert found.status == "refused"
    assert found.candidate is None
    assert len(recorder.asked) == 6
    assert set(found.refusals()) == {("a", False), ("b", False), ("c", False)}


def test_invalid_probe_is_repeated_at_the_same_rate():
    verdicts = iter(["invalid", "pass", "pass", "fail"])

    def confirm(_candidate, rates, _seed):
        return [SimpleNamespace(verdict=next(verdicts), rate_rps=rate) for rate in rates]

    assert certify([arm("a", 8.0)], confirm, **SETTINGS).rate_rps == 8.0


@pytest.mark.parametrize(("met", "status"), [(True, "certified"), (False, "refused")])
def test_unresolved_probe_certifies_only_if_the_slo_was_met_as_observed(met, status):
    def confirm(_candidate, rates, _seed):
        return [{"verdict": "unresolved", "met": met} for _ in rates]

    assert certify([arm("a", 8.0)], confirm, **SETTINGS).status == status


def test_overload_that_passes_is_reported_as_conservative():
    found = certify([arm("a", 8.0)], confirm_up_to(100), **SETTINGS)
    assert found.status == "certified"
    assert not found.limit_shown
    assert "conservative" in found.summary


def test_without_candidates_nothing_is_served():
    def never(*_):
        raise AssertionError

    assert certify([], never, **SETTINGS).status == "not_attempted"


def test_wrong_number_of_probes_and_useless_settings_are_refused():
    with pytest.raises(ValueError, match="returned 1 probes for 2 rates"):
        certify([arm("a", 8.0)], lambda *_: [{"verdict": "pass"}], **SETTINGS)
    with pytest.raises(ValueError, match="tolerance > 0"):
        certify([arm("a", 8.0)], confirm_up_to(9), seed=1, tolerance=0)


def test_overload_so_heavy_that_a_percentile_has_no_value_is_recorded():
    def confirm(_candidate, _rates, _seed):
        return [
            {"verdict": "pass", "latency_ms": {"e2e_latency_p95": 400.0}},
            {"verdict": "fail", "latency_ms": {"e2e_latency_p95": None}},
        ]

    found = certify([arm("a", 8.0)], confirm, **SETTINGS)
    assert found.limit_shown
    assert found.attempts[1].latency_ms == {"e2e_latency_p95": None}
