"""Which nodes a selector chooses, and which pools have nodes in common."""

import pytest

from optikit_assets.execution.ray.selectors import matches, meet

KIND = "ray.io/accelerator-type"
H100, H200 = {KIND: "H100", "rack": "1"}, {KIND: "H200"}


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [("H100", [H100]), ("!H100", [H200]), ("in(H100, A100)", [H100]), ("!in(H100)", [H200])],
)
def test_a_selector_chooses_as_that_of_ray(wanted: str, chosen: list[dict[str, str]]) -> None:
    assert [node for node in (H100, H200) if matches(node, {KIND: wanted})] == chosen


def test_pools_meet_where_a_node_is_in_both() -> None:
    nodes = [H100, H200]
    assert meet({}, {KIND: "H200"}, nodes)
    assert meet({KIND: "in(H100, H200)"}, {"rack": "1"}, nodes)
    assert not meet({KIND: "H100"}, {KIND: "H200"}, nodes)
    # Before an autoscaler has brought any.
    assert meet({KIND: "H100"}, {KIND: "H100"}, [])
    assert not meet({}, {KIND: "H100"}, [])
