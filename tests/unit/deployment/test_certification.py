import itertools
from typing import Any

import pytest

from optikit_assets.deployment import Limits, Served, certify
from optikit_assets.errors import StorageError
from tests.unit.deployment.samples import LIMITS, Servers, arm
from tests.unit.schemas.samples import probe

PLAIN = "baseline, engine defaults"
TUNED = "baseline, tuned"
A, B = "a, engine defaults", "b, engine defaults"
SETTINGS: dict[str, Any] = {"seed": 7, "limits": LIMITS}


def evidence(found):
    return {item.label: (item.evidence, item.rate_rps) for item in found.arms}


def test_what_is_proven_faster_side_by_side_ships_with_its_interval():
    servers = Servers({PLAIN: 5.0, A: 8.0})
    found = certify([arm("a", 8.0), arm("baseline", 5.0)], servers, **SETTINGS)
    assert found.status == "certified"
    assert found.candidate.label == A
    assert found.rate_rps == 8.0
    assert found.gain.estimate == pytest.approx(1.6)
    assert 1.0 < found.gain.low < 1.6 < found.gain.high
    assert evidence(found) == {PLAIN: ("confirmed", 5.0), A: ("confirmed", 8.0)}
    assert "1.60 times the rate of the plain baseline" in found.summary
    assert "1.5 times that rate misses the SLO" in found.summary
    assert found.overload_verdict == "fail"


def test_a_claim_that_fresh_servers_refute_does_not_ship_below_the_baseline():
    """82.3 requests/s shipped as 0.90 times a baseline of 91.7 that had just been refuted."""
    servers = Servers({PLAIN: 80.0, A: 82.3})
    noisy = {PLAIN: [1.0, 1.08, 0.94, 1.05], A: [1.04, 0.93, 1.06, 0.97]}
    servers.limits = noisy
    found = certify([arm("a", 96.0), arm("baseline", 91.7)], servers, **SETTINGS)
    assert found.candidate.label == PLAIN
    assert found.gain.estimate == found.gain.low == found.gain.high == 1.0
    assert "No gain over the plain baseline was proven, so it ships" in found.summary
    plain, other = found.arms
    assert plain.text == "refuted at 91.7 requests/s, confirmed at 80 requests/s"
    assert other.refuted_rps == 96.0
    assert other.gain.low < 1.0


def test_arms_take_turns_on_fresh_servers_with_the_same_arrivals():
    servers = Servers({PLAIN: 5.0, A: 5.1})
    certify([arm("a", 5.1), arm("baseline", 5.0)], servers, **SETTINGS)
    order = [label for label, _, _ in servers.searches]
    assert order[:6] == [PLAIN, A, PLAIN, A, PLAIN, A]
    rounds = [{seed for _, _, seed in servers.searches[i : i + 2]} for i in (0, 2, 4)]
    assert [len(seeds) for seeds in rounds] == [1, 1, 1]
    assert len(set().union(*rounds)) == 3


def test_the_race_ends_when_every_gain_is_known_within_the_tolerance():
    found = certify(
        [arm("a", 5.2), arm("baseline", 5.0)], Servers({PLAIN: 5.0, A: 5.2}), **SETTINGS
    )
    assert (found.stopped_by, found.rounds) == ("tolerance", 4)
    scattered = Servers({PLAIN: 5.0, A: 5.2}, limits={A: [0.7, 1.3, 0.8, 1.2, 0.75, 1.25]})
    found = certify([arm("a", 5.2), arm("baseline", 5.0)], scattered, **SETTINGS)
    assert (found.stopped_by, found.rounds) == ("rounds", 6)
    assert found.candidate.label == PLAIN


def test_the_race_ends_before_a_round_that_its_load_seconds_do_not_hold():
    limits = Limits(tolerance=0.001, max_rounds=50, max_load_seconds=1000.0)
    servers = Servers({PLAIN: 5.0, A: 5.2})
    found = certify([arm("a", 5.2), arm("baseline", 5.0)], servers, seed=7, limits=limits)
    assert (found.stopped_by, found.rounds) == ("seconds", 4)
    assert found.load_seconds == 4 * 2 * 120.0 + 60.0
    assert found.server_starts == 9


def test_an_arm_that_is_certain_to_be_slower_leaves_early():
    servers = Servers({PLAIN: 5.0, A: 8.0, B: 6.0})
    candidates = [arm("a", 8.0), arm("b", 6.0), arm("baseline", 5.0)]
    found = certify(candidates, servers, **SETTINGS)
    rounds = {item.label: len(item.rounds) for item in found.arms}
    assert rounds == {PLAIN: 4, A: 4, B: 3}
    assert "0.75 times the rate of a, engine defaults" in found.of("b", False).reason


