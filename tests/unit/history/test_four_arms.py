"""The four arms are made twice, for the bundle and as a view: both say the same of a deployment."""

from typing import Any

import pandas as pd
import pytest

from optikit_assets.deployment import RecipeOutcome
from optikit_assets.history import History
from optikit_assets.schemas import ArmMeasurement, Deployment
from tests.unit.deployment.samples import Servers, arm, claims, deployment, outcome, outcomes
from tests.unit.deployment.samples import infeasible_outcomes as infeasible
from tests.unit.history.conftest import Rows

# Of the same meaning in both; a rate is null in both where none is known.
SAME = (
    "arm", "recipe", "evidence", "deployed", "rate_rps", "rate_per_gpu", "gain", "gain_low",
    "gain_high", "claimed_rps", "refuted_rps",
)  # fmt: skip
BASELINE = "baseline, engine defaults"


def measure(rows: Rows, found: list[RecipeOutcome]) -> None:
    """Write what the stages wrote that came to these outcomes."""
    for item in found:
        if not item.is_baseline:
            rows.gate(item.recipe, item.accepted, item.average_recovery or 0.0)
        rows.sweep(item.recipe, **measured(item.sweep))
        # A study that failed keeps no trials.
        if item.tuned is not None and item.tuned.status != "failed":
            rows.trial(item.recipe, 0, **measured(item.sweep))
            rows.trial(item.recipe, 1, **measured(item.tuned), flags=item.tuned.flags)


def measured(arm: ArmMeasurement) -> dict[str, Any]:
    return {"rate": arm.rate_rps or None, "status": arm.status, "gpus": arm.gpus}


def decide(rows: Rows, made: Deployment) -> None:
    """Write what the decision writes."""
    rows.add(
        "deployments",
        day=1,
        slo="chat",
        status=made.status,
        chosen_recipe=made.recipe,
        certified_rate_rps=made.certified_rate_rps,
        rate_per_gpu=made.certified_rate_per_gpu,
        gpus=made.gpus,
        tuned=made.tuned,
        confirmations=[a.model_dump(mode="json") for a in made.certification.attempts],
        arms=[arm.model_dump(mode="json") for arm in made.arms.rows()],
    )


def in_the_bundle(made: Deployment) -> list[dict[str, Any]]:
    arms = [{**arm.model_dump(), "arm": arm.name} for arm in made.arms.rows()]
    return [{name: arm[name] for name in SAME} for arm in arms]


def in_the_view(history: History) -> list[dict[str, Any]]:
    history.drain()
    rows = history.query("SELECT * FROM table5").to_dict("records")
    return [{name: None if pd.isna(row[name]) else row[name] for name in SAME} for row in rows]


def on(*, labels: dict[str, float], found: list[RecipeOutcome], **servers: Any) -> Servers:
    return Servers({**claims(found), **labels}, **servers)


ALONE = [outcome("baseline", 91.7, tuned=None)]
UNTUNED = [outcome("baseline", 3.5, tuned=None), outcome("int_w8a8", 6.0, tuned=None)]
REFUSED = [
    outcome("baseline", 2.0, 2.5),
    outcome("int_w4a16", 9.0, 9.5, quality="fail", accepted=False),
]
GPUS = [
    outcome(
        "baseline",
        sweep=arm("baseline", 4.0, gpus=2),
        tuned=arm("baseline", 9.0, tuned=True, gpus=4),
    ),
    outcome("int_w8a8", 3.0, 3.5),
]
FAILED = [
    outcome("baseline", 3.5, 4.0),
    outcome("int_w8a8", 6.0, tuned=arm("int_w8a8", tuned=True, status="failed")),
]
MISSED = [outcome("baseline", 0.0, 2.0), outcome("int_w8a8", 3.0, 4.0)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("found", "servers"),
    [
        pytest.param(outcomes(), None, id="all arms hold"),
        pytest.param(
            outcomes(),
            on(labels={"int_w8a8, tuned": 5.0, BASELINE: 3.1}, found=outcomes()),
            id="claims refuted",
        ),
        pytest.param(
            outcomes(),
            on(labels={}, found=outcomes(), broken={"int_w8a8, tuned": "out of memory"}),
            id="a server that does not start",
        ),
        pytest.param(ALONE, on(labels={BASELINE: 83.3}, found=ALONE), id="the baseline alone"),
        pytest.param(UNTUNED, None, id="tuning not asked for"),
        pytest.param(REFUSED, None, id="the only recipe refused by the gate"),
        pytest.param(GPUS, None, id="different numbers of devices"),
        pytest.param(FAILED, None, id="a study that failed"),
        pytest.param(MISSED, None, id="the baseline misses the SLO"),
        pytest.param(infeasible(), None, id="nothing meets the SLO"),
    ],
)
def test_bundle_and_view_agree_on_every_arm(
    history: History, rows: Rows, found: list[RecipeOutcome], servers: Servers | None
) -> None:
    made = deployment(found, servers=servers)
    measure(rows, found)
    decide(rows, made)
    assert in_the_view(history) == in_the_bundle(made)
