"""Which layers quantization hurts most, measured on the calibration rows.

Notation: W the weight of a layer, (n_out, n_in); Q(W) its rounding to the recipe's scheme; x its
inputs over all tokens; h_j = Σ x_j². With inputs taken as uncorrelated, which is the diagonal of
the Hessian that GPTQ works with, the squared error of the output and its size are

    e = Σ_j h_j ‖W_j − Q(W)_j‖²,   p = Σ_j h_j ‖W_j‖²

and the sensitivity is e / p: 0.01 means an output that is 10 % off. Layers that an engine fuses
have one scheme and so one sensitivity, Σ e / Σ p.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optikit_assets.errors import CompressionError

if TYPE_CHECKING:
    from torch import Tensor, device, nn

_WEIGHTS_SHARE = 0.8
"""Of the memory that a device has free: more than that is not kept there from batch to batch, for
activations and logits need some too."""

_FUSED = (
    (re.compile(r"^(.*\.experts)\.\d+\..*$"), r"\1"),
    (re.compile(r"^(.*\.)[qkv]_proj$"), r"\1qkv_proj"),
    (re.compile(r"^(.*\.)(?:gate|up)_proj$"), r"\1gate_up_proj"),
)


@dataclass(frozen=True)
class LayerError:
    """Squared error and squared size of one layer's output, and how many weights it has."""

    error: float
    power: float
    weights: int


def fused_name(layer: str) -> str:
    """Return the name of what an engine makes of a layer: itself, or what it is fused into."""
    for pattern, replacement in _FUSED:
        if pattern.match(layer):
            return pattern.sub(replacement, layer)
    return layer


def choose(layers: Mapping[str, LayerError], share: float) -> list[str]:
    """Return the most sensitive layers that together have at most `share` of all weights, sorted.

    Raises
    ------
    CompressionError
        If not even the smallest layer fits.
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(layers):
        groups.setdefault(fused_name(name), []).append(name)
    sizes = {group: sum(layers[name].weights for name in names) for group, names in groups.items()}
    left = share * sum(sizes.values())
    chosen: list[str] = []
    for group in sorted(groups, key=lambda group: -_sensitivity(layers, groups[group])):
        if sizes[group] <= left:
            left -= sizes[group]
            chosen += groups[group]
    if not chosen:
        smallest = min(sizes.values()) / sum(sizes.values())
        raise CompressionError(
            f"mixed_precision: share {share} is less than the smallest layer's {smallest:.3g}; "
            "raise it"
        )
    return sorted(chosen)


def _sensitivity(layers: Mapping[str, LayerError], names: Iterable[str]) -> float:
    found = [layers[name] for name in names]
    power = sum(layer.power for layer in found)
    return sum(layer.error for layer in found) / power if power > 0 else 0.0


def measure(
    model: Any,
    layers: "Mapping[str, nn.Linear]",
    batches: Iterable[Any],
    scheme: Any,
    device: "device",
) -> dict[str, LayerError]:
    """Run the model on `batches` and compare each layer with its rounding to `scheme`.

    Parameters
    ----------
    model
        In full precision; its weights are where they were afterwards.
    layers
        By name.
    batches
        Keyword arguments of the model.
    scheme
        ``QuantizationArgs`` of the weights.
    device
        Where all of it is computed.
    """
    import torch

    squares: dict[str, Tensor] = {}

    def listener(name: str) -> Any:
        def add(module: Any, inputs: tuple[Any, ...]) -> None:
            rows = inputs[0].detach().double().flatten(end_dim=-2)
            total = rows.square().sum(dim=0)
            squares[name] = squares[name] + total if name in squares else total

        return add

    handles = [layer.register_forward_pre_hook(listener(n)) for n, layer in layers.items()]
    with _computing_on(device, model):
        try:
            with torch.no_grad():
                for batch in batches:
                    model(**batch)
        finally:
            for handle in handles:
                handle.remove()
        # A layer that no token reached, such as an expert that is never chosen, is not sensitive.
        return {
            name: _layer_error(layer.weight.detach(), squares.get(name), scheme)
            for name, layer in layers.items()
        }


@contextlib.contextmanager
def _computing_on(device: "device", model: Any) -> Iterator[None]:
    """Have every module copy its inputs and weights to `device`, as the compression does it.

    Weights stay there from batch to batch if there is room for all; else a module copies its own
    whenever it computes, and is slower for it.
    """
    from compressed_tensors.offload import disable_offloading, remove_dispatch, set_onload_device

    room = _has_room(device, sum(parameter.nbytes for parameter in model.parameters()))
    set_onload_device(model, device)
    try:
        with disable_offloading() if room else contextlib.nullcontext():
            yield
    finally:
        remove_dispatch(model)


def _has_room(device: "device", weight_bytes: int) -> bool:
    """Return whether all weights may be on a device at once; on a CPU they are anyway."""
    import torch

    if device.type == "cpu":
        return True
    free, _ = torch.accelerator.get_memory_info(device)
    return weight_bytes <= _WEIGHTS_SHARE * free


def _layer_error(weight: "Tensor", squares: "Tensor | None", scheme: Any) -> LayerError:
    if squares is None:
        return LayerError(0.0, 0.0, weight.numel())
    difference = (weight - _rounded(weight, scheme)).double().square().sum(dim=0)
    power = weight.double().square().sum(dim=0)
    return LayerError(
        float((squares * difference).sum()), float((squares * power).sum()), weight.numel()
    )


def _rounded(weight: "Tensor", scheme: Any) -> "Tensor":
    """Return the weight after rounding to nearest and back."""
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from llmcompressor.observers import Observer

    observer = Observer.load_from_registry("memoryless_minmax", base_name="weight", args=scheme)
    observer(weight)
    found = observer.get_qparams()
    return fake_quantize(
        weight, found["scale"], found["zero_point"], scheme, global_scale=found["global_scale"]
    )
