"""Whether a model fits, estimated before an accelerator is touched.

Notation: ``w`` weight bytes of the checkpoint, ``r`` ranks that share the weights, ``k`` cache
bytes of one token on one device, ``n`` context length, ``m`` device memory, ``u`` the share of it
that the engine uses. One sequence of ``n`` tokens has to fit:

    w / r + activations + k * n <= u * m

Deviation: activations are not profiled; a share of the weights stands in for them, so the estimate
is only used to refuse what cannot fit by a clear distance, never to promise that it does.
"""

from dataclasses import dataclass

from optikit_assets.engines.hardware import Hardware
from optikit_assets.engines.model_facts import ModelFacts

_ACTIVATION_SHARE = 0.02
_GIB = 1024**3


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
        What the engine may use of the device.
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
    facts: ModelFacts,
    hardware: Hardware,
    *,
    context_length: int,
    ranks: int = 1,
    tensor_parallel: int = 1,
    cache_dtype: str = "auto",
    gpu_share: float = 1.0,
) -> MemoryEstimate:
    """Estimate the memory of one device.

    Parameters
    ----------
    facts, hardware
        Model and machine.
    context_length
        Longest sequence.
    ranks, tensor_parallel
        Devices that share the weights, and those that share the heads of the cache.
    cache_dtype
        Element of the key-value cache; ``auto`` is the model's own.
    gpu_share
        Share of a GPU's memory that the engine uses; of a machine without one it may use all.
    """
    weights = facts.weights_bytes // max(1, ranks)
    activations = int(weights * _ACTIVATION_SHARE)
    per_token = facts.kv_bytes_per_token(cache_dtype, tensor_parallel)
    share = 1.0 if hardware.kind == "cpu" else gpu_share
    return MemoryEstimate(
        weights_bytes=weights,
        activation_bytes=activations,
        kv_bytes_per_token=per_token,
        required_bytes=weights + activations + per_token * context_length,
        budget_bytes=int(hardware.memory_bytes * share),
    )
