import json

import pytest

from optikit_assets.benchmarker.prompts import PromptSource, safe_token_ids
from optikit_assets.specs.slo import Workload


def _ids(source, probe, request):
    return json.loads(source.fragment(probe, request))


def test_token_prompts_have_the_exact_length_and_share_only_the_prefix():
    workload = Workload(input_tokens=40, output_tokens=4, prefix_tokens=24)
    source = PromptSource(workload, 1, token_ids=safe_token_ids(1000))
    prompts = [_ids(source, probe, request) for probe in range(3) for request in range(20)]
    assert {len(prompt) for prompt in prompts} == {40}
    assert len({tuple(prompt[:24]) for prompt in prompts}) == 1
    assert len({tuple(prompt[24:]) for prompt in prompts}) == 60
    assert len({tuple(prompt[24:28]) for prompt in prompts}) == 60


def test_without_a_prefix_no_two_prompts_begin_alike():
    source = PromptSource(Workload(input_tokens=64, output_tokens=4), 1)
    starts = {tuple(_ids(source, p, r)[:16]) for p in range(4) for r in range(50)}
    assert len(starts) == 200


def test_prompts_depend_on_seed_probe_and_request_only():
    workload = Workload(input_tokens=8, output_tokens=4)
    assert PromptSource(workload, 5).fragment(2, 3) == PromptSource(workload, 5).fragment(2, 3)
    assert PromptSource(workload, 5).fragment(2, 3) != PromptSource(workload, 6).fragment(2, 3)


def test_text_prompts_leave_room_for_what_the_server_adds():
    workload = Workload(input_tokens=12, output_tokens=4, prefix_tokens=3)
    source = PromptSource(workload, 1, token_ids=None, text_overhead=2)
    text = json.loads(source.fragment(0, 0))
    assert source.is_text
    assert len(text.split()) == 10
    assert text.split()[:3] == json.loads(source.fragment(1, 7)).split()[:3]


def test_prompt_shorter_than_the_overhead_is_refused():
    with pytest.raises(ValueError, match="leaves no room"):
        PromptSource(Workload(input_tokens=2, output_tokens=1), 1, token_ids=None, text_overhead=2)


@pytest.mark.parametrize("size", [8, 100, 32_000, 151_936])
def test_safe_ids_stay_inside_the_vocabulary_and_off_its_ends(size):
    ids = safe_token_ids(size)
    assert len(ids) >= 2
    assert min(ids) >= 1
    assert max(ids) < size
    with pytest.raises(ValueError, match="at least 8"):
        safe_token_ids(4)
