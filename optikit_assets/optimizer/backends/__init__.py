"""Compression libraries behind one protocol; importing this package registers them."""

from optikit_assets.optimizer.backends.autoround import AutoRoundBackend
from optikit_assets.optimizer.backends.base import (
    CompressedModel,
    CompressionBackend,
    backend_names,
    get_backend,
    register_backend,
)
from optikit_assets.optimizer.backends.llmcompressor import LLMCompressorBackend

__all__ = [
    "AutoRoundBackend",
    "CompressedModel",
    "CompressionBackend",
    "LLMCompressorBackend",
    "backend_names",
    "get_backend",
    "register_backend",
]
