"""Calibration data and samplers, recipe to compression, backends (paper section 4.1)."""

from optikit_assets.optimizer.architecture import expert_count, read_linear_layers
from optikit_assets.optimizer.backends import (
    CompressedModel,
    CompressionBackend,
    get_backend,
    register_backend,
)
from optikit_assets.optimizer.calibration import (
    CalibrationData,
    CalibrationRow,
    load_calibration,
    resolve_calibration,
)
from optikit_assets.optimizer.checks import check_plan, sequence_length
from optikit_assets.optimizer.compression import Compression, prepare_compression
from optikit_assets.optimizer.samplers import draw, register_sampler, sampler_names

__all__ = [
    "CalibrationData",
    "CalibrationRow",
    "CompressedModel",
    "Compression",
    "CompressionBackend",
    "check_plan",
    "draw",
    "expert_count",
    "get_backend",
    "load_calibration",
    "prepare_compression",
    "read_linear_layers",
    "register_backend",
    "register_sampler",
    "resolve_calibration",
    "sampler_names",
    "sequence_length",
]
