"""Which flags of ``transformers serve`` are OptiKIT's, or may not be searched."""

from functools import lru_cache
from pathlib import Path

from optikit_assets.engines.flags import FlagCatalog

_OWNED = frozenset(
    {"device", "enable_cors", "host", "model_timeout", "non_blocking", "port", "trust_remote_code"}
)
_NOT_SEARCHABLE = {
    "default_seed": "it changes nothing where answers are not drawn at random",
    **dict.fromkeys(
        ("dtype", "quantization", "reasoning", "chat_template_kwargs"),
        "it changes what the model answers, and the quality gate measured the model without it",
    ),
}
_CUDA_ONLY = frozenset({"cb_max_memory_percent", "cb_use_cuda_graph"})


@lru_cache(maxsize=1)
def catalog() -> FlagCatalog:
    """Return the flags of the pinned transformers."""
    return FlagCatalog.read(
        Path(__file__).with_name("flags.yaml"),
        "transformers serve",
        owned=_OWNED,
        not_searchable=_NOT_SEARCHABLE,
        gpu_only=_CUDA_ONLY,
    )
