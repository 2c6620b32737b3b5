import pytest

from optikit_assets.errors import EvaluationError
from optikit_assets.promotion import Candidate, judge
from optikit_assets.specs import Objective
from tests.unit.deployment import samples

DEPLOYED = samples.deployment()


def bundle(key="b", **changes):
    return Candidate(key, f"digest of {key}", DEPLOYED.model_copy(update=changes))


def verdicts(candidate, deployed=None, *, damage="", compare=lambda: None, target_rps=None):
    found = judge(candidate, deployed, damage=damage, compare=compare, target_rps=target_rps)
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
