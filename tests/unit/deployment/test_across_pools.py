"""The choice among pools: by what a million tokens cost, with few certifications."""

from typing import Any

import pytest

from optikit_assets.deployment import (
    Contender,
    certify_cheapest,
    costs_per_million,
    offers,
    pools_table,
)
from optikit_assets.deployment.across_pools import comparison
from optikit_assets.schemas import DEPLOYMENT_FILE, Certification
from tests.unit.deployment import samples
from tests.unit.deployment.samples import CHAT, arm


def pool(
    name: str, claim: float, price: float | None = None, at_best: float | None = None
) -> Contender:
    best = claim if at_best is None else at_best
    return Contender(name, f"8 x {name}", price, claim, best, "int_w8a8", tuned=True, gpus=1)


def certified(rate: float) -> Certification:
    if not rate:
        return Certification(status="refused", summary="No arm held a rate.")
    return Certification(
        status="certified",
        candidate=arm("int_w8a8", rate, tuned=True),
        rate_rps=rate,
        rate_per_gpu=rate,
    )


def choose(contenders: list[Contender], rates: dict[str, float]) -> tuple[str, list[str]]:
    """Return what was chosen, and which pools were certified in which order."""
    asked: list[str] = []

    def certify(name: str) -> Certification:
        asked.append(name)
        return certified(rates[name])

    chosen, found = certify_cheapest(contenders, certify)
    assert list(found) == asked
    return chosen, asked


def test_a_million_tokens_cost_what_they_take_of_an_hour():
    # 1,200 tokens in and 80 out: 2 requests a second read 8,640,000 an hour and write 576,000.
    assert costs_per_million(2.0, 4.608, CHAT) == {
        "cost_per_million_tokens": pytest.approx(0.5),
        "cost_per_million_input_tokens": pytest.approx(4.608 / 8.64),
        "cost_per_million_output_tokens": pytest.approx(8.0),
    }
    for rate, price in ((2.0, None), (0.0, 4.0)):
        assert set(costs_per_million(rate, price, CHAT).values()) == {None}


def test_where_prompts_have_no_known_length_output_is_priced_alone():
    workload = CHAT.workload.model_copy(update={"input_tokens": None})
    assert costs_per_million(2.0, 4.608, CHAT.model_copy(update={"workload": workload})) == {
        "cost_per_million_tokens": None,
        "cost_per_million_input_tokens": None,
        "cost_per_million_output_tokens": pytest.approx(8.0),
    }


@pytest.mark.parametrize(
    ("contenders", "rates", "chosen", "asked"),
    [
        pytest.param(
            [pool("h100", 4.0, 4.0), pool("h200", 6.0, 5.0)],
            {"h100": 3.9, "h200": 5.9},
            "h200",
            ["h200"],
            id="what costs least is certified alone",
        ),
        pytest.param(
            [pool("h100", 4.0, 4.0), pool("h200", 6.0, 5.0)],
            {"h100": 3.9, "h200": 4.0},
            "h100",
            ["h200", "h100"],
            id="a claim that does not hold makes the next one worth a look",
        ),
        pytest.param(
            [pool("h100", 4.0, 4.0), pool("h200", 6.0, 5.0)],
            {"h100": 2.0, "h200": 4.9},
            "h200",
            ["h200", "h100"],
            id="which may turn out to be no better",
        ),
        pytest.param(
            [pool("h100", 4.0, 4.0), pool("h200", 6.0, 5.0)],
            {"h100": 3.9, "h200": 0.0},
            "h100",
            ["h200", "h100"],
            id="a pool on which nothing holds is passed over",
        ),
        pytest.param(
            [pool("h100", 4.0, 4.0, at_best=5.0), pool("h200", 6.0, 5.0)],
            {"h100": 4.9, "h200": 5.9},
            "h100",
            ["h200", "h100"],
            id="what may be more than its search found is looked at",
        ),
        pytest.param(
            [pool("h100", 4.0), pool("h200", 6.0)],
            {"h100": 3.9, "h200": 5.9},
            "h200",
            ["h200"],
            id="without prices the rate decides",
        ),
        pytest.param(
            [pool("old", 9.0), pool("h100", 4.0, 4.0)],
            {"old": 9.0, "h100": 1.0},
            "h100",
            ["h100"],
            id="what has no price comes after what has",
        ),
        pytest.param(
            [pool("old", 9.0), pool("h100", 4.0, 4.0)],
            {"old": 9.0, "h100": 0.0},
            "old",
            ["h100", "old"],
            id="but comes",
        ),
        pytest.param(
            [pool("h100", 0.0, 4.0), pool("h200", 0.0, 5.0)],
            {"h100": 0.0, "h200": 0.0},
            "h100",
            ["h100"],
            id="where nothing meets the SLO the first says so",
        ),
        pytest.param([pool("local", 3.0)], {"local": 2.9}, "local", ["local"], id="one pool"),
    ],
)
def test_pools_are_certified_until_no_other_can_be_cheaper(
    contenders: list[Contender], rates: dict[str, float], chosen: str, asked: list[str]
):
    assert choose(contenders, rates) == (chosen, asked)


