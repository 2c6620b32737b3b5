"""What is predicted of every way to serve, and what is refused in one line."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from optikit_assets.engines import get_engine
from optikit_assets.errors import OptikitError
from optikit_assets.planner import (
    Fit,
    Place,
    Question,
    Way,
    forecast,
    own_rows,
    places,
    refit,
    shipped_fits,
    shortlist,
)
from optikit_assets.planner.engine import Limits
from optikit_assets.planner.forecast import layouts
from optikit_assets.planner.roofline import Layout
from optikit_assets.planner.step_time import StepTime
from optikit_assets.planner.traffic import Requests, Server
from optikit_assets.settings import REPOSITORY
from optikit_assets.specs import (
    Catalog,
    Choices,
    EngineSpec,
    PoolSpec,
    SearchSpaceSpec,
    SloSpec,
)
from optikit_assets.specs.search_space import IntRange, Scalar
from tests.unit.planner.models import LLAMA_8B, LLAMA_70B, architecture

CATALOG = Catalog.load(REPOSITORY / "recipes")
FIT = shipped_fits("vllm")["dense"]
SPACE = CATALOG.search_space("default")


def space(*tensor: int) -> SearchSpaceSpec:
    parameters = {**SPACE.parameters, "tensor_parallel_size": Choices(choices=tensor)}
    return SPACE.model_copy(update={"parameters": parameters})


def slo(**changes: object) -> SloSpec:
    return SloSpec.model_validate(
        {
            "name": "s",
            "workload": {"input_tokens": 500, "output_tokens": 50},
            "objectives": [{"metric": "e2e_latency", "percentile": 95, "max_ms": 1000}],
            **changes,
        }
    )


def ask(
    config: dict[str, object],
    *recipes: str,
    under: SloSpec,
    fit: Fit = FIT,
    tensor: tuple[int, ...] = (1,),
    flags: dict[str, Scalar] | None = None,
    engine: str = "vllm",
) -> list[Way]:
    served = EngineSpec(name=engine, flags=flags or {})
    question = Question(architecture(config), under, served, {"": fit})
    chosen = [CATALOG.recipe(name) for name in recipes]
    return forecast(question, places(CATALOG, ["h100"]), chosen, space(*tensor))


@pytest.mark.slow
def test_ways_are_ordered_by_what_they_serve_and_the_impossible_say_why() -> None:
    ways = ask(LLAMA_70B, "baseline", "nvfp4", under=slo(), tensor=(1, 4, 8))
    able = [way for way in ways if not way.reason]
    assert [way.layout.tensor for way in able if way.recipe == "baseline"] != []
    rates = [way.rate_per_card for way in able]
    assert rates == sorted(rates, reverse=True)
    reasons = {(way.layout.tensor, way.recipe): way.reason for way in ways}
    assert "weights per card leave no room" in reasons[1, "baseline"]
    assert "compute capability 10.0" in reasons[4, "nvfp4"]
    for way in able:
        assert way.low_rps <= way.rate_rps <= way.high_rps
        assert way.sequences * 550 <= way.context_tokens
        assert "213 measured rows" in way.basis


@pytest.mark.slow
def test_a_faster_engine_serves_more_and_the_interval_is_that_of_the_fit() -> None:
    exact = replace(FIT, low=1.0, high=1.0)
    (sharp,) = ask(LLAMA_8B, "baseline", under=slo(), fit=exact)
    assert 0 < sharp.low_rps == pytest.approx(sharp.high_rps, rel=0.03)
    assert sharp.low_rps <= sharp.rate_rps <= sharp.high_rps
    slow = replace(exact, coefficients=exact.coefficients * 1.5)
    (slower,) = ask(LLAMA_8B, "baseline", under=slo(), fit=slow)
    assert slower.rate_rps < 0.8 * sharp.rate_rps
    assert slower.latency_s == pytest.approx(1.5 * sharp.latency_s, rel=0.01)


def test_an_slo_that_nobody_meets_is_named() -> None:
    hard = slo(objectives=[{"metric": "ttft", "percentile": 50, "max_ms": 0.1}])
    ways = ask(LLAMA_8B, "baseline", under=hard)
    assert all("meets ttft_p50 0.1 ms at no rate" in way.reason for way in ways)
    assert shortlist(ways) == []


def test_a_saturated_server_finishes_as_fast_as_its_steps_allow() -> None:
    server = Server(StepTime(step_s=0.01), Limits(max_num_seqs=10))
    throughput = slo(objectives=[], workload={"input_tokens": 1, "output_tokens": 100})
    rate = server.highest_rate(Requests.of(throughput, 200), throughput)
    assert rate == pytest.approx(10 / (100 * 0.01), rel=0.02)


@pytest.mark.parametrize(
    "answers",
    [
        256,
        {"distribution": "uniform", "min": 1, "max": 1024},
        {"distribution": "lognormal", "mean": 256, "std": 300, "min": 1, "max": 4096},
    ],
)
@pytest.mark.parametrize("lanes", [1, 2])
def test_answers_that_finish_alone_at_the_end_are_not_counted_as_saturation(
    answers: object, lanes: int
) -> None:
    throughput = slo(objectives=[], workload={"input_tokens": 30, "output_tokens": answers})
    requests = Requests.of(throughput)
    server = Server(StepTime(step_s=0.01), Limits(max_num_seqs=256), lanes)
    # A step gives each place a token: the first of an answer comes with its prompt.
    steps = np.mean(requests.output_tokens)
    rate = server.capacity_rps(requests)
    assert rate == pytest.approx(lanes * 256 / (steps * 0.01), rel=0.05)


def test_a_cache_that_is_smaller_than_what_was_admitted_has_a_rate_too() -> None:
    workload = {"input_tokens": 1, "output_tokens": 100}
    throughput = slo(objectives=[], workload=workload)
    server = Server(StepTime(step_s=0.01), Limits(cache_tokens=1000))
    # Half grown on average, and a second each; what gives its place up is computed in one step.
    rate = server.capacity_rps(Requests.of(throughput, 200))
    assert rate == pytest.approx(1000 / (1 + 100 / 2), rel=0.1)


def test_the_shortlist_names_each_place_and_precision_once() -> None:
    ways = ask(LLAMA_8B, "fp8_dynamic", "int_w8a8", "int_w8a8_static", under=slo())
    best = shortlist(ways)
    assert sorted(way.recipe for way in best) == ["fp8_dynamic", "int_w8a8"]
    assert best[0].rate_per_card >= best[1].rate_per_card
    assert len(shortlist(ways, 1)) == 1


def test_what_a_way_costs_is_its_price_by_the_rate_of_a_card() -> None:
    place = Place("h100", CATALOG.card("h100"), 8, 2.0)
    way = Way(place, Layout(2), "baseline", rate_rps=4.0, low_rps=1.0, high_rps=5.0)
    assert way.expense == (False, 1.0)
    assert replace(way, rate_rps=0.0).expense == (True, math.inf)


@pytest.mark.slow
def test_memory_is_what_the_flags_of_the_model_leave_to_the_engine() -> None:
    (usual,) = ask(LLAMA_8B, "baseline", under=slo())
    (half,) = ask(LLAMA_8B, "baseline", under=slo(), flags={"gpu_memory_utilization": 0.5})
    assert half.context_tokens < usual.context_tokens / 2


@pytest.mark.slow
def test_few_sequences_at_a_time_serve_less_whatever_the_engine_calls_them() -> None:
    for engine, flag in (("vllm", "max_num_seqs"), ("sglang", "max_running_requests")):
        asked: list[dict[str, Scalar]] = [{}, {flag: 2}]
        usual, few = (
            ask(LLAMA_8B, "baseline", under=slo(), flags=flags, engine=engine)[0] for flags in asked
        )
        assert few.rate_rps < 0.5 * usual.rate_rps, engine


def test_a_server_that_keeps_no_prefixes_serves_less_of_what_shares_them() -> None:
    workload = {"input_tokens": 2000, "output_tokens": 20, "prefix_tokens": 1900}
    kept: list[dict[str, Scalar]] = [{}, {"enable_prefix_caching": False}]
    usual, without = (
        ask(LLAMA_8B, "baseline", under=slo(workload=workload), flags=flags)[0].rate_rps
        for flags in kept
    )
    assert 0 < without < 0.5 * usual


def test_on_a_processor_only_emulation_is_left_to_be_measured() -> None:
    cpu = CATALOG.card("h100").model_copy(update={"name": "cpu", "accelerator": "CPU"})
    question = Question(architecture(LLAMA_8B), slo(), EngineSpec(), {"": FIT})
    recipes = [CATALOG.recipe(name) for name in ("int_w4a16", "fp8_dynamic")]
    ways = forecast(question, [Place("cpu", cpu, 1)], recipes, space(1))
    assert {way.recipe: way.reason for way in ways} == {
        "int_w4a16": "",
        "fp8_dynamic": "vLLM emulates FP8_DYNAMIC on CPUs: correct, and slow: by how much, "
        "measure it",
    }


def test_a_spec_that_fixes_parallelism_is_planned_at_that_alone() -> None:
    flags: dict[str, Scalar] = {"tensor_parallel_size": 2, "data_parallel_size": 2}
    ways = ask(LLAMA_8B, "baseline", under=slo(), tensor=(1, 2, 4), flags=flags)
    assert [way.layout for way in ways] == [Layout(2, 1, 2)]
    flags = {"tensor_parallel_size": 16}
    (way,) = ask(LLAMA_8B, "baseline", under=slo(), tensor=(1, 2, 4), flags=flags)
    assert way.reason == "needs 16 cards, a node has 8"


def test_a_spec_of_another_engine_than_the_spaces_is_planned_at_its_own_parallelism() -> None:
    flags: dict[str, Scalar] = {"tp_size": 4}
    ways = ask(LLAMA_8B, "baseline", under=slo(), tensor=(1, 2), flags=flags, engine="sglang")
    assert [way.layout for way in ways] == [Layout(4)]
    ways = ask(LLAMA_8B, "baseline", under=slo(), tensor=(1, 2), engine="sglang")
    assert [way.layout for way in ways] == [Layout()]


def test_parallelism_is_planned_where_the_grid_of_the_space_has_it() -> None:
    sizes = IntRange(low=1, high=8, step=3)
    parameters = {**SPACE.parameters, "tensor_parallel_size": sizes}
    found = layouts(
        SPACE.model_copy(update={"parameters": parameters}),
        Place("h100", CATALOG.card("h100"), 8),
        EngineSpec(),
    )
    assert {layout.tensor for layout in found} == {1, 4}


def pool(**keys: object) -> Catalog:
    spec = PoolSpec.model_validate({"name": "mine", **keys})
    return replace(CATALOG, pools={"mine": spec})


def test_a_pool_has_the_sheet_of_its_card_and_its_own_memory_and_price() -> None:
    (place,) = places(pool(accelerator="H100", cards_per_node=4, price_per_hour=3.0), ["mine"])
    assert (place.card.name, place.cards, place.price_per_hour) == ("h100", 4, 3.0)
    (place,) = places(pool(accelerator="H100", card="h200", memory_gib=96), [])
    assert (place.card.name, place.card.memory_gib) == ("h200", 96)


@pytest.mark.parametrize(
    ("keys", "names", "problem"),
    [
        (
            {"accelerator": "RTX 4090"},
            [],
            "pool mine has no data sheet: its accelerator 'RTX 4090'",
        ),
        ({}, [], "its accelerator 'unset' is no card of recipes/hardware/cards/"),
        ({}, ["h300"], "unknown hardware pool or card 'h300'; known: a100, b200"),
    ],
)
def test_a_place_without_a_sheet_is_one_line(
    keys: dict[str, object], names: list[str], problem: str
) -> None:
    with pytest.raises(OptikitError) as caught:
        places(pool(**keys), names)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_trace_with_a_gap_is_one_line(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    times = [*range(50), *range(200, 250)]
    lines = ["timestamp,input_tokens,output_tokens", *(f"{t},10,10" for t in times)]
    trace.write_text("\n".join(lines))
    workload = {"input_tokens": 10, "output_tokens": 10, "arrivals": "trace", "trace": str(trace)}
    with pytest.raises(OptikitError, match=r"nothing arrives for 151 s after request 50, of 249 s"):
        Requests.of(slo(workload=workload))


def test_arrivals_and_lengths_of_a_trace_are_of_the_same_rows(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    # The gap before a row says how long its prompt is.
    tokens = [10 + 7 * i % 90 for i in range(90)]
    times = np.cumsum(tokens) / 100
    rows = (f"{t},{n},10" for t, n in zip(times, tokens, strict=True))
    trace.write_text("\n".join(["timestamp,input_tokens,output_tokens", *rows]))
    length = {"distribution": "trace", "min": 1, "max": 1000}
    workload = {
        "input_tokens": length, "output_tokens": 10, "arrivals": "trace", "trace": str(trace),
    }  # fmt: skip
    drawn = Requests.of(slo(workload=workload), 50)
    gaps = np.diff(drawn.unit_arrivals)
    assert np.corrcoef(gaps, drawn.input_tokens[1:])[0, 1] > 0.9


def test_a_bound_on_the_time_between_any_two_tokens_is_refused() -> None:
    bound = {"metric": "itl", "percentile": 95, "max_ms": 50}
    with pytest.raises(OptikitError, match=r"SLO s: .* \(itl\): bound tpot, or measure"):
        Requests.of(slo(objectives=[bound]))


def test_own_rows_are_of_the_newest_version_on_the_card_and_steady() -> None:
    catalog = replace(CATALOG, slos={"s": slo()})
    record = {
        "model": "m@1", "recipe": "baseline", "slo": "s", "accelerator": "8 x NVIDIA H100",
        "versions": '{"vllm": "0.32.0"}', "clients": 8, "throughput_rps": 4.0, "latency_s": 2.0,
        "flags": '{"tensor_parallel_size": 2}', "input_tokens": 500, "output_tokens": 50,
    }  # fmt: skip
    others = (
        {"versions": '{"vllm": "0.31.0"}'},
        {"accelerator": "1 x NVIDIA H200"},
        {"latency_s": 9.0},
        {"model": "gone@1"},
        {"recipe": "unknown"},
        {"versions": "{}"},
        # Measured before the SLO's file said something else, or prompts of a file.
        {"input_tokens": 4000},
        {"output_tokens": 51},
        {"input_tokens": math.nan},
    )

    def known(model: str):
        return architecture(LLAMA_8B) if model == "m@1" else None

    records = [record, *({**record, **other} for other in others)]
    rows = own_rows(records, "vllm", CATALOG.card("h100"), catalog, known)
    assert len(rows) == 1
    assert (rows[0].latency_s, rows[0].work.clients, rows[0].work.layout.tensor) == (2.0, 8, 2)
    assert (rows[0].work.input_tokens, rows[0].work.output_tokens) == (500, 50)
    assert rows[0].group == "m@1"
    assert "1 of them from this history" in refit(FIT, rows).basis


def test_a_prefix_in_the_cache_is_no_input_of_a_row() -> None:
    prefixed = {"input_tokens": 500, "output_tokens": 50, "prefix_tokens": 100}
    catalog = replace(CATALOG, slos={"s": slo(workload=prefixed)})

    def prompt(**flags: Scalar) -> tuple[float, float]:
        record = {
            "model": "m@1", "recipe": "baseline", "slo": "s", "accelerator": "NVIDIA H100",
            "versions": {"vllm": "1"}, "clients": 8, "throughput_rps": 4.0, "latency_s": 2.0,
            "flags": flags, "input_tokens": 500, "output_tokens": 50,
        }  # fmt: skip
        card = CATALOG.card("h100")
        (row,) = own_rows([record], "vllm", card, catalog, lambda _: architecture(LLAMA_8B))
        return row.work.input_tokens, row.work.kept_tokens

    assert prompt() == (400, 100)
    assert prompt(block_size=64) == (436, 64)
    assert prompt(enable_prefix_caching=False) == (500, 0)


def test_a_loop_of_more_clients_than_a_server_runs_at_a_time_is_no_row() -> None:
    catalog = replace(CATALOG, slos={"s": slo()})

    def running(**flags: Scalar) -> list[float]:
        record = {
            "model": "m@1", "recipe": "baseline", "slo": "s", "accelerator": "NVIDIA H100",
            "versions": {"vllm": "1"}, "clients": 320, "throughput_rps": 32.0, "latency_s": 10.0,
            "flags": flags, "input_tokens": 500, "output_tokens": 50,
        }  # fmt: skip
        card = CATALOG.card("h100")
        rows = own_rows([record], "vllm", card, catalog, lambda _: architecture(LLAMA_8B))
        return [row.work.running for row in rows]

    assert running() == [320]
    assert running(max_num_seqs=320) == [320]
    assert running(max_num_seqs=16) == []
    assert running(gpu_memory_utilization=0.3) == []


def test_own_rows_of_one_model_do_not_narrow_the_interval() -> None:
    catalog = replace(CATALOG, slos={"s": slo()})
    records = [
        {
            "model": "m@1", "recipe": recipe, "slo": "s", "accelerator": "NVIDIA H100",
            "versions": {"vllm": "1"}, "clients": n, "throughput_rps": n / 2.0, "latency_s": 2.0,
            "flags": {}, "input_tokens": 500, "output_tokens": 50,
        }
        for recipe in ("baseline", "fp8_dynamic", "int_w8a8", "int_w4a16")
        for n in (1, 2, 4)
    ]  # fmt: skip
    card = CATALOG.card("h100")
    rows = own_rows(records, "vllm", card, catalog, lambda _: architecture(LLAMA_8B))
    assert len(rows) == 12
    moved = refit(FIT, rows)
    assert moved.low <= FIT.low
    assert moved.high >= FIT.high


def test_a_server_on_cards_that_a_layout_does_not_tell_is_no_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    catalog = replace(CATALOG, slos={"s": slo()})
    record = {
        "model": "m@1", "recipe": "baseline", "slo": "s", "accelerator": "NVIDIA H100",
        "versions": {"vllm": "1"}, "clients": 1, "throughput_rps": 0.5, "latency_s": 2.0,
        "flags": {"data_parallel_size": 2}, "input_tokens": 500, "output_tokens": 50,
    }  # fmt: skip

    def found() -> list[Layout]:
        card = CATALOG.card("h100")
        rows = own_rows([record], "vllm", card, catalog, lambda _: architecture(LLAMA_8B))
        return [row.work.layout for row in rows]

    assert found() == [Layout(data=2)]
    monkeypatch.setattr(type(get_engine("vllm")), "devices", lambda self, flags: 4)
    assert found() == []
