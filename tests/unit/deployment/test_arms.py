import pytest

from optikit_assets.deployment import arms, certify, select
from tests.unit.deployment import samples
from tests.unit.deployment.samples import Servers, arm, outcome

PLAIN = "baseline, engine defaults"


def certified(found, servers):
    selection = select(found)
    return arms(found, certify(selection.candidates, servers, seed=7, limits=samples.LIMITS))


def test_four_arms_reproduce_the_gains_of_the_papers_table_5():
    """Qwen 2.5 7B: 1.69x, 1.93x, 2.13x."""
    found = arms(samples.outcomes())
    gains = [arm.gain for arm in found.rows()]
    assert gains == pytest.approx([1.0, 5.96 / 3.52, 6.79 / 3.52, 7.5 / 3.52])
    assert [f"{gain:.2f}" for gain in gains if gain] == ["1.00", "1.69", "1.93", "2.13"]
    assert {arm.evidence for arm in found.rows()} == {"measured"}


def test_infeasible_baseline_leaves_all_gains_undefined():
    found = arms([outcome("baseline", 0.0, 2.0), outcome("a", 3.0, 4.0)])
    assert found.baseline.status == "infeasible"
    assert [arm.gain for arm in found.rows()] == [None] * 4
    assert found.quantization_and_tuning.rate_per_gpu == 4.0


def test_arms_without_an_accepted_recipe_say_so():
    found = arms([outcome("baseline", 2.0, 2.5), outcome("a", 9.0, accepted=False, quality="fail")])
    assert found.quantization_only.reason == "no recipe passed the quality gate"
    assert found.quantization_only.evidence == "skipped"
    alone = arms([outcome("baseline", 2.0)]).quantization_only
    assert (alone.reason, alone.evidence) == ("not part of this run", "not_asked")


def test_what_was_certified_shows_its_rate_and_interval_and_the_rest_is_measured():
    found = samples.outcomes()
    rows = certified(found, Servers(samples.claims(found)))
    assert [arm.evidence for arm in rows.rows()] == [
        "confirmed",
        "measured",
        "confirmed",
        "confirmed",
    ]
    assert [arm.deployed for arm in rows.rows()] == [False, False, False, True]
    best = rows.quantization_and_tuning
    assert best.gain_low < best.gain < best.gain_high
    assert best.gain == pytest.approx(7.5 / 3.52)
    assert rows.quantization_only.gain == pytest.approx(5.96 / 3.52)
    assert rows.quantization_only.gain_low is None


def test_an_arm_whose_claim_was_refuted_shows_both_rates():
    found = [outcome("baseline", 91.7)]
    row = certified(found, Servers({PLAIN: 83.3})).baseline
    assert (row.evidence, row.rate_rps, row.refuted_rps) == ("confirmed", 83.3, 91.7)
    assert row.note == "Baseline: refuted at 91.7 requests/s, confirmed at 83.3"


def test_an_arm_that_held_nothing_is_refuted_and_has_no_gain():
    found = [outcome("baseline", 5.0), outcome("a", 8.0)]
    servers = Servers({PLAIN: 5.0}, broken={"a, engine defaults": "the server exited"})
    row = certified(found, servers).quantization_only
    assert (row.evidence, row.rate_per_gpu, row.gain) == ("refuted", None, None)
    assert row.note == "Quantization only: refuted at 8 requests/s"


def test_a_refuted_recipe_leaves_its_arm_to_one_that_holds():
    found = [outcome("baseline", 5.0), outcome("a", 8.0), outcome("b", 7.0)]
    capacity = {PLAIN: 5.0, "b, engine defaults": 7.0}
    servers = Servers(capacity, broken={"a, engine defaults": "the server exited"})
    assert certified(found, servers).quantization_only.recipe == "b"


def test_a_refuted_baseline_leaves_no_gain_to_what_was_only_measured():
    found = [outcome("baseline", 5.0), *(outcome(name, 8.0) for name in "abcd")]
    capacity = {f"{name}, engine defaults": 8.0 for name in "abcd"}
    rows = certified(found, Servers(capacity, broken={PLAIN: "the server exited"}))
    assert [arm.gain for arm in rows.rows()] == [None] * 4


def test_tuning_that_came_back_to_the_defaults_is_the_same_configuration():
    tuned = arm("baseline", 5.2, tuned=True, flags={})
    rows = certified([outcome("baseline", 5.0, tuned=tuned)], Servers({PLAIN: 5.0}))
    assert rows.tuning_only.evidence == "confirmed"
    assert rows.tuning_only.rate_rps == 5.0
    assert not rows.tuning_only.deployed


# --- arms that nobody asked for -----------------------------------------------------------------


def test_without_tuning_its_arms_were_not_asked_for_and_the_others_are_certified():
    found = [outcome("baseline", 5.0, tuned=None), outcome("a", 8.0, tuned=None)]
    rows = certified(found, Servers({PLAIN: 5.0, "a, engine defaults": 8.0}))
    assert (rows.baseline.evidence, rows.quantization_only.evidence) == ("confirmed", "confirmed")
    assert rows.quantization_only.deployed
    for row in (rows.tuning_only, rows.quantization_and_tuning):
        assert (row.evidence, row.status, row.rate_rps) == ("not_asked", "skipped", None)
        assert row.reason == "not part of this run"


def test_an_arm_is_of_the_recipes_whose_tuning_was_asked_for():
    rows = arms(
        [outcome("baseline", 5.0, 6.0), outcome("a", 8.0, 9.0), outcome("b", 9.9, tuned=None)]
    )
    assert (rows.quantization_only.recipe, rows.quantization_and_tuning.recipe) == ("b", "a")


def test_a_refused_recipe_whose_tuning_nobody_asked_for_is_skipped_only_where_it_was_measured():
    refused = outcome("a", accepted=False, quality="fail", tuned=None)
    rows = arms([outcome("baseline", 5.0, 6.0), refused])
    assert rows.quantization_only.evidence == "skipped"
    assert rows.quantization_and_tuning.evidence == "not_asked"