def test_the_best_lower_bound_ships_not_the_best_estimate():
    scattered = [1.3, 0.95, 1.2, 1.1, 1.25, 0.98]
    servers = Servers({PLAIN: 5.0, A: 8.0, B: 8.0}, limits={A: scattered})
    candidates = [arm("a", 9.0), arm("b", 8.0), arm("baseline", 5.0)]
    found = certify(candidates, servers, **SETTINGS)
    gains = {item.label: item.gain for item in found.arms}
    assert gains[A].estimate > gains[B].estimate
    assert gains[A].low > 1.0
    assert found.candidate.label == B


def test_a_gain_that_the_rates_that_held_do_not_bear_out_does_not_ship():
    servers = Servers({PLAIN: 5.0, A: 4.8}, limits={A: [1.3]})
    found = certify([arm("a", 6.0), arm("baseline", 5.0)], servers, **SETTINGS)
    assert found.of("a", False).gain.low > 1.0
    assert found.candidate.label == PLAIN
    assert "not borne out by the rates that held" in found.summary


def test_gains_are_per_accelerator():
    servers = Servers({PLAIN: 8.0, A: 12.0})
    found = certify([arm("baseline", 8.0), arm("a", 12.0, gpus=2)], servers, **SETTINGS)
    assert found.of("a", False).gain.estimate == pytest.approx(0.75)
    assert found.candidate.label == PLAIN


def test_a_candidate_whose_server_does_not_start_does_not_end_the_certification():
    servers = Servers({PLAIN: 5.0, B: 7.0}, broken={A: "the server exited: CUDA out of memory"})
    candidates = [arm("a", 8.0), arm("b", 7.0), arm("baseline", 5.0)]
    found = certify(candidates, servers, **SETTINGS)
    assert found.candidate.label == B
    failed = found.of("a", False)
    assert (failed.evidence, failed.rate_rps) == ("refuted", None)
    assert failed.reason == "the server exited: CUDA out of memory"
    assert found.passed_over()["a", False] == (
        "refuted at 8 requests/s: the server exited: CUDA out of memory"
    )
    assert [label for label, _, _ in servers.searches].count(A) == 1


def test_a_fault_of_the_machine_ends_the_certification():
    class Full(Servers):
        def serve(self, arm, start_rps, seed):
            raise StorageError("no space left on device")

    with pytest.raises(StorageError, match="no space left"):
        certify([arm("baseline", 5.0)], Full({}), **SETTINGS)


def test_without_a_feasible_baseline_the_highest_rate_that_holds_ships_with_no_gain():
    found = certify([arm("a", 8.0), arm("b", 7.0)], Servers({A: 6.0, B: 6.9}), **SETTINGS)
    assert found.candidate.label == B
    assert found.rate_rps == 6.9
    assert found.gain is None
    assert "The plain baseline meets the SLO at no rate" in found.summary


def test_a_baseline_that_holds_no_rate_leaves_no_gain():
    servers = Servers({PLAIN: 0.1, A: 8.0}, broken={PLAIN: "the server exited"})
    found = certify([arm("a", 8.0), arm("baseline", 5.0)], servers, **SETTINGS)
    assert found.candidate.label == A
    assert found.gain is None
    assert found.of("baseline", False).evidence == "refuted"
    assert "held no rate on fresh servers (the server exited)" in found.summary


def test_one_mishap_does_not_take_the_baseline_out():
    class Once(Servers):
        def serve(self, arm, start_rps, seed):
            found = super().serve(arm, start_rps, seed)
            return found if len(self.searches) > 1 else Served(failure="the server exited")

    servers = Once({PLAIN: 5.0, A: 5.0})
    found = certify([arm("a", 8.0), arm("baseline", 5.0)], servers, **SETTINGS)
    assert found.candidate.label == PLAIN
    assert found.gain.low == 1.0


def test_the_tuned_baseline_is_a_candidate_like_any_other():
    servers = Servers({PLAIN: 5.0, TUNED: 7.0})
    found = certify([arm("baseline", 7.0, tuned=True), arm("baseline", 5.0)], servers, **SETTINGS)
    assert found.candidate.label == TUNED
    assert found.gain.low > 1.0


