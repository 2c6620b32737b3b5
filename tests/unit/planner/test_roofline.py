"""Steps and cycles against sums that a person can do."""

import numpy as np
import pytest

from optikit_assets.errors import ModelError
from optikit_assets.planner import Layout, Precision, Roofline, room
from optikit_assets.planner.precision import SCHEMES, peak_flops
from optikit_assets.planner.roofline import TERMS, UNITS
from optikit_assets.settings import REPOSITORY
from optikit_assets.specs import Catalog
from tests.unit.planner.models import LLAMA_8B, LLAMA_70B, MOE, architecture

CATALOG = Catalog.load(REPOSITORY / "recipes")
H100 = CATALOG.card("h100")
BF16 = Precision()


def part(roofline: Roofline, term: str, unit: str) -> float:
    return float(roofline.linear[TERMS.index(term), UNITS.index(unit)])


def test_a_step_reads_the_weights_once_and_computes_two_operations_per_parameter() -> None:
    model = architecture(LLAMA_8B)
    roofline = Roofline.of(model, BF16, H100, Layout())
    # 8.03 billion parameters but the embedding of 128,256 rows of 4,096, in two bytes.
    read = 2 * (8.03e9 - 128256 * 4096) / 3.35e12
    assert part(roofline, "weights", "step") == pytest.approx(read, rel=1e-3)
    layers = 8.03e9 - 2 * 128256 * 4096
    assert part(roofline, "linear", "token") == pytest.approx(2 * layers / 989e12, rel=1e-3)
    # Keys and values of 32 layers with 8 heads of 128, in two bytes.
    assert part(roofline, "cache", "cached") == pytest.approx(2 * 32 * 8 * 128 * 2 / 3.35e12)


def test_tensor_parallelism_shares_reads_and_adds_reductions() -> None:
    model = architecture(LLAMA_70B)
    one = Roofline.of(model, BF16, H100, Layout())
    four = Roofline.of(model, BF16, H100, Layout(tensor=4))
    for term, unit in (("weights", "step"), ("linear", "token"), ("cache", "cached")):
        assert part(four, term, unit) == pytest.approx(part(one, term, unit) / 4)
    assert part(one, "reduce_bytes", "token") == part(one, "reduce_calls", "step") == 0
    # Two reductions per layer of 8,192 16-bit numbers; 1.5 times over a link of 450 GB/s.
    assert part(four, "reduce_bytes", "token") == pytest.approx(2 * 80 * 16384 * 1.5 / 450e9)


def test_a_cycle_is_the_sum_of_its_steps() -> None:
    roofline = Roofline.of(architecture(LLAMA_8B), BF16, H100, Layout())
    n, prompt, answer = 3, 100, 40
    steps = np.zeros(len(TERMS))
    for token in range(answer):
        steps += roofline.linear @ np.array([1, n, n, n * (prompt + token + 0.5), 0])
    steps += n * roofline.linear @ np.array([0, prompt, 0, 0, prompt**2 / 2])
    assert roofline.cycle(n, prompt, answer) == pytest.approx(steps)


def test_a_cycle_of_experts_reads_those_that_its_tokens_take() -> None:
    model = architecture(MOE)
    roofline = Roofline.of(model, BF16, H100, Layout(tensor=8))
    dense = roofline.linear @ np.array([10, 110, 10, 10 * 105, 5000])
    read = roofline.cycle(1, 100, 10)[0] - dense[0]
    touched = 10 * model.experts_touched(1) + model.experts_touched(100)
    assert read == pytest.approx(touched * roofline.expert_s)


@pytest.mark.parametrize(
    ("recipe", "gib"),
    [("baseline", 131.4), ("fp8_dynamic", 67.6), ("int_w4a16", 36.8), ("nvfp4", 39.8)],
)
def test_a_recipe_says_how_large_a_checkpoint_is(recipe: str, gib: float) -> None:
    model = architecture(LLAMA_70B)
    precision = Precision.of(CATALOG.recipe(recipe), model)
    assert precision.weight_bytes(model) / 2**30 == pytest.approx(gib, rel=0.01)


