"""From specs and tuned values to the engine flags a server is started with.

Order of precedence: tuned values, then the model's own engine flags, then what follows from the
workload and the machine. What is not named here stays at the engine's default.
"""

from collections.abc import Mapping
from typing import Any

import yaml

from optikit_assets.errors import ModelError, SpecError
from optikit_assets.serving.flag_catalog import CUDA_ONLY, check_flag, known_flags
from optikit_assets.serving.hardware import Hardware
from optikit_assets.serving.memory import cpu_kv_cache_bytes
from optikit_assets.serving.model_facts import ModelFacts
from optikit_assets.serving.support import compute_dtype
from optikit_assets.specs import EngineSpec, SloSpec
from optikit_assets.specs.search_space import Scalar

Flags = dict[str, Scalar]

_GIB = 1024**3


def max_model_len(engine: EngineSpec, slo: SloSpec, facts: ModelFacts | None = None) -> int:
    """Return the context length to serve a workload with.

    ``ceil(1.15 * (input + output))`` of the longest request (paper section 4.4), at most what the
    model knows; all of that where the length of prompts from a file is unknown. A value in the
    model's engine flags wins.

    Raises
    ------
    ModelError
        If the workload is longer than the model or its engine flags allow, or neither says how long
        a prompt may be.
    """
    limit = facts.max_positions if facts else None
    fixed = _integer(engine.flags.get("max_model_len"))
    longest = slo.workload.max_input_tokens
    need = (longest or 0) + slo.workload.max_output_tokens
    allowed = limit if fixed is None else fixed
    if allowed is not None and need > allowed:
        source = "the model" if fixed is None else "engine.flags.max_model_len of the model's spec"
        raise ModelError(
            f"SLO {slo.name}: input_tokens + output_tokens = {need}, but {source} allows {allowed} "
            "tokens; shorten the workload or use a model with a longer context"
        )
    if fixed is not None:
        return fixed
    if longest is None:
        if limit is None:
            raise ModelError(
                f"SLO {slo.name}: the prompts' length is unknown, and so is the model's context: "
                "set input_tokens to the longest prompt's"
            )
        return limit
    # Integers only: 1.15 * n is not exact in floating point.
    wanted = -(-115 * need // 100)
    return wanted if limit is None else min(wanted, limit)


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
    hardware: Hardware | None = None,
    facts: ModelFacts | None = None,
    trust_remote_code: bool = False,
) -> Flags:
    """Merge everything that decides how the server runs.

    Parameters
    ----------
    engine
        Flags that hold for this model in every stage.
    slo
        Gives the context length; None leaves it to the engine.
    tuned
        Values of a search, empty for the engine's default.
    hardware
        Leaves out what a CPU does not have, chooses its compute type and sizes its cache; None
        changes nothing.
    facts
        Bounds the context length and sizes the cache.
    trust_remote_code
        Run Python code that comes with the model.

    Returns
    -------
    dict
        Flag name with underscores -> value, sorted by name.

    Raises
    ------
    SpecError
        If a flag does not exist or has a value of the wrong type.
    ModelError
        If the workload does not fit into the model's context.
    """
    given: Flags = {**engine.flags, **(tuned or {})}
    problems = [problem for name, value in given.items() if (problem := check_flag(name, value))]
    if problems:
        raise SpecError("engine flags", problems)
    flags: Flags = {}
    dtype = engine.dtype if hardware is None else compute_dtype(engine, hardware)
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
        flags = {name: value for name, value in flags.items() if name not in CUDA_ONLY}
    flags = repair(flags, hardware)
    if hardware is not None and hardware.kind == "cpu" and "kv_cache_memory_bytes" not in flags:
        size = flags.get("max_model_len") or (facts.max_positions if facts else None)
        flags["kv_cache_memory_bytes"] = cpu_kv_cache_bytes(
            hardware,
            facts if isinstance(size, int) else None,
            max_model_len=size if isinstance(size, int) else 0,
            max_num_seqs=_integer(flags.get("max_num_seqs"))
            or _integer(default_batch_limits(hardware)["max_num_seqs"])
            or 1,
        )
    return dict(sorted(flags.items()))


def repair(flags: Mapping[str, Scalar], hardware: Hardware | None = None) -> Flags:
    """Return `flags` with the constraints that vLLM checks at start-up made true.

    - ``max_num_seqs <= max_num_batched_tokens``: the number of sequences gives way,
    - ``max_num_active_seqs <= max_num_seqs``,
    - ``long_prefill_token_threshold <= max_model_len``,
    - ``max_num_batched_tokens >= max_model_len`` without chunked prefill: the batch grows.

    Only values that are in `flags` are compared, with the engine's defaults standing in for the
    two batch limits when `hardware` is known.
    """
    repaired = dict(flags)
    defaults = default_batch_limits(hardware) if hardware else {}
    length = _integer(repaired.get("max_model_len"))
    tokens = _integer(
        repaired.get("max_num_batched_tokens", defaults.get("max_num_batched_tokens"))
    )
    sequences = _integer(repaired.get("max_num_seqs", defaults.get("max_num_seqs")))
    if repaired.get("enable_chunked_prefill") is False and length and tokens and tokens < length:
        repaired["max_num_batched_tokens"] = tokens = length
    if tokens and sequences and sequences > tokens:
        repaired["max_num_seqs"] = sequences = tokens
    active = _integer(repaired.get("max_num_active_seqs"))
    if active and sequences and active > sequences:
        repaired["max_num_active_seqs"] = sequences
    threshold = _integer(repaired.get("long_prefill_token_threshold"))
    if threshold and length and threshold > length:
        repaired["long_prefill_token_threshold"] = length
    return repaired


def gpus_of(flags: Mapping[str, Scalar]) -> int:
    """Return how many accelerators a server with these flags occupies."""
    count = 1
    for name in ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"):
        count *= _integer(flags.get(name)) or 1
    return count


def accelerators_of(engine: EngineSpec, tuned: Mapping[str, Scalar], hardware: Hardware) -> int:
    """Return how many accelerators to lease for this model's engine; a CPU is one."""
    return 1 if hardware.kind == "cpu" else gpus_of({**engine.flags, **tuned})


def to_argv(flags: Mapping[str, Scalar]) -> list[str]:
    """Return the flags as command-line arguments."""
    argv: list[str] = []
    for name, value in flags.items():
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            if value:
                argv.append(option)
            elif known_flags()[name].type == "bool":
                argv.append("--no-" + option.removeprefix("--"))
        else:
            # One word, so that a value that begins with a dash is not taken for an option.
            argv.append(f"{option}={value}")
    return argv


def to_yaml(
    flags: Mapping[str, Scalar], *, model: str, served_model_name: str, header: str = ""
) -> str:
    """Return a file for vLLM's ``--config``.

    Keys are written with hyphens: vLLM looks a false switch up as ``--no-KEY`` and silently drops
    it when it finds none. Host and port are left out, so that they can be given beside the file.

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
    content |= {name.replace("_", "-"): value for name, value in flags.items()}
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header.splitlines())
    return comment + yaml.safe_dump(content, sort_keys=False, width=100, allow_unicode=True)


def from_yaml(text: str) -> Flags:
    """Read the engine flags back from a file that `to_yaml` wrote."""
    content = yaml.safe_load(text) or {}
    return {
        key.replace("-", "_"): value
        for key, value in content.items()
        if key not in ("model", "served-model-name")
    }


def _integer(value: Scalar | None) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
