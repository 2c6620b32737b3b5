"""Which layers get more bits, from errors that were made up."""

import pytest

from optikit_assets.errors import CompressionError
from optikit_assets.optimizer.backends.autoround import join_rows
from optikit_assets.optimizer.backends.sensitivity import LayerError, choose, fused_name

BLOCK = "model.layers.0."


def layer(sensitivity: float, weights: int = 100, power: float = 1.0) -> LayerError:
    return LayerError(error=sensitivity * power, power=power, weights=weights)


@pytest.mark.parametrize(
    ("name", "fused"),
    [
        ("self_attn.q_proj", "self_attn.qkv_proj"),
        ("self_attn.v_proj", "self_attn.qkv_proj"),
        ("self_attn.o_proj", "self_attn.o_proj"),
        ("mlp.gate_proj", "mlp.gate_up_proj"),
        ("mlp.up_proj", "mlp.gate_up_proj"),
        ("mlp.down_proj", "mlp.down_proj"),
        ("mlp.experts.3.up_proj", "mlp.experts"),
        ("block_sparse_moe.experts.0.w2", "block_sparse_moe.experts"),
        ("mlp.shared_expert.up_proj", "mlp.shared_expert.gate_up_proj"),
    ],
)
def test_layers_that_the_engine_fuses_have_one_name(name: str, fused: str) -> None:
    assert fused_name(BLOCK + name) == BLOCK + fused


def test_the_most_sensitive_layers_come_first_until_the_share_is_used_up() -> None:
    layers = {"a": layer(0.1), "b": layer(0.3), "c": layer(0.2), "d": layer(0.0)}
    assert choose(layers, 0.25) == ["b"]
    assert choose(layers, 0.5) == ["b", "c"]
    assert choose(layers, 0.74) == ["b", "c"]


def test_a_layer_too_large_for_what_is_left_makes_way_for_the_next() -> None:
    layers = {"a": layer(0.3, 10), "large": layer(0.2, 80), "b": layer(0.1, 10)}
    assert choose(layers, 0.2) == ["a", "b"]


def test_fused_layers_are_chosen_together_by_their_common_error() -> None:
    layers = {
        BLOCK + "self_attn.q_proj": layer(0.9, power=1.0),
        BLOCK + "self_attn.k_proj": layer(0.0, power=99.0),
        BLOCK + "self_attn.o_proj": layer(0.1),
        BLOCK + "mlp.down_proj": layer(0.05),
    }
    # 0.9 / 100 in common: the least sensitive, although q_proj alone is the most.
    assert choose(layers, 0.5) == [BLOCK + "mlp.down_proj", BLOCK + "self_attn.o_proj"]


def test_ties_and_layers_that_no_token_reached_are_settled_by_name() -> None:
    layers = {name: LayerError(0.0, 0.0, 10) for name in "cab"}
    assert choose(layers, 0.4) == ["a"]


def test_a_share_below_the_smallest_layer_is_an_error() -> None:
    with pytest.raises(
        CompressionError, match=r"share 0\.1 is less than the smallest layer's 0\.2"
    ):
        choose({"a": layer(1, 20), "b": layer(1, 80)}, 0.1)


def test_rows_are_joined_in_order_into_sequences_of_one_length() -> None:
    assert join_rows([[1, 2], [3], [4, 5, 6, 7]], 3) == [[1, 2, 3], [4, 5, 6]]
    assert join_rows([[1, 2], [3]], 10) == [[1, 2, 3]]
    with pytest.raises(CompressionError, match="got none"):
        join_rows([], 10)
