"""The engine flags that exist, so that a wrong one is found before a server is started.

The control environment has no vLLM; ``vllm_flags.yaml`` holds what `dump_flags` read from the
parser of the pinned version.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from typing import Any

import yaml

from optikit_assets.specs.search_space import Scalar

OWNED_BY_SERVER = frozenset(
    {
        "api_key", "api_server_count", "config", "grpc", "grpc_port", "headless", "host", "model",
        "port", "root_path", "served_model_name", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile",
        "trust_remote_code", "uds",
    }
)  # fmt: skip
"""Flags that OptiKIT sets itself, from the model, the lease and the port."""

NOT_SEARCHABLE: dict[str, str] = {
    "max_num_queued_reqs": "it rejects requests with 503, which flatters latency",
    "max_num_queued_tokens": "it rejects requests with 503, which flatters latency",
    "max_model_len": "it follows from the workload of the SLO",
    **dict.fromkeys(
        ("dtype", "quantization", "kv_cache_dtype", "hf_overrides", "model_impl", "load_format"),
        "it changes what the model answers, and the quality gate measured the model without it",
    ),
}
"""Flags that a search may not touch, with the reason. A model's spec may set them."""

CUDA_ONLY = frozenset(
    {
        "async_scheduling", "attention_backend", "cudagraph_capture_sizes", "data_parallel_size",
        "decode_context_parallel_size", "device_memory_utilization", "disable_custom_all_reduce",
        "enable_dbo", "enable_expert_parallel", "enable_flashinfer_autotune",
        "gpu_memory_utilization", "max_cudagraph_capture_size", "moe_backend",
        "pipeline_parallel_size", "prefill_context_parallel_size", "tensor_parallel_size",
    }
)  # fmt: skip
"""Flags without a meaning on one CPU: refused, ignored, or forced by vLLM's CPU platform."""


@dataclass(frozen=True)
class Flag:
    """One engine flag: its type name (see `dump_flags`) and the values it is limited to."""

    name: str
    type: str
    choices: tuple[Any, ...] = ()

    def problem_with(self, value: Scalar) -> str:
        """Say what is wrong with `value`, or return an empty string."""
        expected = _EXPECTED[self.type]
        if self.type != "json" and not _has_type(self.type, value):
            return f"{value!r} is not {expected}"
        if self.choices and value not in self.choices:
            return f"{value!r} is not one of {', '.join(map(str, self.choices))}"
        return ""


_EXPECTED = {
    "bool": "true or false",
    "switch": "true or false",
    "int": "an integer",
    "size": "an integer or text such as 2k",
    "float": "a number",
    "str": "text",
    "json": "a value",
}


def _has_type(kind: str, value: Scalar) -> bool:
    if kind in ("bool", "switch"):
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if kind == "int":
        return isinstance(value, int)
    if kind == "float":
        return isinstance(value, int | float)
    if kind == "size":
        return isinstance(value, int) or (isinstance(value, str) and bool(value))
    return isinstance(value, str | int)  # "str": vLLM writes some integers as text


@lru_cache(maxsize=1)
def known_flags() -> dict[str, Flag]:
    """Return every flag of the pinned vLLM by its name with underscores."""
    content = yaml.safe_load(
        files(__package__ or "optikit_assets.serving")
        .joinpath("vllm_flags.yaml")
        .read_text(encoding="utf-8")
    )
    return {
        name: Flag(name, body["type"], tuple(body.get("choices", ())))
        for name, body in content["flags"].items()
    }


def check_flag(name: str, value: Scalar) -> str:
    """Say what is wrong with one flag set by hand, or return an empty string."""
    flag = known_flags().get(name)
    if flag is None:
        return f"{name}: vLLM has no such flag{_suggestion(name)}"
    if name in OWNED_BY_SERVER:
        return f"{name}: is set by OptiKIT, leave it out"
    problem = flag.problem_with(value)
    return f"{name}: {problem}" if problem else ""


def check_searchable(name: str, values: tuple[Scalar, ...]) -> list[str]:
    """Say what is wrong with a flag of a search space and the values it would take."""
    if name in NOT_SEARCHABLE:
        return [f"parameters.{name}: may not be searched: {NOT_SEARCHABLE[name]}"]
    found = [check_flag(name, value) for value in values]
    return [f"parameters.{problem}" for problem in dict.fromkeys(found) if problem]


def _suggestion(name: str) -> str:
    close = get_close_matches(name, known_flags(), n=1)
    return f"; did you mean {close[0]}?" if close else ""