def test_the_plain_baseline_alone_is_confirmed_without_a_race():
    servers = Servers({PLAIN: 5.0})
    found = certify([arm("baseline", 5.0)], servers, **SETTINGS)
    assert (found.rounds, found.server_starts, found.stopped_by) == (1, 2, "alone")
    assert found.gain.low == 1.0
    assert found.summary.startswith("5 requests/s hold with fresh arrivals")


class Moody(Servers):
    """Confirmations that end as listed, whatever the rate."""

    def __init__(self, capacity, verdicts, met=False):
        super().__init__(capacity)
        self.verdicts = iter(verdicts)
        self.met = met

    def confirm(self, arm, rates_rps, seed):
        self.confirmations.append((arm.label, rates_rps, seed))
        return Served(
            tuple(
                probe(verdict=next(self.verdicts), met=self.met, rate_rps=rate)
                for rate in rates_rps
            )
        )


def test_what_ships_is_probed_once_more_and_steps_down_on_a_miss():
    servers = Moody({PLAIN: 5.0, A: 8.0}, ["fail", "fail", "pass", "fail"])
    found = certify([arm("a", 8.0), arm("baseline", 5.0)], servers, **SETTINGS)
    assert [rates[0] for _, rates, _ in servers.confirmations] == pytest.approx([8.0, 8.0 / 1.05])
    assert found.rate_rps == pytest.approx(8.0 / 1.05)
    assert "down from 8" in found.summary
    assert len({seed for _, _, seed in servers.confirmations}) == 2
    assert found.attempts[-1].purpose == "overload"


def test_an_invalid_probe_is_repeated_at_the_same_rate():
    servers = Moody({PLAIN: 5.0}, ["invalid", "pass", "pass", "fail"])
    assert certify([arm("baseline", 5.0)], servers, **SETTINGS).rate_rps == 5.0


def test_a_winner_that_is_not_confirmed_makes_way_for_the_next():
    servers = Moody({PLAIN: 5.0, A: 8.0, B: 8.0}, [*(["fail"] * 6), *["pass", "fail"]])
    candidates = [arm("a", 8.0), arm("b", 8.0), arm("baseline", 5.0)]
    found = certify(candidates, servers, **SETTINGS)
    first, second = (label for label, _ in itertools.groupby(x[0] for x in servers.confirmations))
    assert {first, second} == {A, B}
    assert found.candidate.label == second
    refused = next(item for item in found.arms if item.label == first)
    assert refused.evidence == "refuted"
    assert refused.reason.startswith("not confirmed once more: fail at 8 requests/s")


def test_a_winner_that_falls_to_the_baseline_makes_way_for_it():
    servers = Moody({PLAIN: 5.0, A: 5.3}, ["fail", "fail", "fail", "fail", "pass", "fail"])
    found = certify([arm("a", 5.3), arm("baseline", 5.0)], servers, **SETTINGS)
    assert found.candidate.label == PLAIN
    assert "the baseline holds 5 requests/s per GPU" in found.of("a", False).reason


def test_a_baseline_that_is_hard_to_confirm_is_not_given_up_for_what_is_not_proven():
    """Otherwise a candidate ships that was seen to be slower, with no gain to compare."""
    servers = Moody({PLAIN: 5.0, A: 4.0}, [*(["fail"] * 8), "pass", "fail"])
    found = certify([arm("a", 5.5), arm("baseline", 5.0)], servers, **SETTINGS)
    assert found.candidate.label == PLAIN
    assert found.gain.low == 1.0
    assert found.rate_rps == pytest.approx(5.0 / 1.05**10)


class Dying(Moody):
    """Servers of the baseline that die as often as told when a rate is confirmed."""

    def __init__(self, capacity, verdicts, deaths):
        super().__init__(capacity, verdicts)
        self.deaths = deaths

    def confirm(self, arm, rates_rps, seed):
        if arm.label == PLAIN and self.deaths:
            self.deaths -= 1
            self.confirmations.append((arm.label, rates_rps, seed))
            return Served(failure="the server exited: code -9")
        return super().confirm(arm, rates_rps, seed)


def test_one_dead_server_does_not_take_the_baseline_out_when_it_is_confirmed():
    """Otherwise a candidate ships that the race has shown to be slower."""
    servers = Dying({PLAIN: 5.0, A: 4.0}, ["pass", "fail"], deaths=1)
    found = certify([arm("a", 5.5), arm("baseline", 5.0)], servers, **SETTINGS)
    assert (found.candidate.label, found.rate_rps) == (PLAIN, 5.0)
    first, second = servers.confirmations
    assert first[1] == second[1]
    assert first[2] != second[2]


