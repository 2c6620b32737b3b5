"""SGLang's OpenAI-compatible server."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from optikit_assets.engines.base import Engine, Launch, Place, register_engine
from optikit_assets.engines.batching import Batching
from optikit_assets.engines.context import context_length
from optikit_assets.engines.flags import FlagCatalog, Flags, integer
from optikit_assets.engines.hardware import Hardware
from optikit_assets.engines.memory import MemoryEstimate, estimate
from optikit_assets.engines.model_facts import ModelFacts
from optikit_assets.engines.script import read_script, write_script
from optikit_assets.engines.sglang import support
from optikit_assets.engines.sglang.flag_catalog import catalog
from optikit_assets.engines.sglang.offline import SglangOffline
from optikit_assets.engines.start_failures import LogWords
from optikit_assets.environments.variables import EngineVariables
from optikit_assets.specs import EngineSpec, RecipeSpec, SloSpec
from optikit_assets.specs.search_space import Scalar

_GIB = 1024**3
# Its --config takes no switch that has a --no- twin, so the configuration is a command.
_COMMAND = ("python", "-m", "sglang.launch_server")
_MODEL, _NAME = "--model-path=", "--served-model-name="
# What is left free of a device's memory where mem_fraction_static is not set, at least
# (arg_groups/memory_hook.py).
_RESERVED_BYTES, _RESERVED_ON_LARGE_BYTES, _LARGE_BYTES = 3.5 * _GIB, 10 * _GIB, 60 * _GIB


@register_engine("sglang")
class SglangEngine(Engine):
    """Serves one model by the command of a script, evaluates in the worker's process."""

    name: ClassVar[str] = "sglang"
    title: ClassVar[str] = "SGLang"
    config_file: ClassVar[str] = "sglang-serve.sh"
    commands: ClassVar[tuple[str, ...]] = ("sh sglang-serve.sh --host=127.0.0.1 --port=30000",)
    distributions: ClassVar[tuple[str, ...]] = ("sglang", "sglang-kernel")
    # 200 as soon as a token was generated; /health may say so earlier.
    health_path: ClassVar[str] = "/health_generate"
    parallel_flags: ClassVar[tuple[str, ...]] = ("tp_size", "pp_size", "dp_size")
    batch_flags: ClassVar[tuple[str, ...]] = ("max_running_requests", "chunked_prefill_size")
    variables: ClassVar[EngineVariables] = EngineVariables(
        effective=("SGLANG_*", "SGL_*"), owned=("SGLANG_CACHE_DIR", "SGLANG_PORT")
    )
    log_words: ClassVar[LogWords] = LogWords(
        out_of_memory=(
            r"Not enough memory\. Please try to increase --mem-fraction-static",
            r"leave no GPU memory for the KV cache",
        ),
        port_in_use=(r"port \d+ is in use", r"port is already in use", r"at \d+ is not available"),
        pointers=("Scheduler hit an exception", "Received sigquit from a child process"),
    )

    @property
    def catalog(self) -> FlagCatalog:
        return catalog()

    @property
    def offline(self) -> SglangOffline:
        return SglangOffline()

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
        given = catalog().checked({**spec.flags, **(tuned or {})})
        # One log line per request would cost the cores that serve them.
        flags: Flags = {"log_level_http": "warning"}
        if spec.dtype != "auto":
            flags["dtype"] = spec.dtype
        if slo is not None:
            flags["context_length"] = self.context_length(spec, slo, facts)
        flags |= given
        if trust_remote_code:
            flags["trust_remote_code"] = True
        if hardware is not None and hardware.kind == "cpu":
            flags = {n: value for n, value in flags.items() if n not in catalog().gpu_only}
        return dict(sorted(flags.items()))

    def context_length(
        self, spec: EngineSpec, slo: SloSpec, facts: ModelFacts | None = None
    ) -> int:
        fixed = integer(spec.flags.get("context_length"))
        source = "engine.flags.context_length of the model's spec"
        return context_length(slo, facts, fixed=fixed, source=source)

    def batching(self, flags: Mapping[str, Scalar]) -> Batching:
        return replace(
            super().batching(flags),
            cuts_prompts=flags.get("chunked_prefill_size") != -1,
            keeps_prefixes=flags.get("disable_radix_cache") is not True,
            block_tokens=integer(flags.get("page_size")) or 1,
        )

    def devices(self, flags: Mapping[str, Scalar]) -> int:
        ranks = integer(flags.get("tp_size")) or 1
        return ranks * (integer(flags.get("pp_size")) or 1) * (integer(flags.get("dp_size")) or 1)

    def estimate(
        self,
        facts: ModelFacts,
        hardware: Hardware,
        flags: Mapping[str, Scalar],
        *,
        context_length: int,
    ) -> MemoryEstimate:
        memory = hardware.memory_bytes
        reserved = _RESERVED_ON_LARGE_BYTES if memory > _LARGE_BYTES else _RESERVED_BYTES
        share = flags.get("mem_fraction_static", max(0.0, 1 - reserved / memory))
        tensor_parallel = integer(flags.get("tp_size")) or 1
        return estimate(
            facts,
            hardware,
            context_length=context_length,
            ranks=tensor_parallel * (integer(flags.get("pp_size")) or 1),
            tensor_parallel=tensor_parallel,
            cache_dtype=str(flags.get("kv_cache_dtype", "auto")),
            gpu_share=float(share),
        )

    def unsupported(
        self, recipe: RecipeSpec, spec: EngineSpec, hardware: Hardware, *, experts: bool = False
    ) -> str | None:
        return support.unsupported(recipe, hardware)

    def fallback(self, recipe: RecipeSpec, hardware: Hardware) -> str | None:
        return support.fallback(recipe, hardware)

    def config_text(
        self, flags: Mapping[str, Scalar], *, model: str, served_model_name: str, header: str = ""
    ) -> str:
        named = [_MODEL + model, _NAME + served_model_name]
        return write_script(_COMMAND, [*named, *catalog().to_argv(flags)], header=header)

    def config_flags(self, text: str) -> Flags:
        arguments = read_script(text, _COMMAND)
        return catalog().from_argv([a for a in arguments if not a.startswith((_MODEL, _NAME))])

    def launch(self, config_file: Path, place: Place) -> Launch:
        arguments = read_script(config_file.read_text(encoding="utf-8"), _COMMAND)
        argv = [place.python, *_COMMAND[1:], *arguments]
        cache = place.cache_dir
        environment = {} if cache is None else {"SGLANG_CACHE_DIR": str(cache / "sglang")}
        return Launch([*argv, f"--host={place.host}", f"--port={place.port}"], environment)
