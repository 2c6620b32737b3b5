r"""What a decoder's ``config.json`` says about its work: parameters, arithmetic and cache.

Notation: a model has L layers of width h, H query heads of d elements, and E experts in some of
its layers, of which every token takes k. A step over t tokens touches :math:`E (1 - (1 - k/E)^t)`
of them if routing is even.

Deviations: biases, norms and the rows of the embedding that are looked up are left out; a layer of
linear attention counts as one of full attention without cache.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optikit_assets.engines.model_facts import ModelFacts
from optikit_assets.errors import ModelError
from optikit_assets.model_files import language_config

# Decoders with gated feed-forward layers of three matrices, which is what is counted below.
KNOWN = frozenset({
    "deepseek_v2", "deepseek_v3", "deepseek_v32", "gemma2", "gemma3", "gemma3_text", "glm4",
    "glm4_moe", "glm_moe_dsa", "gpt_oss", "granite", "kimi_k2", "kimi_k25", "llama", "minimax_m2",
    "ministral", "mistral", "mistral3", "mixtral", "olmo2", "olmo3", "phi3", "qwen2", "qwen2_moe",
    "qwen3", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_moe", "smollm3",
})  # fmt: skip
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
# Where a configuration does not list its layers: every which of them looks at all tokens; 0: none.
_WHOLE_EVERY = {
    "gemma2": 2, "gemma3": 6, "gemma3_text": 6, "gpt_oss": 2, "mistral": 0, "mixtral": 0,
    "olmo3": 4, "phi3": 0,
}  # fmt: skip
# Whose embedding is the output layer's too where a configuration does not say.
_TIED = frozenset({"gemma2", "gemma3", "gemma3_text", "smollm3"})


@dataclass(frozen=True)
class Architecture:
    """A decoder as far as its speed depends on it; parameters are counts, not bytes.

    Attributes
    ----------
    name
        ``model_type`` of its configuration.
    facts
        Shape of attention and cache; its weights' bytes are not used.
    layers, hidden, vocabulary
        Layers (those with linear attention included), width, and rows of the output layer.
    attention_parameters
        Of the attention of all layers.
    dense_parameters
        Of feed-forward layers, shared experts and routers: read and computed for every token.
    expert_parameters
        Of one expert in all the layers that have any.
    experts, experts_per_token
        Routed experts of a layer, and how many of them a token takes; 0: none.
    pair_operations
        Arithmetic per pair of a query and a key in all layers: scores and their sums.
    window, windowed_share
        Tokens that a layer with a sliding window looks back, and the share of such layers.
    own_precision
        ``quant_method`` of a checkpoint that is published quantized; empty: none.
    tied
        Whether embedding and output layer are one matrix.
    """

    name: str
    facts: ModelFacts
    layers: int
    hidden: int
    vocabulary: int
    attention_parameters: float
    dense_parameters: float
    expert_parameters: float = 0.0
    experts: int = 0
    experts_per_token: int = 0
    pair_operations: float = 0.0
    window: int = 0
    windowed_share: float = 0.0
    own_precision: str = ""
    tied: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any], source: str) -> "Architecture":
        """Return what a parsed ``config.json`` says.

        Parameters
        ----------
        config
            Its content.
        source
            The file as the user knows it, for messages.

        Raises
        ------
        ModelError
            In one line, if the architecture is not known or a number is missing.
        """
        text = language_config(config)
        name = str(text.get("model_type") or "")
        if name not in KNOWN:
            raise ModelError(
                f"{source}: the planner does not know the architecture {name or 'without a name'!r}"
                f" (model_type); it knows {', '.join(sorted(KNOWN))}: measure it with `optikit "
                "optimize`"
            )
        facts = ModelFacts.of(dict(config), 0, source)
        get = _Numbers(text, source)
        layers, hidden = get("num_hidden_layers"), get("hidden_size")
        moe_layers = _layers_with_experts(text, layers)
        experts = next((get(key) for key in _EXPERTS if text.get(key)), 0) if moe_layers else 0
        attention, pair = _attention(text, get, facts, hidden)
        width = get("intermediate_size", text.get("moe_intermediate_size"))
        expert_width = get("moe_intermediate_size", width)
        shared = get("shared_expert_intermediate_size", 0) + expert_width * get(
            "n_shared_experts", 0
        )
        dense = 3.0 * hidden * (width * (layers - moe_layers) + shared * moe_layers)
        windowed = _windowed_share(text, name, layers)
        tied = text.get("tie_word_embeddings")
        return cls(
            name=name,
            facts=facts,
            layers=layers,
            hidden=hidden,
            vocabulary=get("vocab_size"),
            attention_parameters=float(attention * layers),
            dense_parameters=dense + float(experts * hidden * moe_layers),
            expert_parameters=3.0 * hidden * expert_width * moe_layers,
            experts=experts,
            experts_per_token=get("num_experts_per_tok") if experts else 0,
            pair_operations=pair * facts.layers,
            window=get("sliding_window", 0) if windowed else 0,
            windowed_share=windowed,
            own_precision=str((text.get("quantization_config") or {}).get("quant_method", "")),
            tied=name in _TIED if tied is None else bool(tied),
        )

    @property
    def head_parameters(self) -> float:
        """Parameters of the output layer."""
        return float(self.hidden * self.vocabulary)

    @property
    def active_expert_parameters(self) -> float:
        """Parameters of the experts that one token takes."""
        return self.expert_parameters * self.experts_per_token

    def experts_touched(self, tokens: float) -> float:
        """Return how many experts of a layer a step over so many tokens reads."""
        if not self.experts:
            return 0.0
        return self.experts * (1.0 - (1.0 - self.experts_per_token / self.experts) ** tokens)

    def seen(self, length: float) -> float:
        """Return how many tokens of a sequence a layer looks at on average."""
        within = min(length, self.window) if self.windowed_share else length
        return length + self.windowed_share * (within - length)


class _Numbers:
    """Whole numbers of a configuration, by name."""

    def __init__(self, text: Mapping[str, Any], source: str) -> None:
        self._text = text
        self._source = source

    def __call__(self, key: str, default: Any = None) -> int:
        value = self._text.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int):
            raise ModelError(f"{self._source}: {key} must be a number to plan with, not {value!r}")
        return value


def _layers_with_experts(text: Mapping[str, Any], layers: int) -> int:
    if not any(text.get(key) for key in _EXPERTS):
        return 0
    dense = text.get("first_k_dense_replace") or 0
    only = text.get("mlp_only_layers") or []
    every = text.get("decoder_sparse_step") or text.get("moe_layer_freq") or 1
    return (layers - int(dense) - len(only)) // (int(every) if isinstance(every, int) else 1)


def _attention(
    text: Mapping[str, Any], get: _Numbers, facts: ModelFacts, hidden: int
) -> tuple[int, float]:
    """Return the parameters of a layer's attention, and its arithmetic per query and key."""
    heads, dim = facts.attention_heads, facts.head_dim
    if not facts.latent_dim:
        parameters = hidden * dim * (2 * heads + 2 * facts.kv_heads)
        if text.get("attn_output_gate"):
            parameters += hidden * dim * heads
        return parameters, 4.0 * heads * dim
    latent, rope = get("kv_lora_rank"), get("qk_rope_head_dim")
    nope, value = get("qk_nope_head_dim"), get("v_head_dim")
    query = get("q_lora_rank", 0)
    width = heads * (nope + rope)
    parameters = query * (hidden + width) if query else hidden * width
    parameters += (
        hidden * (latent + rope) + latent * heads * (nope + value) + heads * value * hidden
    )
    return parameters, 2.0 * heads * (nope + rope + value)


def _windowed_share(text: Mapping[str, Any], name: str, layers: int) -> float:
    if not text.get("sliding_window") or text.get("use_sliding_window") is False:
        return 0.0
    kinds = text.get("layer_types")
    if isinstance(kinds, list):
        caching = [kind for kind in kinds if "linear" not in str(kind)]
        return sum("sliding" in str(kind) for kind in caching) / max(1, len(caching))
    every = text.get("sliding_window_pattern", _WHOLE_EVERY.get(name, 1))
    return 1.0 - (layers // int(every) / layers if every else 0.0)
