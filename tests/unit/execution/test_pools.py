"""What a pool declares against what its node has."""

from dataclasses import replace
from typing import Any

import pytest

from optikit_assets.engines import Hardware
from optikit_assets.errors import AcceleratorError
from optikit_assets.execution import check_pool
from optikit_assets.specs import PoolSpec
from tests.unit.execution.devices import CPU

# As nvidia-smi reports such a node.
H100 = Hardware(
    kind="cuda",
    name="NVIDIA H100 80GB HBM3",
    count=8,
    memory_bytes=81559 * 2**20,
    devices=tuple("01234567"),
)


def pool(**facts: Any) -> PoolSpec:
    return PoolSpec(name="fast", **facts)


@pytest.mark.parametrize(
    ("card", "name"),
    [
        ("H100", "NVIDIA H100 80GB HBM3"),
        ("NVIDIA H100", "NVIDIA H100 80GB HBM3"),
        ("A100-80G", "NVIDIA A100-SXM4-80GB"),
        ("l40s", "NVIDIA L40S"),
    ],
)
def test_a_card_goes_by_words_of_the_name_that_its_driver_gives(card: str, name: str) -> None:
    hardware = replace(H100, name=name)
    assert check_pool(pool(accelerator=card), hardware) is hardware


@pytest.mark.parametrize(
    ("card", "name"),
    [("A10", "NVIDIA A100-SXM4-80GB"), ("L4", "NVIDIA L40S"), ("H100", "NVIDIA H200")],
)
def test_a_part_of_a_word_is_another_card(card: str, name: str) -> None:
    with pytest.raises(AcceleratorError, match=f"declares accelerator {card}, but its node has 8 "):
        check_pool(pool(accelerator=card), replace(H100, name=name))


def test_what_is_sold_as_80_gib_has_a_little_less() -> None:
    check_pool(pool(memory_gib=80), H100)
    with pytest.raises(AcceleratorError, match=r"declares memory_gib 94, but .* with 79.6 GiB"):
        check_pool(pool(memory_gib=94), H100)


def test_all_that_differs_is_one_line() -> None:
    declared = pool(accelerator="H200", cards_per_node=16, memory_gib=141)
    with pytest.raises(AcceleratorError) as caught:
        check_pool(declared, H100)
    assert str(caught.value) == (
        "pool fast declares accelerator H200, cards_per_node 16, memory_gib 141, but its node has "
        "8 x NVIDIA H100 80GB HBM3 with 79.6 GiB: correct recipes/hardware/fast.yaml, or what its "
        "reach leads to"
    )


def test_a_node_with_more_cards_is_none_the_worse() -> None:
    assert check_pool(pool(cards_per_node=4), H100) is H100


def test_a_node_without_cards_is_declared_as_cpu() -> None:
    assert check_pool(pool(accelerator="cpu", cards_per_node=1, memory_gib=16), CPU) is CPU
