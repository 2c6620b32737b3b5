"""One realistic run: four recipes, one of them refused, the tuned W8A8 model winning."""

import random
from datetime import UTC, datetime
from typing import Any

from optikit_assets.deployment import (
    ConfigFile,
    Held,
    Limits,
    RecipeOutcome,
    ReportData,
    Series,
    Served,
    build_deployment,
    certify,
    select,
)
from optikit_assets.schemas import ArmMeasurement, Deployment, RecoveryRow, StudyResult, Trial
from optikit_assets.specs import Objective, SloSpec, Workload
from tests.unit.schemas.samples import benchmark, probe

CHAT = SloSpec(
    name="chat",
    description="short answers",
    workload=Workload(input_tokens=1200, output_tokens=80, prefix_tokens=200),
    objectives=(Objective(metric="e2e_latency", percentile=95, max_ms=500),),
)
TWO_BOUNDS = SloSpec(
    name="longform",
    workload=Workload(input_tokens=1500, output_tokens=1500, prefix_tokens=1000),
    objectives=(
        Objective(metric="ttft", percentile=50, max_ms=50),
        Objective(metric="tpot", percentile=50, max_ms=10),
    ),
)
TUNED_FLAGS = {"max_num_seqs": 48, "max_num_batched_tokens": 4096}
CONFIG = ConfigFile(
    "vllm.yaml",
    "model: /models/int_w8a8\n"
    "served-model-name: qwen\n"
    "max-model-len: 1472\n"
    "max-num-seqs: 48\n"
    "max-num-batched-tokens: 4096\n",
    ("vllm serve --config vllm.yaml", "python -m vllm.server --config vllm.yaml"),
)


def arm(
    recipe: str, rate=0.0, *, tuned=False, status: Any = None, gpus=1, **more: Any
) -> ArmMeasurement:
    flags: dict[str, Any] = {"flags": dict(TUNED_FLAGS)} if tuned else {}
    return ArmMeasurement(
        recipe=recipe,
        tuned=tuned,
        status=status or ("feasible" if rate else "infeasible"),
        rate_rps=rate,
        gpus=gpus,
        **{**flags, **more},
    )


def outcome(
    recipe: str, default=0.0, tuned_rate=0.0, *, quality: Any = "pass", accepted=True, **more: Any
) -> RecipeOutcome:
    if recipe == "baseline":
        quality = "reference"
    return RecipeOutcome(
        recipe=recipe,
        quality=quality,
        accepted=accepted,
        **{
            "sweep": arm(recipe, default),
            "tuned": arm(recipe, tuned_rate, tuned=True),
            "model_path": f"/models/{recipe}",
            "model_digest": f"sha256:{recipe}",
            **more,
        },
    )


def rows(values, *, margin=0.05):
    full = {"GSM8K": 0.826, "IFEval": 0.773, "Do-Not-Answer": 0.970}
    return tuple(
        RecoveryRow(
            task=task,
            baseline_score=full[task],
            score=full[task] * recovery,
            recovery=recovery,
            low=recovery - width,
            high=recovery + width,
            mean=full[task] * recovery - 0.002,
            std=0.004,
            rsd=0.005,
            verdict=verdict,
            margin=margin,
            items=541,
            gained=14,
            lost=14 + round(541 * full[task] * (1 - recovery)),
            mcnemar_p=0.31,
            trial_scores={
                trial: full[task] * recovery - 0.002 + shift
                for trial, shift in enumerate((0.002, -0.005, 0.004, -0.004, 0.003))
            },
            q_star=0,
            calibration_std=0.0025,
            noise_std=0.0031,
        )
        for task, (recovery, width, verdict) in zip(full, values, strict=True)
    )


def outcomes():
    return [
        outcome("baseline", 3.52, 6.79, checkpoint_bytes=15_200_000_000),
        outcome(
            "fp8_dynamic",
            5.10,
            6.95,
            trials=1,
            recovery=rows(
                [(0.990, 0.02, "pass"), (0.981, 0.04, "inconclusive"), (1.002, 0.01, "pass")]
            ),
            quality="inconclusive",
            checkpoint_bytes=8_100_000_000,
        ),
        outcome(
            "int_w4a16",
            4.20,
            8.1,
            trials=5,
            quality="fail",
            accepted=False,
            reasons=("IFEval recovery 91.8 % [88.9 %, 94.7 %] is below 95 %",),
            recovery=rows(
                [(0.957, 0.02, "inconclusive"), (0.918, 0.029, "fail"), (0.997, 0.01, "pass")]
            ),
            checkpoint_bytes=5_400_000_000,
        ),
        _w8a8(),
    ]


