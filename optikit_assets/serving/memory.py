"""Whether a model fits, estimated before an accelerator is touched.

Notation: ``w`` weight bytes of the checkpoint, ``t`` tensor-parallel size, ``k`` cache bytes of
one token on one device, ``n`` = max_model_len, ``m`` device memory, ``u`` =
gpu_memory_utilization. vLLM gives the cache what is left of ``u * m`` after weights and
activations, and refuses to start unless one sequence of ``n`` tokens fits:

    w / t + activations + k * n <= u * m

Deviation: activations are not profiled; a share of the weights stands in for them, so the estimate
is only used to refuse what cannot fit by a clear distance, never to promise that it does.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from optikit_assets.serving.hardware import Hardware
from optikit_assets.serving.model_facts import ModelFacts
from optikit_assets.specs.search_space import Scalar

GPU_MEMORY_UTILIZATION = 0.92
"""Default of vLLM 0.32."""

_ACTIVATION_SHARE = 0.02
_GIB = 1024**3
_MIB = 1024**2
_CPU_CACHE_SHARE = 4
_CPU_CACHE_MIN_BYTES = 256 * _MIB
_CPU_CACHE_MAX_BYTES = 8 * _GIB


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device.

    Parameters
    ----------
    weights_bytes, activation_bytes
        What the model itself takes.
    kv_bytes_per_token
        Cache of one token.
    required_bytes
        Least that is needed to serve one sequence of the longest length.
    budget_bytes
        What vLLM may use of the device.
    """

    weights_bytes: int
    activation_bytes: int
    kv_bytes_per_token: int
    required_bytes: int
    budget_bytes: int

    @property
    def fits(self) -> bool:
        """Whether the least that is needed is within the budget."""
        return self.required_bytes <= self.budget_bytes

    @property
    def reason(self) -> str:
        """Why it does not fit, and what to do; empty if it does."""
        if self.fits:
            return ""
        return (
            f"needs at least {self.required_bytes / _GIB:.1f} GiB per device "
            f"({self.weights_bytes / _GIB:.1f} GiB of weights), {self.budget_bytes / _GIB:.1f} GiB "
            "are available; use more devices, a smaller recipe or a shorter workload"
        )


def estimate(
    facts: ModelFacts, hardware: Hardware, flags: Mapping[str, Scalar], *, max_model_len: int
) -> MemoryEstimate:
    """Estimate the memory of one device under the given engine flags."""
    ranks = int(flags.get("tensor_parallel_size", 1)) * int(flags.get("pipeline_parallel_size", 1))
    weights = facts.weights_bytes // max(1, ranks)
    activations = int(weights * _ACTIVATION_SHARE)
    per_token = facts.kv_bytes_per_token(
        str(flags.get("kv_cache_dtype", "auto")), int(flags.get("tensor_parallel_size", 1))
    )
    if hardware.kind == "cpu":
        budget = hardware.memory_bytes
    else:
        share = float(flags.get("gpu_memory_utilization", GPU_MEMORY_UTILIZATION))
        budget = int(hardware.memory_bytes * share)
    return MemoryEstimate(
        weights_bytes=weights,
        activation_bytes=activations,
        kv_bytes_per_token=per_token,
        required_bytes=weights + activations + per_token * max_model_len,
        budget_bytes=budget,
    )


def cpu_kv_cache_bytes(
    hardware: Hardware, facts: ModelFacts | None, *, max_model_len: int, max_num_seqs: int
) -> int:
    """Return the size of the key-value cache on a CPU, in whole MiB.

    Enough for `max_num_seqs` sequences of full length, within a quarter of the machine's memory:
    vLLM's own default takes 92 % of it and refuses to start when anything else is in use. It
    depends on total memory, not on free memory, so that equal machines get equal flags.
    """
    ceiling = max(
        _CPU_CACHE_MIN_BYTES,
        min(_CPU_CACHE_MAX_BYTES, hardware.memory_bytes // _CPU_CACHE_SHARE),
    )
    wanted = ceiling
    if facts is not None:
        wanted = facts.kv_bytes_per_token() * max_model_len * max_num_seqs
    size = min(ceiling, max(_CPU_CACHE_MIN_BYTES, wanted))
    return -(-size // _MIB) * _MIB
