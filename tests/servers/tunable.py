r"""An engine whose capacity follows from its flags, with a cliff, a plateau and a known optimum.

The queueing model of `engine_model` behind vLLM's names of flags. Notation: S ``max_num_seqs``, B
``max_num_batched_tokens``, t ``tensor_parallel_size``, u ``gpu_memory_utilization``.

- S slots; a token takes longer the more requests run: beyond what the SLO leaves room for, more
  slots change nothing (plateau).
- A prompt takes ``ceil(input / B)`` steps, and others' tokens wait for large steps: small B costs
  time to the first token, large B time per token (interaction with S, which it multiplies).
- t cards share the work with a loss, so that the best rate per card depends on the SLO.
- Memory: weights / t + cache of S requests + activations of B tokens have to fit into u of the
  card, or the server does not start (cliff). Above `_TIGHT` of it, with large steps, it starts and
  runs out of memory under load.
- Eager mode is slower and starts sooner; ``stream_interval``, ``block_size`` and
  ``enable_prefix_caching`` matter little.
"""

from dataclasses import dataclass
from functools import cache
from itertools import product
from math import ceil

from optikit_assets.engines import Flags, Hardware
from optikit_assets.specs import SearchSpaceSpec
from optikit_assets.specs.slo import SloSpec
from tests.servers.engine_model import Shape, true_rate

GIB = 1024**3
HARDWARE = Hardware("cuda", "Virtual 40GB", 4, 40 * GIB, devices=("0", "1", "2", "3"))
DEFAULTS: Flags = {
    "tensor_parallel_size": 1,
    "max_num_seqs": 256,
    "max_num_batched_tokens": 2048,
    "gpu_memory_utilization": 0.92,
    "enforce_eager": False,
    "stream_interval": 1,
    "block_size": 16,
    "enable_prefix_caching": True,
}
START_S, COMPILE_S, LOAD_COMPILED_S = 12.0, 14.0, 2.0
_INPUT, _OUTPUT = 512, 32
_CARD_GIB, _WEIGHTS_GIB = 40.0, 14.0
_CACHE_GIB, _STEP_GIB, _GRAPHS_GIB = 0.25, 5.0, 0.02
_TIGHT, _LARGE = 0.935, 4096
# More than the SLOs of the cases leave room for.
_MOST_SLOTS = 64
_TRUTH_REQUESTS = 5_000


@dataclass(frozen=True)
class Truth:
    """What a configuration is: its shape, or why there is none; its start, in seconds.

    ``compile_s`` of the start are spared where another server of the same graphs came before.
    """

    shape: Shape | None
    reason: str
    start_s: float
    compile_s: float
    dies_under_load: bool = False


@dataclass(frozen=True)
class Workload:
    """A case of the benchmark: an SLO, and how heavy the model is."""

    name: str
    slo: SloSpec
    weight: float = 1.0


def _slo(name: str, max_ms: float) -> SloSpec:
    return SloSpec.model_validate(
        {
            "name": name,
            "workload": {"input_tokens": _INPUT, "output_tokens": _OUTPUT},
            "objectives": [{"metric": "e2e_latency", "percentile": 90, "max_ms": max_ms}],
            # Shorter than usual, as the starts are, so that a study takes seconds.
            "budget": {
                "tolerance": 0.05,
                "min_probe_seconds": 6,
                "max_probe_seconds": 30,
                "min_probe_requests": 40,
                "max_probes": 12,
                "max_load_seconds": 480,
            },
        }
    )


