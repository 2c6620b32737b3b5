"""The whole benchmark against imitation servers, in real time over loopback."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest

from optikit_assets.benchmarker import (
    ClientLimits,
    confirm_rate,
    read_requests,
    run_benchmark,
)
from optikit_assets.engines.requests import Requests
from optikit_assets.errors import EndpointError
from optikit_assets.specs.slo import Objective, SearchBudget, SloSpec, Workload
from tests.servers.imitation import Behaviour, running

pytestmark = [pytest.mark.slow, pytest.mark.serial]

LIMITS = ClientLimits(connect_s=1.0, first_request_s=1.0, idle_s=2.0)
# Bounds are wide: other processes may hold up the loopback by tens of milliseconds.
SERVER = Behaviour(slots=2, prefill_s=0.03, token_s=0.01)


def make_slo(max_ms=2000.0, percentile=80, workload=None, **budget):
    values = {
        "min_probe_seconds": 1.0,
        "max_probe_seconds": 5.0,
        "min_probe_requests": 10,
        "warmup_requests": 2,
        "closed_loop_requests": 3,
        "max_probes": 4,
        "max_load_seconds": 16.0,
        "tolerance": 0.5,
    }
    return SloSpec(
        name="test",
        workload=workload or load(prefix_tokens=4),
        objectives=(Objective(metric="e2e_latency", percentile=percentile, max_ms=max_ms),),
        budget=SearchBudget(**{**values, **budget}),
    )


def bench(behaviour, slo, **kwargs):
    with running(behaviour) as server:
        return run_benchmark(
            base_url=server.base_url,
            model=kwargs.pop("model", "imitation"),
            slo=slo,
            seed=kwargs.pop("seed", 1),
            limits=LIMITS,
            **kwargs,
        )


def load(**keys):
    return Workload.model_validate({"input_tokens": 16, "output_tokens": 4, **keys})


def confirm(server, slo, **kwargs):
    return confirm_rate(
        base_url=server.base_url,
        model="imitation",
        slo=slo,
        rate_rps=20.0,
        seed=1,
        limits=LIMITS,
        **kwargs,
    )


def test_benchmark_certifies_a_rate_and_records_every_request(tmp_path):
    file, seen, progress = tmp_path / "deep" / "requests.jsonl.gz", [], []
    result = bench(
        SERVER,
        make_slo(),
        initial_rate_rps=8.0,
        requests_file=file,
        on_probe=seen.append,
        on_progress=progress.append,
        gpus=2,
    )
    assert result.status == "feasible"
    assert result.certified_probe is not None
    best = result.probes[result.certified_probe]
    # By itself, or by all probes together where the machine disturbs one of them.
    assert best.met
    assert result.certified_rate_rps == min(best.rate_rps, best.achieved_rate_rps)
    assert result.rate_per_gpu_rps == result.certified_rate_rps / 2
    assert result.rate_ci_rps[0] <= result.certified_rate_rps
    assert [probe.kind for probe in seen[:2]] == ["closed", "open"]
    assert seen == list(result.probes)
    assert result.load_seconds == pytest.approx(sum(p.duration_s for p in seen))
    assert {"rate_rps", "sent", "finished", "elapsed_s"} <= set(progress[-1])
    records = list(read_requests(file))
    assert len(records) == sum(probe.sent for probe in result.probes)
    measured = [r for r in records if r.probe == 1 and r.phase == "measured"]
    assert len(measured) == result.probes[1].requests
    assert all(r.output_tokens == 4 and r.input_tokens == 16 for r in measured if r.ok)
    assert all(len(r.itl_s) == 3 for r in measured if r.ok)
    assert all(r.sent_s >= r.scheduled_s - 1e-3 for r in measured)
    assert type(result).model_validate_json(result.model_dump_json()) == result
    keys = {f"{m}_p{p}" for m in ("e2e_latency", "ttft", "tpot", "itl") for p in (50, 90, 95, 99)}
    assert keys | {"e2e_latency_p80", "e2e_latency_mean"} == set(best.latency_ms)


def test_requests_of_the_ladder_are_recorded(tmp_path):
    file = tmp_path / "requests.jsonl.gz"
    result = bench(SERVER, make_slo(max_probes=1), requests_file=file)
    rungs = [record for record in read_requests(file) if record.phase == "ladder"]
    assert {rung.clients for rung in result.ladder} <= {-record.probe for record in rungs}
    for rung in result.ladder:
        answered = [r for r in rungs if r.probe == -rung.clients and r.ok]
        # At most as many in flight as there are clients, and all of it is here.
        spans = [(r.sent_s, 1) for r in answered] + [(r.finished_s, -1) for r in answered]
        assert np.cumsum([step for _, step in sorted(spans)]).max() == rung.clients
        assert len(answered) >= 2 * rung.clients


def test_slo_missed_with_no_queueing_is_infeasible():
    result = bench(SERVER, make_slo(max_ms=20.0))
    assert result.status == "infeasible"
    assert result.certified_rate_rps == 0.0
    assert [probe.kind for probe in result.probes] == ["closed"]
    assert "e2e_latency_p80" in result.closest
    assert "against 20 ms" in result.closest


def test_overload_is_noticed_early_and_leaves_nothing_behind():
    slo = make_slo(max_ms=300.0, min_probe_seconds=6.0, max_probe_seconds=20.0)
    started = time.monotonic()
    with running(SERVER) as server:
        probe = confirm_rate(
            base_url=server.base_url,
            model="imitation",
            slo=slo,
            rate_rps=3 * SERVER.capacity_rps(4),
            seed=1,
            limits=LIMITS,
        )
        # The server notices closed connections a little later.
        give_up = time.monotonic() + 2.0
        while not server.dropped and time.monotonic() < give_up:
            time.sleep(0.02)
        assert server.dropped > 0
    assert probe.verdict == "fail"
    # Half of the shortest probe to fill the server, and less than the shortest probe.
    assert time.monotonic() - started < 9.0


def test_server_that_dies_during_the_search_is_an_endpoint_error():
    seen = []
    with pytest.raises(EndpointError, match="died"):
        bench(
            Behaviour(slots=2, prefill_s=0.03, token_s=0.01, fault="die", after=15),
            make_slo(),
            on_probe=seen.append,
        )
    assert not any(probe.verdict == "pass" for probe in seen[1:])


def test_server_that_dies_during_a_confirmation_is_a_fail():
    with running(Behaviour(fault="die", after=10)) as server:
        probe = confirm_rate(
            base_url=server.base_url,
            model="imitation",
            slo=make_slo(),
            rate_rps=20.0,
            seed=1,
            limits=LIMITS,
        )
    assert probe.verdict == "fail"


@pytest.mark.parametrize("fault", ["http_429", "http_500", "malformed", "truncated"])
def test_failing_requests_never_certify_a_rate(fault):
    behaviour = Behaviour(slots=2, prefill_s=0.03, token_s=0.01, fault=fault, after=9)
    with running(behaviour) as server:
        probe = confirm_rate(
            base_url=server.base_url,
            model="imitation",
            slo=make_slo(),
            rate_rps=20.0,
            seed=1,
            limits=LIMITS,
        )
    assert probe.verdict == "fail"
    assert "failed" in probe.reason
    assert probe.error_examples


def test_server_that_hangs_ends_within_the_limits():
    behaviour = Behaviour(slots=2, prefill_s=0.03, token_s=0.01, fault="hang", after=12)
    with pytest.raises(EndpointError, match="did not become idle within 2 s"):
        bench(behaviour, make_slo(max_ms=400.0))


def test_server_that_ignores_ignore_eos_is_invalid():
    result = bench(Behaviour(slots=2, prefill_s=0.03, token_s=0.01, fault="short"), make_slo())
    assert result.status == "unresolved"
    assert result.certified_rate_rps == 0.0
    assert result.probes[0].verdict == "invalid"
    assert "ignore_eos" in result.reason


def test_endpoint_that_is_down_is_an_endpoint_error():
    with running(SERVER) as server:
        url = server.base_url
    with pytest.raises(EndpointError, match="cannot be reached"):
        run_benchmark(base_url=url, model="m", slo=make_slo(), seed=1, limits=LIMITS)


def test_model_unknown_to_the_server_is_an_endpoint_error():
    with pytest.raises(EndpointError, match="does not serve model 'other'; it serves: imitation"):
        bench(SERVER, make_slo(), model="other")


def test_model_unknown_to_a_server_that_lists_none_is_an_endpoint_error():
    with pytest.raises(EndpointError, match="model other does not exist"):
        bench(Behaviour(lists_models=False), make_slo(), model="other")


def test_prompts_longer_than_the_context_are_an_endpoint_error():
    with pytest.raises(EndpointError, match="context of 19 tokens, but the workload needs 20"):
        bench(Behaviour(max_model_len=19), make_slo())


@pytest.mark.parametrize("fault", ["http_503", "hang", "malformed"])
def test_server_that_never_answers_properly_is_an_endpoint_error(fault):
    with pytest.raises(EndpointError, match="a single request failed"):
        bench(Behaviour(fault=fault), make_slo())


def test_server_without_token_ids_gets_text_of_the_exact_length():
    behaviour = Behaviour(
        slots=2, prefill_s=0.03, token_s=0.01, takes_token_ids=False, takes_extensions=False
    )
    with running(behaviour) as server:
        result = run_benchmark(
            base_url=server.base_url,
            model="imitation",
            slo=make_slo(max_probes=1),
            initial_rate_rps=8.0,
            seed=1,
            limits=LIMITS,
        )
        body = server.bodies[-1]
    assert result.probes[-1].verdict != "invalid"
    assert len(body["prompt"].split()) + behaviour.text_overhead == 16
    assert "ignore_eos" not in body


class OtherRequests(Requests):
    """As an engine asks that knows neither the usual extensions nor the end of a stream."""

    lists_models = False
    takes_token_ids = False
    ends_with_reason = True

    def exact_length(self, tokens):
        return {"length": tokens}

    def own_cache(self, salt):
        return {}


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_an_engine_is_asked_in_its_own_way(endpoint, tmp_path):
    file = tmp_path / "requests.jsonl"
    behaviour = replace(
        SERVER,
        takes_token_ids=False,
        takes_extensions=False,
        takes_salt=False,
        lists_models=False,
        ends_with_reason=True,
        characters=True,
    )
    slo = make_slo(workload=load(endpoint=endpoint))
    with running(behaviour) as server:
        probe = confirm_rate(
            base_url=server.base_url,
            model="imitation",
            slo=slo,
            rate_rps=4.0,
            seed=1,
            limits=LIMITS,
            requests=OtherRequests(),
            requests_file=file,
        )
        # The first was of words, which have more characters than the prompt may have tokens.
        bodies = server.bodies[1:]
    assert probe.verdict == "pass"
    assert {body["length"] for body in bodies} <= {1, 4}
    assert not {"ignore_eos", "cache_salt"} & bodies[-1].keys()
    records = [record for record in read_requests(file) if record.ok]
    assert {(record.input_tokens, record.output_tokens) for record in records} == {(16, 4)}
    # What ends the stream is no token.
    assert {len(record.itl_s) for record in records} == {3}


def test_server_that_refuses_salts_still_gets_answers_of_fixed_length():
    with running(replace(SERVER, takes_salt=False)) as server:
        probe = confirm(server, make_slo())
        body = server.bodies[-1]
    assert probe.verdict != "invalid"
    assert "cache_salt" not in body
    assert body["ignore_eos"] is True


def test_probes_and_runs_share_no_prefix_and_no_cache():
    with running(SERVER) as server:
        for _ in range(2):
            run_benchmark(
                base_url=server.base_url,
                model="imitation",
                slo=make_slo(max_probes=1),
                seed=1,
                limits=LIMITS,
            )
        bodies = server.bodies
    prompts = {(body["cache_salt"], tuple(body["prompt"])) for body in bodies}
    assert len(prompts) == len(bodies)
    assert {len(prompt) for _, prompt in prompts} == {16}
    prefixes = {}
    for salt, prompt in prompts:
        prefixes.setdefault(salt, set()).add(prompt[:4])
    assert all(len(shared) == 1 for shared in prefixes.values())
    runs = {}
    for salt, (shared,) in prefixes.items():
        runs.setdefault(salt.partition(".")[0], []).append(shared)
    # The closed probe, the ladder, the open probe and what is sent outside them, in two runs.
    assert len(runs) == 2
    for shared_by_probe in runs.values():
        assert len(shared_by_probe) >= 4
        assert len(set(shared_by_probe)) == len(shared_by_probe)


def test_every_shared_prefix_is_warm_before_requests_are_measured(tmp_path):
    workload = load(prefix_tokens=4, prefixes=16)
    file = tmp_path / "requests.jsonl"
    with running(SERVER) as server:
        confirm(server, make_slo(workload=workload), requests_file=file)
        sent = [tuple(body["prompt"][:4]) for body in server.bodies]
    records = list(read_requests(file))
    warmup = [record for record in records if record.phase == "warmup"]
    # More where the server was slow to answer: the time until a probe counts goes by its latency.
    assert len(warmup) >= 16
    outside = len(sent) - len(records)
    assert len(set(sent[outside : outside + 16])) == 16
    assert len(set(sent[outside:])) == 16


VARIED = {
    "input_tokens": {"distribution": "uniform", "min": 8, "max": 40},
    "output_tokens": {"distribution": "lognormal", "mean": 4, "std": 2, "min": 2, "max": 12},
}


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_varied_lengths_are_exact_for_every_request(endpoint, tmp_path):
    slo = make_slo(workload=load(**VARIED, prefix_tokens=2, endpoint=endpoint), max_probes=1)
    file = tmp_path / "requests.jsonl"
    with running(SERVER) as server:
        result = run_benchmark(
            base_url=server.base_url,
            model="imitation",
            slo=slo,
            seed=1,
            initial_rate_rps=8.0,
            limits=LIMITS,
            requests_file=file,
        )
    # Whether the rate is certain is the machine's to say.
    assert result.probes[-1].verdict != "invalid"
    records = [record for record in read_requests(file) if record.ok]
    inputs, outputs = ({getattr(r, f"{w}_tokens") for r in records} for w in ("input", "output"))
    assert len(inputs) > 8
    assert (min(inputs) >= 8, max(inputs) <= 40) == (True, True)
    assert len(outputs) > 3
    assert (min(outputs) >= 2, max(outputs) <= 12) == (True, True)
    assert all(len(record.itl_s) == record.output_tokens - 1 for record in records)


def test_server_that_shortens_varied_answers_is_invalid():
    behaviour = replace(SERVER, fault="short")
    result = bench(behaviour, make_slo(workload=load(**VARIED)))
    assert result.probes[0].verdict == "invalid"
    assert "another number of output tokens" in result.reason


def test_chat_template_longer_than_the_shortest_prompt_is_an_endpoint_error():
    with pytest.raises(EndpointError, match=r"input_tokens \(8\) leaves no room beside the 9"):
        bench(
            replace(SERVER, template_tokens=9),
            make_slo(workload=load(**VARIED, endpoint="chat")),
        )


def test_trace_is_replayed_with_its_lengths(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {"timestamp": t, "input_tokens": i, "output_tokens": o}
        for t, i, o in zip(
            np.cumsum(rng.exponential(1.0, 500)).tolist(),
            rng.integers(8, 40, 500).tolist(),
            rng.integers(2, 6, 500).tolist(),
            strict=True,
        )
    ]
    (tmp_path / "trace.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    workload = load(
        input_tokens={"distribution": "trace"},
        output_tokens={"distribution": "trace"},
        arrivals="trace",
        trace=str(tmp_path / "trace.jsonl"),
    )
    file = tmp_path / "requests.jsonl"
    with running(SERVER) as server:
        probe = confirm(server, make_slo(workload=workload), requests_file=file)
    assert probe.verdict != "invalid"
    records = list(read_requests(file))
    pairs = [(row["input_tokens"], row["output_tokens"]) for row in rows] * 2
    seen = [(record.input_tokens, record.output_tokens) for record in records if record.ok]
    start = next(i for i in range(500) if pairs[i : i + len(seen)] == seen)
    gaps = np.diff([record.scheduled_s for record in records])
    in_trace = np.diff([row["timestamp"] for row in rows] * 2)[start : start + len(gaps)]
    inside = in_trace > 0
    assert np.ptp(gaps[inside] / in_trace[inside]) < 0.01


@pytest.mark.parametrize("takes_salt", [True, False])
def test_prompts_that_may_have_been_cached_are_named(tmp_path, takes_salt):
    row = json.dumps({"prompt": "tell me about the number nine"})
    (tmp_path / "prompts.jsonl").write_text(row, encoding="utf-8")
    workload = load(input_tokens=None, prompts=str(tmp_path / "prompts.jsonl"))
    behaviour = replace(SERVER, takes_salt=takes_salt)
    result = bench(behaviour, make_slo(workload=workload, max_probes=1), initial_rate_rps=8.0)
    with running(behaviour) as server:
        probe = confirm(server, make_slo(workload=workload))
    for reason in (result.reason, probe.reason):
        assert ("refuses cache_salt" in reason) is not takes_salt


@pytest.mark.parametrize("takes_salt", [True, False])
def test_made_up_prompts_may_have_been_cached_by_a_benchmark_of_the_same_seed(takes_salt):
    with running(replace(SERVER, takes_salt=takes_salt)) as server:
        reason = confirm(server, make_slo()).reason
    assert ("refuses cache_salt" in reason) is not takes_salt
    assert ("--seed" in reason) is not takes_salt


def test_nobody_can_have_asked_a_fresh_server_for_the_same_prompts():
    with running(replace(SERVER, takes_salt=False)) as server:
        reason = confirm(server, make_slo(), fresh=True).reason
    assert "cache_salt" not in reason


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_a_server_that_says_it_had_the_first_prompt_is_believed_whatever_it_took(endpoint):
    slo = make_slo(workload=load(endpoint=endpoint))
    with running(replace(SERVER, tells_cached=True)) as server:
        first, again = (confirm(server, slo).reason for _ in range(2))
    assert "--seed" not in first
    assert "had the first prompt in its prefix cache" in again
    assert "--seed" in again


def test_prompts_from_a_file_are_sent_as_they_are(tmp_path):
    texts = [f"tell me about the number {n}" for n in range(40)]
    rows = [{"messages": [{"role": "user", "content": text}]} for text in texts]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    workload = load(input_tokens=None, prompts=str(tmp_path / "prompts.jsonl"), endpoint="chat")
    file = tmp_path / "requests.jsonl"
    with running(SERVER) as server:
        probe = confirm(server, make_slo(workload=workload), requests_file=file)
        bodies = server.bodies
    assert probe.verdict != "invalid"
    assert {body["messages"][0]["content"] for body in bodies} <= set(texts)
    records = [record for record in read_requests(file) if record.ok]
    # Six words and the template's five tokens.
    assert {(record.input_tokens, record.output_tokens) for record in records} == {(11, 4)}
