"""Which of vLLM's flags are OptiKIT's, may be searched, or mean something on a CPU."""

from functools import lru_cache
from pathlib import Path

from optikit_assets.engines.flags import FlagCatalog

_OWNED = frozenset(
    {
        "api_key", "api_server_count", "config", "grpc", "grpc_port", "headless", "host", "model",
        "port", "root_path", "served_model_name", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile",
        "trust_remote_code", "uds",
    }
)  # fmt: skip
_NOT_SEARCHABLE = {
    "max_num_queued_reqs": "it rejects requests with 503, which flatters latency",
    "max_num_queued_tokens": "it rejects requests with 503, which flatters latency",
    "max_model_len": "it follows from the workload of the SLO",
    **dict.fromkeys(
        ("dtype", "quantization", "kv_cache_dtype", "hf_overrides", "model_impl", "load_format"),
        "it changes what the model answers, and the quality gate measured the model without it",
    ),
}
_TEXT_DEPENDENT = {"speculative_config": "how many guessed words are right depends on the text"}
# Refused, ignored, or forced by vLLM's CPU platform.
_CUDA_ONLY = frozenset(
    {
        "async_scheduling", "attention_backend", "cudagraph_capture_sizes", "data_parallel_size",
        "decode_context_parallel_size", "device_memory_utilization", "disable_custom_all_reduce",
        "enable_dbo", "enable_expert_parallel", "enable_flashinfer_autotune",
        "gpu_memory_utilization", "max_cudagraph_capture_size", "moe_backend",
        "pipeline_parallel_size", "prefill_context_parallel_size", "tensor_parallel_size",
    }
)  # fmt: skip


@lru_cache(maxsize=1)
def catalog() -> FlagCatalog:
    """Return the flags of the pinned vLLM."""
    return FlagCatalog.read(
        Path(__file__).with_name("flags.yaml"),
        "vLLM",
        owned=_OWNED,
        not_searchable=_NOT_SEARCHABLE,
        gpu_only=_CUDA_ONLY,
        text_dependent=_TEXT_DEPENDENT,
    )
