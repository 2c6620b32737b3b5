"""From specs and tuned values to the engine flags a server is started with.

Order of precedence: tuned values, then the model's own engine flags, then what follows from the
workload and the machine. What is not named here stays at the engine's default.
"""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from optikit_assets.engines.context import context_length
from optikit_assets.engines.flags import Flags, integer
from optikit_assets.engines.hardware import Hardware
from optikit_assets.engines.model_facts import ModelFacts
from optikit_assets.engines.vllm.flag_catalog import catalog
from optikit_assets.engines.vllm.memory import cpu_kv_cache_bytes
from optikit_assets.specs import EngineSpec, SloSpec
from optikit_assets.specs.search_space import Scalar

_GIB = 1024**3
# Of `SpeculativeMethod`, what `VllmConfig` refuses beside asynchronous scheduling.
_GUESSES_IN_STEP = frozenset({"custom_class", "medusa", "mlp_speculator", "ngram", "suffix"})


def max_model_len(engine: EngineSpec, slo: SloSpec, facts: ModelFacts | None = None) -> int:
    """Return the context length to serve a workload with; one in the model's flags wins."""
    fixed = integer(engine.flags.get("max_model_len"))
    source = "engine.flags.max_model_len of the model's spec"
    return context_length(slo, facts, fixed=fixed, source=source)


def default_batch_limits(hardware: Hardware) -> Flags:
    """Return vLLM 0.32's default ``max_num_seqs`` and ``max_num_batched_tokens`` of its API server.

    They follow the memory of the device (``EngineArgs.get_batch_defaults``).
    """
    if hardware.kind == "cpu":
        return {"max_num_seqs": 128, "max_num_batched_tokens": 2048}
    if hardware.memory_bytes >= 160 * _GIB:
        return {"max_num_seqs": 1024, "max_num_batched_tokens": 16384}
    if hardware.memory_bytes >= 70 * _GIB and "a100" not in hardware.name.lower():
        return {"max_num_seqs": 1024, "max_num_batched_tokens": 8192}
    return {"max_num_seqs": 256, "max_num_batched_tokens": 2048}


def engine_flags(
    engine: EngineSpec,
    slo: SloSpec | None,
    tuned: Mapping[str, Scalar] | None = None,
    *,
    dtype: str,
    hardware: Hardware | None = None,
    facts: ModelFacts | None = None,
    trust_remote_code: bool = False,
) -> Flags:
    """Merge everything that decides how the server runs; see `Engine.flags`.

    On a CPU the cache is sized, too. `dtype` is the compute type that suits the machine.
    """
    given = catalog().checked({**engine.flags, **(tuned or {})})
    flags: Flags = {}
    if dtype != "auto":
        flags["dtype"] = dtype
    if slo is not None:
        flags["max_model_len"] = max_model_len(engine, slo, facts)
    # One log line per request would cost the cores that serve them.
    flags["disable_uvicorn_access_log"] = True
    flags |= given
    if trust_remote_code:
        flags["trust_remote_code"] = True
    if hardware is not None and hardware.kind == "cpu":
        flags = {name: value for name, value in flags.items() if name not in catalog().gpu_only}
    flags = repair(flags, hardware)
    if hardware is not None and hardware.kind == "cpu" and "kv_cache_memory_bytes" not in flags:
        size = flags.get("max_model_len") or (facts.max_positions if facts else None)
        flags["kv_cache_memory_bytes"] = cpu_kv_cache_bytes(
            hardware,
            facts if isinstance(size, int) else None,
            max_model_len=size if isinstance(size, int) else 0,
            max_num_seqs=integer(flags.get("max_num_seqs"))
            or integer(default_batch_limits(hardware)["max_num_seqs"])
            or 1,
        )
    return dict(sorted(flags.items()))