def _w8a8():
    return RecipeOutcome(
        recipe="int_w8a8",
        quality="pass",
        accepted=True,
        recovery=rows([(0.996, 0.02, "pass"), (0.992, 0.03, "pass"), (1.003, 0.01, "pass")]),
        trials=5,
        sweep=arm("int_w8a8", 5.96, rate_ci_rps=(5.8, 6.2), content_key="a1" * 32),
        tuned=arm("int_w8a8", 7.5, tuned=True, rate_ci_rps=(7.3, 7.7), content_key="b2" * 32),
        model_path="/models/int_w8a8",
        model_digest="sha256:int_w8a8",
        checkpoint_bytes=8_700_000_000,
    )


class OneByOne:
    """Serves the arms of a round one after the other, as ``serve`` does, each where it belongs."""

    def serve(self, arm, start_rps, seed):
        raise NotImplementedError

    def search(self, starts, seed):
        return [(start.on or self).serve(start.arm, start.rate_rps, seed) for start in starts]


class Servers(OneByOne):
    """Fresh servers of known capacity: rates up to it hold, rates above miss the SLO.

    ``limits`` is what `serve` reads in each round, by label, in multiples of the capacity; the
    last one goes on. ``broken`` is why the server of an arm does not start.
    """

    def __init__(self, capacity, *, limits=None, broken=None, sd=0.01):
        self.capacity = capacity
        self.limits = limits or {}
        self.broken = broken or {}
        self.sd = sd
        self.searches: list[tuple[str, float, int]] = []
        self.confirmations: list[tuple[str, tuple[float, ...], int]] = []

    def of(self, candidate):
        return self.capacity[candidate.label]

    def probe(self, candidate, rate):
        met = rate <= self.of(candidate)
        return probe(
            rate_rps=rate,
            verdict="pass" if met else "fail",
            reason="" if met else f"e2e_latency_p95 {rate * 70:.0f} ms > 500 ms",
            requests=240,
            duration_s=31.5,
            beta=1.004 if met else 1.31,
            latency_ms={"e2e_latency_p95": min(60 * rate, 9000.0), "ttft_p50": 30.0},
        )

    def serve(self, arm, start_rps, seed):
        number = sum(label == arm.label for label, _, _ in self.searches)
        self.searches.append((arm.label, start_rps, seed))
        if arm.label in self.broken:
            return Served(failure=self.broken[arm.label])
        capacity = self.of(arm)
        seen = self.limits.get(arm.label, [1.0])
        limit = capacity * seen[min(number, len(seen) - 1)]
        rates = (min(start_rps, capacity), 1.02 * capacity, 0.9 * capacity, capacity)
        found = tuple(self.probe(arm, rate) for rate in rates)
        return Served(found, limit, self.sd, 120.0)

    def confirm(self, arm, rates_rps, seed):
        self.confirmations.append((arm.label, rates_rps, seed))
        return Served(tuple(self.probe(arm, rate) for rate in rates_rps), load_seconds=60.0)

    def pool(self, probes):
        held = [i for i, probe in enumerate(probes) if probe.verdict == "pass"]
        if not held:
            return None
        best = max(held, key=lambda i: probes[i].rate_rps)
        return Held(probes[best].rate_rps, best)


LIMITS = Limits(tolerance=0.05, max_rounds=6, max_load_seconds=1e9)


def probes(capacity, *, seed=0, labels=("e2e_latency_p95",), scale=1.0):
    generator = random.Random(seed)
    found = [
        probe(
            kind="closed",
            rate_rps=3.1,
            duration_s=8.0,
            requests=10,
            latency_ms=dict.fromkeys(labels, 310.0 * scale),
        )
    ]
    for factor in (0.4, 0.8, 1.0, 1.03, 1.15, 1.6):
        rate = capacity * factor
        arrivals, clock = [], 0.0
        for _ in range(200):
            clock += generator.expovariate(rate)
            arrivals.append(clock)
        slope = 1.004 if factor <= 1 else 1.0 + (factor - 1)
        completions = [a * slope + 0.3 + generator.expovariate(12) for a in arrivals]
        latency = (310 + 190 * factor**4 - 10) * scale if factor < 1.6 else 2900.0 * scale
        verdict = "pass" if factor <= 1 else "unresolved" if factor < 1.1 else "fail"
        found.append(
            probe(
                rate_rps=rate,
                duration_s=clock,
                requests=200,
                verdict=verdict,
                reason="" if verdict == "pass" else f"{labels[0]} {latency:.0f} ms",
                beta=slope,
                beta_ci=(slope - 0.01, slope + 0.01),
                intercept_s=0.38,
                send_lag_p99_ms=0.8,
                latency_ms=dict.fromkeys(labels, latency),
                arrivals_s=arrivals,
                completions_s=completions,
            )
        )
    return found