def test_a_matrix_that_is_embedding_and_output_layer_is_kept_once_and_read_every_step() -> None:
    apart, tied = (architecture({**LLAMA_8B, "tie_word_embeddings": same}) for same in (0, 1))
    matrix = 128256 * 4096 * 2
    assert BF16.weight_bytes(apart) - BF16.weight_bytes(tied) == matrix
    assert BF16.always_read_bytes(tied) == BF16.always_read_bytes(apart)
    # The last stage of a pipeline has a copy of what the first one has.
    assert BF16.weight_bytes(tied, 2) == BF16.weight_bytes(apart, 2)
    for layout, more in ((Layout(), True), (Layout(pipeline=2), False)):
        rooms = [room(model, BF16, H100, layout, 1000).cache_tokens for model in (apart, tied)]
        assert (rooms[1] > rooms[0]) is more


def test_mixed_precision_counts_its_shares() -> None:
    model = architecture(LLAMA_70B)
    mixed = Precision.of(CATALOG.recipe("mixed_w4_w8"), model)
    bits = sum(share * scheme.bits for share, scheme in mixed.parts)
    assert bits == pytest.approx(0.75 * 4.125 + 0.25 * 8)


def test_a_card_without_units_for_a_type_computes_in_16_bits() -> None:
    fp8, fp4 = SCHEMES["FP8"], SCHEMES["NVFP4"]
    assert peak_flops(fp8, H100) == 1979e12
    assert peak_flops(fp4, H100) == 989e12
    assert peak_flops(fp8, CATALOG.card("a100")) == 312e12


def test_every_shipped_recipe_has_a_precision() -> None:
    model = architecture(LLAMA_70B)
    for recipe in CATALOG.recipes.values():
        assert Precision.of(recipe, model).weight_bytes(model) > 0


def test_room_is_what_the_weights_leave() -> None:
    model = architecture(LLAMA_70B)
    alone = room(model, BF16, H100, Layout(), 5500)
    assert alone.sequences == 0
    assert "weights per card leave no room for a cache" in alone.reason
    spread = room(model, BF16, H100, Layout(tensor=4), 5500)
    # 0.92 of 78.4 GiB, less 32.9 GiB of weights and 2 % of them, in tokens of 80 KiB.
    assert spread.cache_tokens == pytest.approx((72.1 - 32.9 * 1.02 - 1.86) * 2**20 / 80, rel=0.01)
    assert spread.reason == ""
    tight = room(model, Precision.of(CATALOG.recipe("fp8_dynamic"), model), H100, Layout(), 100_000)
    assert "a request has up to 100000" in tight.reason or "no room" in tight.reason


def test_sheets_are_found_by_the_name_that_a_driver_gives() -> None:
    def named(name: str) -> list[str]:
        return [card for card, sheet in CATALOG.cards.items() if sheet.is_named(name)]

    assert named("NVIDIA H100 80GB HBM3") == ["h100"]
    assert named("NVIDIA GB200") == ["gb200"]
    assert named("NVIDIA A100-SXM4-80GB") == ["a100"]
    assert named("A100-80G") == ["a100"]
    assert named("NVIDIA GeForce RTX 4090") == []


@pytest.mark.parametrize(
    "name",
    ["NVIDIA H100 PCIe", "NVIDIA H100 NVL", "NVIDIA A100-PCIE-40GB", "NVIDIA A100-SXM4-40GB"],
)
def test_a_slower_variant_of_a_card_has_no_sheet_but_its_own(name: str) -> None:
    assert [card for card in CATALOG.cards.values() if card.is_named(name)] == []
    words = name.removeprefix("NVIDIA ")
    own = CATALOG.card("h100").model_copy(update={"accelerator": words})
    assert own.is_named(f"8 x {name}")


def test_a_recipe_of_an_unknown_backend_is_no_baseline() -> None:
    update = {"backend": "own", "options": {"a": 1}}
    recipe = CATALOG.recipe("baseline").model_copy(update=update)
    with pytest.raises(ModelError, match="does not know what backend own makes"):
        Precision.of(recipe, architecture(LLAMA_70B))


def test_a_prefix_in_the_cache_is_looked_at_and_not_computed() -> None:
    roofline = Roofline.of(architecture(LLAMA_8B), BF16, H100, Layout())
    whole, rest = roofline.cycle(1, 1000, 2), roofline.cycle(1, 100, 2, kept_tokens=900)
    parts = dict(zip(TERMS, rest / np.maximum(whole, 1e-12), strict=True))
    assert parts["cache"] == pytest.approx(1.0)
    # Each token of the input looks at 950 others on average, not at 500.
    assert parts["attention"] == pytest.approx(100 * 950 / (1000 * 500))
    assert parts["activations"] == pytest.approx(102 / 1002)
