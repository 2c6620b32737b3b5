"""Engine flags, memory estimates, hardware, and the vLLM server process."""

from optikit_assets.serving.flags import (
    accelerators_of,
    default_batch_limits,
    engine_flags,
    from_yaml,
    gpus_of,
    max_model_len,
    repair,
    to_argv,
    to_yaml,
)
from optikit_assets.serving.hardware import Hardware, detect
from optikit_assets.serving.memory import MemoryEstimate, estimate
from optikit_assets.serving.model_facts import ModelFacts
from optikit_assets.serving.server import VllmServer

__all__ = [
    "Hardware",
    "MemoryEstimate",
    "ModelFacts",
    "VllmServer",
    "accelerators_of",
    "default_batch_limits",
    "detect",
    "engine_flags",
    "estimate",
    "from_yaml",
    "gpus_of",
    "max_model_len",
    "repair",
    "to_argv",
    "to_yaml",
]
