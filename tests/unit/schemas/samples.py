"""Results with what a test leaves open filled in."""

from typing import Any

from optikit_assets.schemas import CompletedBenchmark, ProbeResult


def probe(**fields: Any) -> ProbeResult:
    return ProbeResult.model_validate(
        {
            "kind": "open",
            "rate_rps": 2.0,
            "achieved_rate_rps": fields.get("rate_rps", 2.0),
            "completion_rate_rps": 2.0,
            "duration_s": 20.0,
            "requests": 180,
            "sent": 210,
            "errors": 0,
            "verdict": "pass",
            "reason": "",
            "latency_ms": {},
            "latency_ci_ms": {},
            "miss_share": {},
            "effective_requests": {},
            "goodput": 1.0,
            "throughput_tokens_per_s": 160.0,
            **fields,
        }
    )


def benchmark(rate_rps: float = 0.0, **fields: Any) -> CompletedBenchmark:
    return CompletedBenchmark.model_validate(
        {
            "status": "feasible" if rate_rps else "infeasible",
            "certified_rate_rps": rate_rps,
            "rate_ci_rps": (rate_rps * 0.98, rate_rps * 1.03 if rate_rps else None),
            "reason": "as told",
            "model": "m",
            "slo": "chat",
            "seed": 0,
            **fields,
        }
    )