def repair(flags: Mapping[str, Scalar], hardware: Hardware | None = None) -> Flags:
    """Return `flags` with the constraints that vLLM checks at start-up made true.

    - ``max_num_seqs <= max_num_batched_tokens``: the number of sequences gives way,
    - ``max_num_active_seqs <= max_num_seqs``,
    - ``long_prefill_token_threshold <= max_model_len``,
    - ``max_num_batched_tokens >= max_model_len`` without chunked prefill: the batch grows,
    - ``async_scheduling`` beside guesses that need the tokens of the step before, such as n-grams
      of the text: left to the engine, which then does without.

    Only values that are in `flags` are compared, with the engine's defaults standing in for the
    two batch limits when `hardware` is known.
    """
    repaired = dict(flags)
    defaults = default_batch_limits(hardware) if hardware else {}
    length = integer(repaired.get("max_model_len"))
    tokens = integer(repaired.get("max_num_batched_tokens", defaults.get("max_num_batched_tokens")))
    sequences = integer(repaired.get("max_num_seqs", defaults.get("max_num_seqs")))
    if repaired.get("enable_chunked_prefill") is False and length and tokens and tokens < length:
        repaired["max_num_batched_tokens"] = tokens = length
    if tokens and sequences and sequences > tokens:
        repaired["max_num_seqs"] = sequences = tokens
    active = integer(repaired.get("max_num_active_seqs"))
    if active and sequences and active > sequences:
        repaired["max_num_active_seqs"] = sequences
    threshold = integer(repaired.get("long_prefill_token_threshold"))
    if threshold and length and threshold > length:
        repaired["long_prefill_token_threshold"] = length
    if repaired.get("async_scheduling") is True and _guesses_in_step(repaired):
        del repaired["async_scheduling"]
    return repaired


def _guesses_in_step(flags: Mapping[str, Scalar]) -> bool:
    try:
        given = json.loads(str(flags.get("speculative_config", "{}")))
        # Without a method it follows from the model, which may be a kind of guess by itself.
        method = str(given.get("method") or given.get("model"))
    except (ValueError, AttributeError):
        return False  # the engine says what is wrong with it
    return given.get("disable_padded_drafter_batch") is True or method in _GUESSES_IN_STEP


def gpus_of(flags: Mapping[str, Scalar]) -> int:
    """Return how many accelerators a server with these flags occupies."""
    count = 1
    for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
        count *= integer(flags.get(name)) or 1
    return count


def to_yaml(
    flags: Mapping[str, Scalar], *, model: str, served_model_name: str, header: str = ""
) -> str:
    """Return a file for vLLM's ``--config``.

    Keys are written with hyphens, and a false switch as ``no-KEY: true``: ``vllm serve`` silently
    drops ``KEY: false``, for its parser looks the switch up among those of no subcommand. Host and
    port are left out, so that they can be given beside the file.

    Parameters
    ----------
    flags
        Flags as `engine_flags` returns them.
    model
        Path or hub name of the checkpoint.
    served_model_name
        Name that requests use.
    header
        Comment lines for people, without the ``#``.
    """
    content: dict[str, Any] = {"model": model, "served-model-name": served_model_name}
    content |= dict(_entry(name, value) for name, value in flags.items())
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    return comment + yaml.safe_dump(content, sort_keys=False, width=100, allow_unicode=True)


def from_yaml(text: str) -> Flags:
    """Read the engine flags back from a file that `to_yaml` wrote, of earlier releases too."""
    content = yaml.safe_load(text) or {}
    return dict(
        _flag(key.replace("-", "_"), value)
        for key, value in content.items()
        if key not in ("model", "served-model-name")
    )


def _entry(name: str, value: Scalar) -> tuple[str, Scalar]:
    key = name.replace("_", "-")
    return (f"no-{key}", True) if value is False and _has_opposite(name) else (key, value)


def _flag(name: str, value: Scalar) -> tuple[str, Scalar]:
    positive = name.removeprefix("no_")
    opposite = positive != name and name not in catalog().flags and _has_opposite(positive)
    return (positive, not value) if opposite else (name, value)


def _has_opposite(name: str) -> bool:
    """Whether the command line has ``--no-NAME``."""
    flag = catalog().flags.get(name)
    return flag is not None and flag.type == "bool"
