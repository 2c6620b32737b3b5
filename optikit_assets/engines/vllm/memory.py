"""The size of vLLM's key-value cache on a CPU."""

from optikit_assets.engines.hardware import Hardware
from optikit_assets.engines.model_facts import ModelFacts

_MIB = 1024**2
_CACHE_SHARE = 4
_CACHE_MIN_BYTES = 256 * _MIB
_CACHE_MAX_BYTES = 8 * 1024 * _MIB


def cpu_kv_cache_bytes(
    hardware: Hardware, facts: ModelFacts | None, *, max_model_len: int, max_num_seqs: int
) -> int:
    """Return the size of the key-value cache on a CPU, in whole MiB.

    Enough for `max_num_seqs` sequences of full length, within a quarter of the machine's memory:
    vLLM's own default takes 92 % of it and refuses to start when anything else is in use. It
    depends on total memory, not on free memory, so that equal machines get equal flags.
    """
    ceiling = max(_CACHE_MIN_BYTES, min(_CACHE_MAX_BYTES, hardware.memory_bytes // _CACHE_SHARE))
    wanted = ceiling
    if facts is not None:
        wanted = facts.kv_bytes_per_token() * max_model_len * max_num_seqs
    size = min(ceiling, max(_CACHE_MIN_BYTES, wanted))
    return -(-size // _MIB) * _MIB