def test_a_baseline_without_a_server_makes_way_for_whoever_holds_a_rate():
    """Also for who was refused for a gain over it that was not borne out."""
    servers = Dying({PLAIN: 5.0, A: 4.9}, ["pass", "fail"], deaths=2)
    servers.limits = {A: [1.3]}
    found = certify([arm("a", 5.5), arm("baseline", 5.0)], servers, **SETTINGS)
    assert (found.candidate.label, found.rate_rps, found.gain) == (A, 4.9, None)
    assert found.of("a", False).evidence == "confirmed"
    assert "not borne out" not in found.of("a", False).text
    assert found.summary.startswith("The plain baseline held no rate on fresh servers")


def test_the_baseline_gets_its_rate_before_anything_is_called_better():
    class Unsure(Servers):
        def pool(self, probes):
            return super().pool(probes) if probes[0].rate_rps > 6 else None

    servers = Unsure({PLAIN: 5.0, A: 8.0})
    found = certify([arm("a", 8.0), arm("baseline", 5.0)], servers, **SETTINGS)
    assert [label for label, _, _ in servers.confirmations] == [PLAIN, A]
    assert found.candidate.label == A
    assert found.gain.low > 1.0
    assert evidence(found)[PLAIN] == ("confirmed", pytest.approx(5.0 / 1.05))


@pytest.mark.parametrize(("met", "status"), [(True, "certified"), (False, "refused")])
def test_an_unresolved_probe_confirms_only_if_the_slo_was_met_as_observed(met, status):
    servers = Moody({PLAIN: 5.0}, ["unresolved"] * 12, met)
    assert certify([arm("baseline", 5.0)], servers, **SETTINGS).status == status


def test_one_probe_alone_has_to_be_certain_where_no_rate_is_vouched_for():
    class Unsure(Moody):
        def pool(self, probes):
            return None

    unresolved = Unsure({PLAIN: 5.0}, ["unresolved"] * 12, met=True)
    assert certify([arm("baseline", 5.0)], unresolved, **SETTINGS).status == "refused"
    passed = Unsure({PLAIN: 5.0}, ["pass", "fail"])
    found = certify([arm("baseline", 5.0)], passed, **SETTINGS)
    assert found.rate_rps == pytest.approx(5.0 / 1.05)


def test_nothing_that_holds_is_refused_with_what_was_seen():
    servers = Servers({PLAIN: 0.1, A: 0.1})
    servers.pool = lambda probes: None
    servers.limits = {PLAIN: [50.0], A: [80.0]}
    found = certify([arm("a", 8.0), arm("baseline", 5.0)], servers, **SETTINGS)
    assert found.status == "refused"
    assert found.candidate is None
    assert {item.evidence for item in found.arms} == {"refuted"}
    assert "refuted at 5 requests/s" in found.summary


def test_only_the_best_claims_take_part_beside_the_baseline():
    servers = Servers({PLAIN: 1.0, A: 8.0, B: 7.0, "c, engine defaults": 6.0})
    candidates = [arm("a", 8.0), arm("b", 7.0), arm("c", 6.0), arm("baseline", 1.0)]
    found = certify(candidates, servers, **SETTINGS, max_candidates=2)
    assert {item.label for item in found.arms} == {PLAIN, A, B}


def test_overload_that_passes_is_reported_as_conservative():
    servers = Moody({PLAIN: 5.0}, ["pass", "pass"])
    found = certify([arm("baseline", 5.0)], servers, **SETTINGS)
    assert found.overload_verdict == "pass"
    assert "conservative" in found.summary


def test_without_candidates_nothing_is_served():
    servers = Servers({})
    assert certify([], servers, **SETTINGS).status == "not_attempted"
    assert servers.searches == []


def test_useless_settings_are_refused():
    with pytest.raises(ValueError, match="tolerance > 0"):
        certify([arm("a", 8.0)], Servers({}), seed=1, limits=Limits(0.0, 6, 1e9))


def test_a_round_that_reads_no_limit_is_left_out_of_the_pairs():
    class Blind(Servers):
        def serve(self, arm, start_rps, seed):
            found = super().serve(arm, start_rps, seed)
            if arm.label == A and len(self.searches) < 3:
                return Served(found.probes, load_seconds=found.load_seconds)
            return found

    servers = Blind({PLAIN: 5.0, A: 8.0})
    found = certify([arm("a", 8.0), arm("baseline", 5.0)], servers, **SETTINGS)
    assert found.rounds == 5
    assert found.of("a", False).gain.probes == 2 * 4 * 4
