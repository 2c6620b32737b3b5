"""What `optikit optimize --shortlist` leaves of a job, and what it remembers."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from optikit_assets.cli.shortlist import Shortlisted, compared, narrowed, remember
from optikit_assets.errors import OptikitError
from optikit_assets.settings import REPOSITORY, settings
from optikit_assets.specs import Catalog, JobSpec, PoolSpec, SloSpec
from resources.history import open_history
from tests.unit.cli.conftest import Optikit
from tests.unit.planner.models import LLAMA_8B, LLAMA_70B

SLO = SloSpec.model_validate(
    {
        "name": "quick",
        "workload": {"input_tokens": 200, "output_tokens": 20},
        "objectives": [{"metric": "e2e_latency", "percentile": 95, "max_ms": 800}],
        "pools": ["mine"],
    }
)


@pytest.fixture
def catalog() -> Catalog:
    shipped = Catalog.load(REPOSITORY / "recipes")
    pool = PoolSpec(name="mine", accelerator="H100", cards_per_node=1, price_per_hour=2.0)
    return replace(shipped, pools={"mine": pool}, slos={"quick": SLO})


def job(tmp_path: Path, config: Mapping[str, object], *recipes: str) -> JobSpec:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    return JobSpec(name="j", model=str(file), slos=("quick",), recipes=recipes)


@pytest.mark.slow
def test_a_job_is_left_with_the_recipes_of_the_shortlist(catalog: Catalog, tmp_path: Path) -> None:
    asked = job(tmp_path, LLAMA_8B, "baseline", "fp8_dynamic", "int_w4a16", "nvfp4")
    chosen = narrowed(asked, catalog, 1)
    (recipe,) = chosen.job.recipes
    assert recipe in ("fp8_dynamic", "int_w4a16")
    assert chosen.job.pools == ("mine",)
    # The baseline takes part in every job, and so does its prediction.
    assert {(slo, way.recipe) for slo, way in chosen.ways} == {
        ("quick", recipe), ("quick", "baseline")
    }  # fmt: skip


def test_a_prediction_that_the_slo_is_not_met_is_kept_too(catalog: Catalog, tmp_path: Path) -> None:
    # Alone a request takes 120 to 240 ms, by recipe.
    (bound,) = SLO.objectives
    hard = SLO.model_copy(update={"objectives": (bound.model_copy(update={"max_ms": 130}),)})
    catalog = replace(catalog, slos={"quick": hard})
    chosen = narrowed(job(tmp_path, LLAMA_8B, "baseline", "int_w4a16"), catalog, 1)
    rates = {way.recipe: way.rate_rps for _, way in chosen.ways}
    assert rates["baseline"] == 0 < rates["int_w4a16"]


def test_recipes_named_in_a_job_stay_where_they_are_as_fast_as_the_best(
    catalog: Catalog, tmp_path: Path
) -> None:
    asked = job(tmp_path, LLAMA_8B, "int_w8a8", "int_w8a8_static")
    assert set(narrowed(asked, catalog, 1).job.recipes) == {"int_w8a8", "int_w8a8_static"}


def test_a_flow_that_makes_no_checkpoints_is_left_with_the_baseline(
    catalog: Catalog, tmp_path: Path
) -> None:
    asked = job(tmp_path, LLAMA_8B).model_copy(update={"flow": "benchmark_only"})
    assert narrowed(asked, catalog, 3).job.recipes == ("baseline",)


@pytest.mark.slow
def test_pools_keep_their_order_and_slos_with_different_ones_are_refused(
    catalog: Catalog, tmp_path: Path
) -> None:
    dear = PoolSpec(name="dear", accelerator="H100", cards_per_node=1, price_per_hour=9.0)
    other = SLO.model_copy(update={"name": "other", "pools": ("dear",)})
    catalog = replace(
        catalog,
        pools={**catalog.pools, "dear": dear},
        slos={**catalog.slos, "other": other},
    )
    both = job(tmp_path, LLAMA_8B, "int_w4a16").model_copy(update={"pools": ("dear", "mine")})
    assert narrowed(both, catalog, 2).job.pools == ("dear", "mine")
    mixed = both.model_copy(update={"slos": ("quick", "other"), "pools": ()})
    with pytest.raises(OptikitError, match="SLOs quick, other have different pools of their own"):
        narrowed(mixed, catalog, 2)


def test_a_job_without_a_chance_or_without_an_slo_is_one_line(
    catalog: Catalog, tmp_path: Path
) -> None:
    with pytest.raises(OptikitError, match=r"no way is predicted to serve it: .* leave no room"):
        narrowed(job(tmp_path, LLAMA_70B, "baseline"), catalog, 3)
    with pytest.raises(OptikitError, match="--shortlist predicts rates under an SLO"):
        narrowed(JobSpec(name="j", model="m"), catalog, 3)


@pytest.mark.slow
def test_predictions_are_kept_and_shown_beside_what_was_measured(
    catalog: Catalog, tmp_path: Path, home: Path
) -> None:
    chosen = narrowed(job(tmp_path, LLAMA_8B, "fp8_dynamic"), catalog, 1)
    remember(chosen, "m@1")
    assert compared("m@1") is None
    history = open_history(settings())
    kept = history.query("SELECT * FROM predictions")
    assert sorted(kept["rate_per_gpu"]) == sorted(way.rate_per_card for _, way in chosen.ways)
    assert set(kept["pool"]) == {"mine"}
    row = {
        "model": "m@1", "recipe": "fp8_dynamic", "slo": "quick", "pool": "mine", "content_key": "k",
        "status": "feasible", "certified_rate_rps": 1.0, "gpus": 1, "ended_at": "2999-01-01T00:00Z",
    }  # fmt: skip
    history.append("sweeps", [row])
    history.drain()
    table = compared("m@1")
    assert table is not None
    assert table.row_count == 1
    assert isinstance(chosen, Shortlisted)


def test_a_machine_without_a_sheet_says_so(optikit: Optikit) -> None:
    ended = optikit("optimize", "--model", "demo-llama", "--slo", "demo", "--shortlist", "2")
    assert "pool local has no data sheet: its accelerator " in ended.error