def told() -> Any:
    contenders = [pool("h100", 4.0, 4.0), pool("h200", 6.0, 5.0), pool("l4", 0.0, 0.8)]
    return offers(contenders, {"h200": certified(5.0)}, "h200", CHAT)


def test_every_pool_tells_its_numbers_and_what_stands_behind_them():
    h100, h200, l4 = told()
    assert (h100.evidence, h100.rate_per_gpu, h100.deployed) == ("measured", 4.0, False)
    assert (h200.evidence, h200.rate_per_gpu, h200.deployed) == ("confirmed", 5.0, True)
    # 5 a card hour of 18,000 requests, each of 1,200 tokens in and 80 out.
    for offer, request in ((h100, 4.0 / 14_400), (h200, 5.0 / 18_000)):
        assert offer.cost_per_million_tokens == pytest.approx(request * 1e6 / 1280)
        assert offer.cost_per_million_input_tokens == pytest.approx(request * 1e6 / 1200)
        assert offer.cost_per_million_output_tokens == pytest.approx(request * 1e6 / 80)
    costs = (l4.cost_per_million_tokens, l4.cost_per_million_input_tokens)
    assert (l4.rate_per_gpu, *costs, l4.cost_per_million_output_tokens) == (None,) * 4
    assert comparison(told()) == (
        "Pool h200 serves 5 requests/s per GPU, 0.217 per million tokens; h100 serves 4 "
        "requests/s per GPU by its search, 0.217 per million tokens; l4 meets the SLO at no rate."
    )


def test_a_claim_that_did_not_hold_is_refuted():
    (offer,) = offers([pool("h100", 4.0, 4.0)], {"h100": certified(0.0)}, "h100", CHAT)
    assert (offer.evidence, offer.rate_per_gpu) == ("refuted", None)
    assert comparison([offer]) == ""


def test_a_record_names_pools_only_where_there_are_some():
    deployment = samples.deployment()
    plain = DEPLOYMENT_FILE.dump(deployment)
    assert not {"pool", "pools"} & set(plain)
    whole = deployment.model_copy(update={"pool": "h200", "pools": told()})
    written = DEPLOYMENT_FILE.dump(whole)
    assert (written["pool"], [o["pool"] for o in written["pools"]]) == (
        "h200",
        ["h100", "h200", "l4"],
    )
    assert DEPLOYMENT_FILE.load(written, "deployment.json") == whole


def test_the_terminal_marks_the_pool_that_is_deployed_on():
    deployment = samples.deployment().model_copy(update={"pools": told()})
    table = pools_table(deployment)
    cells = [[str(cell) for cell in column.cells] for column in table.columns]
    assert cells[0] == ["  h100", "→ h200", "  l4"]
    assert cells[2] == ["4.000", "5.000", "–"]
    assert cells[4:7] == [["0.217"] * 2 + ["–"], ["0.231"] * 2 + ["–"], ["3.47"] * 2 + ["–"]]
    assert "the whole card hour" in str(table.caption)
