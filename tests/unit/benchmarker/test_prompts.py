import json

import pytest

from optikit_assets.benchmarker.prompts import FilePrompts, SyntheticPrompts
from optikit_assets.specs import Workload


def make(**keys):
    return Workload.model_validate({"output_tokens": 4, **keys})


def ids(source, probe, request):
    return json.loads(source.draw(probe, request).content)


def test_token_prompts_have_the_exact_length_and_share_only_the_prefix():
    workload = make(input_tokens=40, prefix_tokens=24)
    source = SyntheticPrompts(workload, 1, token_ids=range(125, 750))
    prompts = [ids(source, 0, request) for request in range(60)]
    assert {len(prompt) for prompt in prompts} == {40}
    assert len({tuple(prompt[:24]) for prompt in prompts}) == 1
    assert len({tuple(prompt[24:]) for prompt in prompts}) == 60
    assert len({tuple(prompt[24:28]) for prompt in prompts}) == 60


def test_no_two_probes_share_a_prefix():
    source = SyntheticPrompts(make(input_tokens=40, prefix_tokens=24, prefixes=3), 1)
    starts = [{tuple(ids(source, probe, r)[:8]) for r in range(30)} for probe in range(5)]
    assert [len(of_probe) for of_probe in starts] == [3] * 5
    assert len(set.union(*starts)) == 15


def test_each_of_several_prefixes_is_sent_once_before_any_is_drawn():
    source = SyntheticPrompts(make(input_tokens=40, prefix_tokens=24, prefixes=10), 1)
    prefixes = [tuple(ids(source, 2, request)[:24]) for request in range(2000)]
    assert len(set(prefixes[:10])) == 10
    counts = [prefixes[10:].count(prefix) for prefix in prefixes[:10]]
    # Binomial with mean 199 and sd 13.4; seeded, so never flaky.
    assert sum(counts) == 1990
    assert min(counts) > 150
    assert max(counts) < 250


def test_without_a_prefix_no_two_prompts_begin_alike():
    source = SyntheticPrompts(make(input_tokens=64), 1)
    starts = {tuple(ids(source, p, r)[:16]) for p in range(4) for r in range(50)}
    assert len(starts) == 200


def test_prompts_depend_on_seed_probe_and_request_only():
    workload = make(
        input_tokens={"distribution": "uniform", "min": 30, "max": 90},
        output_tokens={"distribution": "uniform", "min": 1, "max": 90},
        prefix_tokens=9,
        prefixes=4,
    )
    source, again = SyntheticPrompts(workload, 5), SyntheticPrompts(workload, 5)
    first = [source.draw(p, r) for p, r in [(0, 0), (2, 3), (2, 9), (0, 7)]]
    assert first == [again.draw(p, r) for p, r in [(0, 0), (2, 3), (2, 9), (0, 7)]]
    assert source.draw(2, 3) != SyntheticPrompts(workload, 6).draw(2, 3)


def test_prompts_are_as_long_as_they_say_whatever_the_distribution():
    workload = make(input_tokens={"distribution": "uniform", "min": 5, "max": 90}, prefix_tokens=4)
    source = SyntheticPrompts(workload, 1)
    drawn = [source.draw(0, request) for request in range(300)]
    assert [len(json.loads(p.content)) for p in drawn] == [p.input_tokens for p in drawn]
    assert len({p.input_tokens for p in drawn}) > 60
    assert source.longest(3).input_tokens == 90


def test_text_prompts_leave_room_for_what_the_server_adds():
    workload = make(input_tokens=12, prefix_tokens=3)
    source = SyntheticPrompts(workload, 1, token_ids=None, text_overhead=2)
    text = ids(source, 0, 0)
    assert source.is_text
    assert len(text.split()) == 10
    assert text.split()[:3] == ids(source, 0, 7).split()[:3]


def test_chat_prompts_are_messages_of_a_user():
    workload = make(input_tokens=12, endpoint="chat")
    source = SyntheticPrompts(workload, 1, token_ids=None, text_overhead=5)
    [message] = ids(source, 0, 0)
    assert message["role"] == "user"
    assert len(message["content"].split()) == 7
    with pytest.raises(ValueError, match="a chat takes text"):
        SyntheticPrompts(workload, 1)


def test_prompt_shorter_than_the_overhead_is_refused():
    with pytest.raises(ValueError, match="leaves no room"):
        SyntheticPrompts(make(input_tokens=2), 1, token_ids=None, text_overhead=2)
    varied = make(input_tokens={"distribution": "uniform", "min": 2, "max": 90})
    with pytest.raises(ValueError, match=r"input_tokens \(2\) leaves no room"):
        SyntheticPrompts(varied, 1, token_ids=None, text_overhead=2)


def test_prefix_and_overhead_leave_every_prompt_a_token_of_its_own():
    workload = make(input_tokens=1200, prefix_tokens=1195, endpoint="chat")
    message = r"input_tokens \(1200\) leaves no room beside prefix_tokens \(1195\) and the 5 tokens"
    with pytest.raises(ValueError, match=message):
        SyntheticPrompts(workload, 1, token_ids=None, text_overhead=5)
    source = SyntheticPrompts(workload, 1, token_ids=None, text_overhead=4)
    assert len({source.draw(0, request).content for request in range(20)}) > 1


@pytest.fixture
def own_prompts(tmp_path):
    rows: list[dict[str, object]] = [{"prompt": f"tell me about {n}"} for n in range(9)]
    rows.append({"prompt": "be brief, please, about ten", "output_tokens": 2})
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(file)


def test_prompts_from_a_file_come_without_repeats_until_all_were_used(own_prompts):
    source = FilePrompts(make(prompts=own_prompts), 1)
    drawn = [source.draw(0, request) for request in range(30)]
    rounds = [[p.content for p in drawn[i : i + 10]] for i in (0, 10, 20)]
    assert all(len(set(one)) == 10 for one in rounds)
    assert len({tuple(one) for one in rounds}) == 3
    assert [source.draw(1, request).content for request in range(10)] not in rounds
    assert source.draw(0, 4) == drawn[4]


def test_prompts_from_a_file_have_their_own_lengths(own_prompts):
    workload = make(prompts=own_prompts)
    drawn = [FilePrompts(workload, 1).draw(0, request) for request in range(10)]
    assert {p.input_tokens for p in drawn} == {-1}
    assert sorted(p.output_tokens for p in drawn) == [2, *[4] * 9]
    assert (workload.max_output_tokens, workload.mean_output_tokens) == (4, 4)
    assert "be brief" in FilePrompts(workload, 1).longest(0).content.decode()


def test_texts_from_a_file_become_messages_of_a_chat(own_prompts):
    content = FilePrompts(make(prompts=own_prompts, endpoint="chat"), 1).draw(0, 0).content
    [message] = json.loads(content)
    assert message["role"] == "user"
    assert "about" in message["content"]


def test_a_prefix_cache_is_kept_apart_between_probes_and_rounds(own_prompts):
    source = FilePrompts(make(prompts=own_prompts), 1)
    scopes = [[source.draw(probe, r).scope for r in range(20)] for probe in (0, 1)]
    assert [len(set(of_probe)) for of_probe in scopes] == [2, 2]
    assert not set(scopes[0]) & set(scopes[1])
