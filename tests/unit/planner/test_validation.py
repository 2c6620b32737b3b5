"""How wrong the planner is on measured rows; skipped where they are not."""

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.planner import (
    TARGETS,
    Option,
    decisions,
    error_rows,
    held_out,
    random_regret,
    regret,
)
from benchmarks.planner_rows import FILE, Measured, read_rows
from optikit_assets.settings import REPOSITORY

DATA = Path(os.environ.get("OPTIKIT_TEST_DATA", REPOSITORY.parent / "shared" / "data"))

needs_rows = pytest.mark.skipif(
    not (DATA / FILE).is_file(), reason=f"the measured rows are not at {DATA / FILE}"
)


@pytest.fixture(scope="module")
def rows() -> list[Measured]:
    return [row for row in read_rows(DATA)[0] if row.engine == "vllm"]


@needs_rows
def test_a_card_that_was_held_out_is_predicted_within_what_was_asked_for(
    rows: list[Measured],
) -> None:
    errors = error_rows("card", held_out(rows, lambda row: row.system))
    dense = {e["target"]: e for e in errors if e["kind"] == "dense" and e["held_out"] == "all"}
    throughput, tpot = dense[TARGETS[0]], dense["TPOT"]
    assert throughput["rows"] == 213
    assert throughput["median"] <= 0.12
    assert throughput["p90"] <= 0.40
    assert tpot["median"] <= 0.12


@needs_rows
def test_the_best_of_three_predictions_loses_little(rows: list[Measured]) -> None:
    predicted = held_out(rows, lambda row: row.model)
    choices = decisions(predicted, one_card=False)
    lost = regret(choices, 3)
    assert len(lost) > 40
    assert np.mean(lost) <= 0.03
    assert np.mean(random_regret(choices, 3)) > 0.15


def test_regret_is_what_the_top_predictions_lose() -> None:
    choices = [[Option(1.0, 9.0), Option(4.0, 5.0), Option(2.0, 7.0)]]
    assert regret(choices, 1).tolist() == [0.75]
    assert regret(choices, 2).tolist() == [0.5]
    assert regret(choices, 3).tolist() == [0.0]
    # One of three at random: (1 + 4 + 2) / 3 of 4.
    assert random_regret(choices, 1)[0] == pytest.approx(1 - 7 / 12, abs=0.1)
