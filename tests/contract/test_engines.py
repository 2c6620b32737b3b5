"""The engines that ship with OptiKIT keep the contract."""

from typing import ClassVar

from optikit_assets.engines import Flags
from tests.contract.engine import EngineContract


class TestSglang(EngineContract):
    name = "sglang"
    serves_without_a_gpu = False
    flags: ClassVar[Flags] = {
        "disable_radix_cache": True,
        "max_running_requests": 32,
        "mem_fraction_static": 0.8,
    }


class TestTransformers(EngineContract):
    name = "transformers"
    flags: ClassVar[Flags] = {
        "continuous_batching": True,
        "cb_max_batch_tokens": 512,
        "cb_max_memory_percent": 0.5,
    }


class TestVllm(EngineContract):
    name = "vllm"
    flags: ClassVar[Flags] = {
        "max_num_seqs": 8,
        "max_num_batched_tokens": 512,
        "enforce_eager": True,
    }
