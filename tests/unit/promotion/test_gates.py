import pytest

from optikit_assets.errors import EvaluationError
from optikit_assets.promotion import Candidate, judge
from optikit_assets.specs import Objective
from optikit_assets.stateval.comparison import compare
from tests.unit.deployment import samples
from tests.unit.stateval.builders import candidate, flipped, suite

DEPLOYED = samples.deployment()


def bundle(key="b", **changes):
    return Candidate(key, f"digest of {key}", DEPLOYED.model_copy(update=changes))


def verdicts(
    candidate, deployed=None, *, damage="", compare=lambda: None, target_rps=None, gone=""
):
    found = judge(
        candidate, deployed, damage=damage, gone=gone, compare=compare, target_rps=target_rps
    )
    return {gate.gate: (gate.verdict, gate.text) for gate in found}


def test_the_first_bundle_of_a_channel_has_nothing_to_be_compared_with():
    found = verdicts(bundle(), compare=lambda: pytest.fail("there is nothing to compare"))
    assert {name: verdict for name, (verdict, _) in found.items()} == dict.fromkeys(
        ("integrity", "slo", "quality", "cost"), "pass"
    )
    assert "nothing is deployed yet" in found["cost"][1]


def test_damage_fails_with_its_reason():
    assert verdicts(bundle(), damage="file x is gone")["integrity"] == ("fail", "file x is gone")


def slo(*bounds, **workload):
    return DEPLOYED.slo.model_copy(
        update={
            "objectives": tuple(
                Objective(metric=metric, percentile=95, max_ms=ms) for metric, ms in bounds
            ),
            "workload": DEPLOYED.slo.workload.model_copy(update=workload),
        }
    )


@pytest.mark.parametrize(
    ("new", "verdict", "words"),
    [
        (slo(("e2e_latency", 500)), "pass", "no looser"),
        (slo(("e2e_latency", 400), ("ttft", 50)), "pass", "no looser"),
        (slo(("e2e_latency", 501)), "fail", "e2e_latency_p95 ≤ 501 ms instead of 500"),
        (slo(("ttft", 50)), "fail", "e2e_latency_p95 is not bounded any more"),
        (slo(("e2e_latency", 500), output_tokens=81), "incomparable", "another workload"),
    ],
)
def test_an_slo_may_become_stricter_never_looser(new, verdict, words):
    found = verdicts(bundle("new", slo=new), bundle("old"))["slo"]
    assert found[0] == verdict
    assert words in found[1]


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(1.06, "pass"), (1.04, "fail"), (1.0, "fail"), (0.9, "fail")]
)
def test_the_same_weights_have_to_save_more_than_the_search_can_tell(ratio, verdict):
    new = bundle(
        "new",
        certified_rate_rps=7.5 * ratio,
        certified_rate_per_gpu=7.5 * ratio,
    )
    found = verdicts(new, bundle("old"), target_rps=60.0)["cost"]
    assert found[0] == verdict
    assert f"{ratio:.3f} times its rate per card, tolerance 0.05" in found[1]


@pytest.mark.parametrize(("ratio", "verdict"), [(1.0, "pass"), (0.96, "pass"), (0.94, "fail")])
def test_another_version_may_cost_as_much(ratio, verdict):
    rate = 7.5 * ratio
    new = bundle("new", model_version="2", certified_rate_rps=rate, certified_rate_per_gpu=rate)
    assert verdicts(new, bundle("old"))["cost"][0] == verdict


def test_costs_are_cards_at_the_target_traffic():
    new = bundle("new", certified_rate_rps=15.0, certified_rate_per_gpu=7.5 * 2, gpus=1)
    assert (
        "5 cards for 60 requests/s, deployed 10;"
        in (verdicts(new, bundle("old"), target_rps=60.0)["cost"][1])
    )


@pytest.mark.parametrize(
    "changes", [{"accelerator": "NVIDIA L4"}, {"versions": {"vllm": "0.33.0"}}]
)
def test_rates_of_other_cards_or_engines_are_not_compared(changes):
    found = verdicts(bundle("new", **changes), bundle("old"))["cost"]
    assert found[0] == "incomparable"
    assert "certify the deployed one again" in found[1]


def test_answers_that_cannot_be_compared_are_no_pass():
    def compare():
        raise EvaluationError("other prompts")

    assert verdicts(bundle("new"), bundle("old"), compare=compare)["quality"] == (
        "incomparable",
        "other prompts",
    )


def test_larger_replicas_cost_more_at_little_traffic_whatever_their_rate_per_card():
    many = {"certified_rate_rps": 60.0, "certified_rate_per_gpu": 7.5, "gpus": 8}
    found = verdicts(bundle("new", model_version="2", **many), bundle("old"), target_rps=7.0)
    assert found["cost"][0] == "fail"
    assert "16 cards for 7 requests/s, deployed 2" in found["cost"][1]


def test_of_an_engine_whose_version_is_not_known_nothing_is_compared():
    unknown = {"versions": {"optikit": "0.1.0"}}
    found = verdicts(bundle("new", **unknown), bundle("old", **unknown))["cost"]
    assert found[0] == "incomparable"
    assert "vllm of an unknown version" in found[1]


def test_of_a_deployed_bundle_that_is_gone_nothing_is_compared():
    found = verdicts(bundle("new"), gone="it is gone")
    assert [found[gate] for gate in ("slo", "quality", "cost")] == 3 * [
        ("incomparable", "it is gone")
    ]
    assert found["integrity"][0] == "pass"


def test_what_the_answers_leave_open_is_no_pass_though_the_suite_accepts_it():
    right = [1.0] * 340 + [0.0] * 60
    for lost, verdict in ((3, "pass"), (14, "inconclusive")):
        new = candidate(1, {"a": flipped(right, lost, 1)})
        found = compare(suite("a", margin=0.05), candidate(0, {"a": right}), [new], seed=1)
        assert (found.verdict, found.accepted) == (verdict, True)
        gate = verdicts(bundle("new"), bundle("old"), compare=lambda found=found: found)
        assert gate["quality"][0] == ("pass" if verdict == "pass" else "fail")
