"""What a checkpoint's own files say about its size, read without loading it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optikit_assets.errors import ModelError
from optikit_assets.model_files import language_config, read_config

CONFIG = "config.json"
WEIGHTS = ".safetensors"

_BYTES = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}


@dataclass(frozen=True)
class ModelFacts:
    """Sizes that bound how a model can be served.

    Parameters
    ----------
    weights_bytes
        Sum of the safetensors files.
    layers
        Layers that keep keys and values for every token.
    attention_heads, kv_heads, head_dim
        Shape of the attention.
    latent_dim
        Elements per token and layer of a compressed (multi-head latent) cache; 0: none.
    max_positions
        Longest context the model knows; None: not said.
    dtype_bytes
        Bytes of one activation, and so of one cached element with ``kv_cache_dtype: auto``.
    """

    weights_bytes: int
    layers: int
    attention_heads: int
    kv_heads: int
    head_dim: int
    latent_dim: int = 0
    max_positions: int | None = None
    dtype_bytes: int = 2

    @classmethod
    def read(cls, folder: Path) -> "ModelFacts":
        """Read ``config.json`` and the sizes of the weights in `folder`.

        Raises
        ------
        ModelError
            If the configuration is missing, or as `of` does.
        """
        weights = sum(file.stat().st_size for file in folder.glob(f"*{WEIGHTS}"))
        return cls.of(read_config(folder), weights, str(folder / CONFIG))

    @classmethod
    def of(cls, config: dict[str, Any], weights_bytes: int, source: str) -> "ModelFacts":
        """Return the facts in a parsed ``config.json``.

        Parameters
        ----------
        config
            Its content.
        weights_bytes
            Sum of the safetensors files.
        source
            The file as the user knows it, for messages.

        Raises
        ------
        ModelError
            If it lacks a number that is needed.
        """
        text = language_config(config)
        try:
            heads = int(text["num_attention_heads"])
            layers = int(text["num_hidden_layers"])
            head_dim = int(text.get("head_dim") or int(text["hidden_size"]) // heads)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"{source}: {error} is missing or not a number; num_attention_heads, "
                "num_hidden_layers and hidden_size are needed"
            ) from error
        kinds = text.get("layer_types")
        if isinstance(kinds, list):
            # Linear attention keeps one state per sequence, not one entry per token.
            layers = sum("linear" not in str(kind) for kind in kinds)
        dtype = str(text.get("dtype") or text.get("torch_dtype") or "bfloat16")
        return cls(
            weights_bytes=weights_bytes,
            layers=layers,
            attention_heads=heads,
            kv_heads=int(text.get("num_key_value_heads") or heads),
            head_dim=head_dim,
            latent_dim=int(text.get("kv_lora_rank") or 0) + int(text.get("qk_rope_head_dim") or 0)
            if text.get("kv_lora_rank")
            else 0,
            max_positions=_positive(text.get("max_position_embeddings")),
            dtype_bytes=_BYTES.get(dtype.removeprefix("torch."), 2),
        )

    def kv_bytes_per_token(self, kv_cache_dtype: str = "auto", tensor_parallel: int = 1) -> int:
        """Return the bytes one token takes in the cache of one device, all layers together."""
        element = self.dtype_bytes if kv_cache_dtype == "auto" else _element_bytes(kv_cache_dtype)
        if self.latent_dim:
            # The latent vector is replicated on every tensor-parallel rank.
            return self.layers * self.latent_dim * element
        heads = max(1, self.kv_heads // tensor_parallel)
        return self.layers * 2 * heads * self.head_dim * element

    def allows_tensor_parallel(self, size: int) -> bool:
        """Whether the heads can be split over `size` devices evenly.

        Query heads have to divide evenly; key-value heads are split, or replicated evenly when
        there are fewer of them than devices.
        """
        if self.attention_heads % size:
            return False
        return self.kv_heads % size == 0 or size % self.kv_heads == 0


def _element_bytes(dtype: str) -> int:
    if dtype in _BYTES:
        return _BYTES[dtype]
    return 1  # fp8 and int8 variants; 4-bit caches are rounded up


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
