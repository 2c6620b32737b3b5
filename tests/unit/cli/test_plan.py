"""`optikit plan` in this process, with configurations from files."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from optikit_assets.cli.plan import _record
from optikit_assets.cli.plan_figure import front
from optikit_assets.planner import Layout, Place, Way
from optikit_assets.settings import REPOSITORY
from optikit_assets.specs import Catalog
from tests.unit.cli.conftest import Optikit
from tests.unit.planner.models import LLAMA_8B, LLAMA_70B


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LLAMA_8B))
    return file


@pytest.mark.slow
def test_a_plan_says_what_to_measure_with_an_interval_and_servers(
    optikit: Optikit, config: Path, tmp_path: Path
) -> None:
    out, figure = tmp_path / "plan.json", tmp_path / "plan.svg"
    ended = optikit(
        "plan", "--model", config, "--slo", "qwen7b_chat", "--pool", "l40s", "--recipe", "baseline",
        "--recipe", "fp8_dynamic", "--target-rps", "40", "--json", out, "--figure", figure,
    )  # fmt: skip
    assert ended.code == 0
    assert "A prediction, no measurement" in ended.out
    ways = json.loads(out.read_text())
    assert {way["recipe"] for way in ways} == {"baseline", "fp8_dynamic"}
    listed = [way for way in ways if way["shortlisted"]]
    assert 1 <= len(listed) <= 3
    for way in listed:
        low, high = way["rate_interval_rps"]
        assert low <= way["rate_rps"] <= high
        assert way["replicas"] * way["rate_rps"] >= 40
    assert figure.read_text().lstrip().startswith("<?xml")


def test_a_model_that_fits_nowhere_is_one_line(optikit: Optikit, config: Path) -> None:
    config.write_text(json.dumps({**LLAMA_70B, "num_hidden_layers": 2000}))
    ended = optikit(
        "plan", "--model", config, "--slo", "qwen7b_chat", "--pool", "l40s", "--recipe", "baseline"
    )
    assert "no way is predicted to serve it" in ended.error
    assert "leave no room for a cache" in ended.error


def test_an_architecture_that_is_not_known_is_one_line(optikit: Optikit, config: Path) -> None:
    config.write_text(json.dumps({**LLAMA_8B, "model_type": "hyena"}))
    ended = optikit("plan", "--model", config, "--slo", "qwen7b_chat")
    assert "the planner does not know the architecture 'hyena'" in ended.error


@pytest.mark.parametrize("option", ["--figure", "--json"])
def test_a_file_that_cannot_be_written_is_told_by_its_option(
    optikit: Optikit, config: Path, tmp_path: Path, option: str
) -> None:
    ended = optikit("plan", "--model", config, "--slo", "qwen7b_chat", option, tmp_path)
    assert f"{option} {tmp_path} cannot be written: it is a folder" in ended.error


def test_a_disk_that_is_full_for_a_figure_is_one_line(optikit: Optikit, config: Path) -> None:
    ended = optikit(
        "plan", "--model", config, "--slo", "qwen7b_chat", "--pool", "l40s", "--recipe", "baseline",
        "--figure", "/dev/full",
    )  # fmt: skip
    assert "/dev/full cannot be written: No space left on device" in ended.error


def test_an_unknown_place_is_one_line(optikit: Optikit, config: Path) -> None:
    ended = optikit("plan", "--model", config, "--slo", "qwen7b_chat", "--pool", "h300")
    assert "unknown hardware pool or card 'h300'" in ended.error


@pytest.mark.slow
def test_what_fits_without_meeting_the_slo_says_both(
    optikit: Optikit, config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "plan.json"
    ended = optikit(
        "plan", "--model", config, "--slo", "mistral24b_rag", "--pool", "l40s", "--recipe",
        "baseline", "--json", out,
    )  # fmt: skip
    ways = json.loads(out.read_text())
    assert {(w["fits"], w["meets_slo"]) for w in ways} >= {(True, False)}, ended.out


def test_a_way_with_a_price_tells_what_each_kind_of_token_costs() -> None:
    catalog = Catalog.load(REPOSITORY / "recipes")
    slo = catalog.slo("qwen7b_chat")
    place = Place("h100", catalog.card("h100"), 8, 3.6)
    way = Way(place, Layout(2), "baseline", rate_rps=4.0, low_rps=3.0, high_rps=5.0)
    # A thousandth a second, for two requests.
    read, written = slo.workload.mean_input_tokens, slo.workload.mean_output_tokens
    assert read is not None
    told = _record(way, False, slo, None)
    assert told["cost_per_million_tokens"] == pytest.approx(500 / (read + written))
    assert told["cost_per_million_input_tokens"] == pytest.approx(500 / read)
    assert told["cost_per_million_output_tokens"] == pytest.approx(500 / written)
    refused = _record(replace(way, reason="too slow"), False, slo, None)
    assert [v for name, v in refused.items() if name.startswith("cost_")] == [None] * 3


def test_the_front_is_that_of_the_figures_axes() -> None:
    h100 = Catalog.load(REPOSITORY / "recipes").card("h100")

    def way(name: str, price: float, latency_s: float, rate_rps: float) -> Way:
        place = Place(name, h100, 8, price)
        return Way(place, Layout(), "baseline", rate_rps=rate_rps, latency_s=latency_s)

    dear, fast, cheap = way("a", 4.0, 2.0, 8.0), way("b", 1.0, 1.0, 3.0), way("b", 1.0, 3.0, 4.0)
    assert front([cheap, dear, fast], {}) == [fast, dear]
    assert front([cheap, dear, fast], {"a": 4.0, "b": 1.0}) == [fast, cheap]