def series(label, capacity, **more):
    found = benchmark(capacity, probes=probes(capacity, **more), certified_probe=3)
    return Series(label=label, benchmark=found)


def trials():
    found = []
    for number in range(30):
        status: Any = {5: "failed", 11: "infeasible", 12: "infeasible", 19: "failed"}.get(
            number, "feasible"
        )
        rate = 5.96 if number == 0 else 4.5 + 3 * (1 - abs(number - 22) / 30) * (number % 4) / 3
        found.append(
            Trial(
                number=number,
                status=status,
                rate_rps=rate if status == "feasible" else 0.0,
                flags={}
                if number == 0
                else {"max_num_seqs": 8 * number, "max_num_batched_tokens": 2048},
                reason="CUDA out of memory" if status == "failed" else "",
                fitness=rate,
            )
        )
    return tuple(found)


def evidence(labels=("e2e_latency_p95",)):
    return ReportData(
        series=(
            series("int_w8a8, tuned", 7.5, labels=labels),
            series("baseline", 3.52, seed=1, labels=labels, scale=1.1),
        ),
        study=StudyResult(
            name="int_w8a8",
            trials=trials(),
            importance={"max_num_seqs": 0.71, "max_num_batched_tokens": 0.29},
        ),
        tuned_recipe="int_w8a8",
    )


def claims(found):
    """Return what every configuration can do if its search was right."""
    measured = [arm for item in found for arm in item.measurements]
    return {arm.label: arm.rate_rps for arm in measured if arm.status == "feasible"}


def deployment(found=None, *, servers=None, slo=CHAT) -> Deployment:
    found = outcomes() if found is None else found
    selection = select(found, slo.objectives)
    certification = certify(
        selection.candidates, servers or Servers(claims(found)), seed=7, limits=LIMITS
    )
    return build_deployment(
        model="Qwen2.5-7B-Instruct",
        model_version="1",
        model_digest="sha256:" + "0f" * 32,
        slo=slo,
        outcomes=found,
        selection=selection,
        certification=certification,
        flags={"max_model_len": 1472, **TUNED_FLAGS},
        accelerator="NVIDIA H100 80GB HBM3",
        engine="vllm",
        versions={"vllm": "0.32.0", "llmcompressor": "0.14.0.1", "optikit": "0.1.0"},
        environment={"LD_PRELOAD": "/usr/lib/libtcmalloc.so.4"},
        left_out={"fp8_kv_cache": "its scores are older than the suite"},
        run_ids={"benchmark_sweep": "3f0e", "deployable_config": "9b1c"},
        content_keys={"benchmark_sweep": "a1" * 32, "tuned_config": "b2" * 32},
        created_at=datetime(2026, 11, 21, 10, 0, tzinfo=UTC),
    )


def infeasible_outcomes():
    near: dict[str, Any] = {
        "latency_ms": {"e2e_latency_p95": 540.0},
        "closest": "at 0.5 requests/s e2e_latency_p95 is 540 ms, bound 500 ms",
    }
    far: dict[str, Any] = {
        "latency_ms": {"e2e_latency_p95": 910.0},
        "closest": "at 0.5 requests/s e2e_latency_p95 is 910 ms, bound 500 ms",
    }
    why: dict[str, Any] = {"reason": "the closed-loop probe misses e2e_latency_p95"}
    return [
        outcome(
            "baseline",
            sweep=arm("baseline", **far, **why),
            tuned=arm("baseline", tuned=True, **far, **why),
        ),
        outcome(
            "int_w8a8",
            sweep=arm("int_w8a8", **far, **why),
            tuned=arm("int_w8a8", tuned=True, **near, **why),
        ),
        outcome(
            "int_w4a16",
            4.2,
            4.4,
            quality="fail",
            accepted=False,
            reasons=("IFEval recovery 91.8 % is below 95 %",),
        ),
    ]
