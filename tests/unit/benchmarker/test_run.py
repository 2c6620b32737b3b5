"""The whole benchmark against imitation servers, in real time over loopback."""

import time

import pytest

from optikit_assets.benchmarker import (
    ClientLimits,
    confirm_rate,
    read_requests,
    run_benchmark,
)
from optikit_assets.errors import EndpointError
from optikit_assets.specs.slo import Objective, SearchBudget, SloSpec, Workload
from tests.servers.imitation import Behaviour, running

LIMITS = ClientLimits(connect_s=1.0, first_request_s=1.0, idle_s=2.0)
# Bounds are wide: other processes may hold up the loopback by tens of milliseconds.
SERVER = Behaviour(slots=2, prefill_s=0.03, token_s=0.01)


def make_slo(max_ms=2000.0, percentile=80, **budget):
    values = {
        "min_probe_seconds": 1.0,
        "max_probe_seconds": 2.5,
        "min_probe_requests": 10,
        "warmup_requests": 2,
        "closed_loop_requests": 3,
        "max_probes": 2,
        "max_load_seconds": 8.0,
        "tolerance": 0.5,
    }
    return SloSpec(
        name="test",
        workload=Workload(input_tokens=16, output_tokens=4, prefix_tokens=4),
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


def test_benchmark_certifies_a_rate_and_records_every_request(tmp_path):
    file, seen, progress = tmp_path / "deep" / "requests.jsonl.gz", [], []
    result = bench(
        SERVER,
        make_slo(),
        requests_file=file,
        on_probe=seen.append,
        on_progress=progress.append,
        gpus=2,
    )
    assert result.status == "feasible"
    assert result.certified_probe is not None
    best = result.probes[result.certified_probe]
    assert best.verdict == "pass"
    assert result.certified_rate_rps == min(best.rate_rps, best.achieved_rate_rps)
    assert result.certified_rate_per_gpu_rps == result.certified_rate_rps / 2
    assert result.rate_ci_rps[0] == result.certified_rate_rps
    assert [probe.kind for probe in seen] == ["closed", "open", "open"]
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
    assert keys | {"e2e_latency_p80"} == set(best.latency_ms)


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
        assert server.dropped > 0
    assert probe.verdict == "fail"
    assert time.monotonic() - started < 6.0


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
            seed=1,
            limits=LIMITS,
        )
        body = server.bodies[-1]
    assert result.status == "feasible"
    assert len(body["prompt"].split()) + behaviour.text_overhead == 16
    assert "ignore_eos" not in body


def test_prompts_share_nothing_but_the_prefix_between_probes():
    with running(SERVER) as server:
        run_benchmark(
            base_url=server.base_url,
            model="imitation",
            slo=make_slo(max_probes=1),
            seed=1,
            limits=LIMITS,
        )
        prompts = [tuple(body["prompt"]) for body in server.bodies]
    assert {len(prompt) for prompt in prompts} == {16}
    assert len({prompt[:4] for prompt in prompts}) == 1
    assert len(set(prompts)) == len(prompts)
