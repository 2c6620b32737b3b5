"""Inference engines behind one protocol; importing this package registers them."""

from optikit_assets.engines.base import (
    Engine,
    HotReconfiguration,
    Launch,
    Offline,
    Place,
    engine_names,
    engine_variables,
    get_engine,
    hot_flags,
    register_engine,
)
from optikit_assets.engines.batching import Batching
from optikit_assets.engines.container import Container, Format
from optikit_assets.engines.flags import FlagCatalog, Flags
from optikit_assets.engines.hardware import Hardware, detect
from optikit_assets.engines.memory import MemoryEstimate
from optikit_assets.engines.model_facts import ModelFacts
from optikit_assets.engines.server import EngineServer
from optikit_assets.engines.sglang.engine import SglangEngine
from optikit_assets.engines.transformers.engine import TransformersEngine
from optikit_assets.engines.vllm.engine import VllmEngine

__all__ = [
    "Batching",
    "Container",
    "Engine",
    "EngineServer",
    "FlagCatalog",
    "Flags",
    "Format",
    "Hardware",
    "HotReconfiguration",
    "Launch",
    "MemoryEstimate",
    "ModelFacts",
    "Offline",
    "Place",
    "SglangEngine",
    "TransformersEngine",
    "VllmEngine",
    "detect",
    "engine_names",
    "engine_variables",
    "get_engine",
    "hot_flags",
    "register_engine",
]