CASES = (Workload("tight", _slo("tight", 2300)), Workload("loose", _slo("loose", 5000)))
SPACE = SearchSpaceSpec.model_validate(
    {
        "name": "virtual",
        "trials": 30,
        "startup_trials": 8,
        "parameters": {
            "tensor_parallel_size": {"choices": [1, 2, 4]},
            "max_num_seqs": {"low": 4, "high": 512, "log": True},
            "max_num_batched_tokens": {"low": 256, "high": 16384, "log": True},
            "gpu_memory_utilization": {"min": 0.8, "max": 0.97},
            "enforce_eager": {"choices": [False, True]},
            "stream_interval": {"choices": [1, 4, 8]},
            "block_size": {"choices": [16, 32, 64]},
            "enable_prefix_caching": {"choices": [True, False]},
        },
    }
)


def truth_of(flags: Flags, case: Workload) -> Truth:
    """Return what a server with these flags is."""
    f = {**DEFAULTS, **flags}
    tp, seqs = int(f["tensor_parallel_size"]), int(f["max_num_seqs"])
    tokens, share = int(f["max_num_batched_tokens"]), float(f["gpu_memory_utilization"])
    eager = bool(f["enforce_eager"])
    start_s = START_S + 1.5 * tp
    compile_s = 0.0 if eager else COMPILE_S
    taken = _WEIGHTS_GIB * case.weight / tp + _STEP_GIB * tokens / 8192 / tp
    taken += 0.0 if eager else _GRAPHS_GIB * seqs / tp
    room = share * _CARD_GIB - taken
    if room < 2.0:
        reason = "out of memory: no room for the key-value cache"
        return Truth(None, reason, 0.6 * start_s, compile_s)
    speed = tp**0.62 / case.weight
    slow = (1.15 if eager else 1.0) * (1.0 + 0.05 / float(f["stream_interval"]))
    slow *= {16: 1.0, 32: 0.98, 64: 1.01}[int(f["block_size"])]
    slow *= 1.0 if f["enable_prefix_caching"] else 0.99
    # Steps of many tokens hold up everybody's next one; steps of few leave the card idle.
    share_of_steps = 0.45 + 0.5 * (tokens / 2048) ** 0.7 + 0.05 * 2048 / tokens
    shape = Shape(
        # Requests that the cache has no room for wait, as they would for a slot.
        slots=max(1, min(seqs, int(room * tp / _CACHE_GIB), _MOST_SLOTS)),
        prefill_s=(0.24 + 0.05 * ceil(_INPUT / tokens)) * slow / speed,
        token_s=0.034 * slow / speed,
        growth_s=0.0021 * slow / speed * share_of_steps,
        output_tokens=_OUTPUT,
        tail=0.15,
    )
    return Truth(shape, "", start_s, compile_s, share > _TIGHT and tokens > _LARGE)


@cache
def _rate(shape: Shape, name: str) -> float:
    slo = next(case.slo for case in CASES if case.name == name)
    return true_rate(shape, slo, requests=_TRUTH_REQUESTS)


def true_rate_per_gpu(flags: Flags, case: Workload) -> float:
    """Return the true rate per card of a configuration; 0 if it cannot serve."""
    truth = truth_of(flags, case)
    if truth.shape is None or truth.dies_under_load:
        return 0.0
    return _rate(truth.shape, case.name) / int(flags.get("tensor_parallel_size", 1))


@cache
def optimum(name: str) -> tuple[float, tuple[tuple[str, object], ...]]:
    """Return the highest true rate per card over a grid of the space, and its flags.

    What matters little is at its best; the rest is a grid about as fine as the truth is known.
    """
    case = next(case for case in CASES if case.name == name)
    best: tuple[float, Flags] = (0.0, {})
    for tp, seqs, tokens in product((1, 2, 4), (32, 64), (512, 724, 1024)):
        flags: Flags = {
            "tensor_parallel_size": tp, "max_num_seqs": seqs, "max_num_batched_tokens": tokens,
            "gpu_memory_utilization": 0.92, "stream_interval": 8, "block_size": 32,
            "enable_prefix_caching": False,
        }  # fmt: skip
        rate = true_rate_per_gpu(flags, case)
        if rate > best[0]:
            best = rate, flags
    return best[0], tuple(sorted(best[1].items()))
