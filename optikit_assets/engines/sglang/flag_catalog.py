"""Which of SGLang's flags are OptiKIT's, or may not be searched."""

from functools import lru_cache
from pathlib import Path

from optikit_assets.engines.flags import FlagCatalog

_OWNED = frozenset(
    {
        "admin_api_key", "api_key", "base_gpu_id", "config", "device", "dist_init_addr",
        "fastapi_root_path", "host", "model_path", "nccl_port", "nnodes", "node_rank", "port",
        "served_model_name", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "trust_remote_code",
        "use_ray",
    }
)  # fmt: skip
_NOT_SEARCHABLE = {
    "context_length": "it follows from the workload of the SLO",
    "max_queued_requests": "it rejects requests, which flatters latency",
    **dict.fromkeys(
        (
            "dtype", "json_model_override_args", "kv_cache_dtype", "load_format", "model_impl",
            "quantization", "sampling_defaults", "speculative_algorithm",
        ),
        "it changes what the model answers, and the quality gate measured the model without it",
    ),
}  # fmt: skip
# Of what is published nothing runs without a GPU; these would mean nothing anyhow.
_CUDA_ONLY = frozenset({"dp_size", "mem_fraction_static", "pp_size", "tp_size"})


@lru_cache(maxsize=1)
def catalog() -> FlagCatalog:
    """Return the flags of the version that ``flags.yaml`` names."""
    return FlagCatalog.read(
        Path(__file__).with_name("flags.yaml"),
        "SGLang",
        owned=_OWNED,
        not_searchable=_NOT_SEARCHABLE,
        gpu_only=_CUDA_ONLY,
    )
