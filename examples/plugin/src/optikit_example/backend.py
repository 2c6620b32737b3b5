"""A compression backend: how a compression becomes a checkpoint."""

import importlib.metadata
import shutil
import time

from optikit_assets.errors import CompressionError, EnvironmentMissingError
from optikit_assets.optimizer import CompressedModel, Compression, read_linear_layers
from optikit_assets.optimizer.architecture import select_layers

DISTRIBUTIONS = ("optikit-example", "safetensors", "torch")


class MagnitudePruning:
    """Sets the weights of each layer that are closest to zero to zero; needs no data.

    ``options: {share: 0.1}`` in the recipe says how many.
    """

    def versions(self) -> dict[str, str]:
        try:
            return {name: importlib.metadata.version(name) for name in DISTRIBUTIONS}
        except importlib.metadata.PackageNotFoundError as error:
            raise EnvironmentMissingError(f"{error} in the compress environment") from error

    def compress(self, compression: Compression) -> CompressedModel:
        # Heavy libraries inside: the control environment imports this module without having them.
        from safetensors.torch import load_file, save_file

        begin = time.monotonic()
        share = compression.options.get("share")
        if not isinstance(share, float) or not 0 < share < 1:
            raise CompressionError(f"options.share must be a number between 0 and 1, got {share!r}")
        shutil.copytree(compression.model_path, compression.destination, dirs_exist_ok=True)
        layers = select_layers(
            read_linear_layers(compression.model_path), compression.targets, compression.ignore
        )
        for file in compression.destination.glob("*.safetensors"):
            tensors = load_file(file)
            for name, tensor in tensors.items():
                if name.removesuffix(".weight") in layers:
                    smallest = max(1, round(share * tensor.numel()))
                    threshold = tensor.abs().flatten().kthvalue(smallest).values
                    tensors[name] = tensor.masked_fill(tensor.abs() <= threshold, 0)
            save_file(tensors, file, metadata={"format": "pt"})
        return CompressedModel.saved(compression.destination, time.monotonic() - begin)
