# pyright: standard, reportMissingImports=false
# The libraries behind this module have no types and live in another environment.
"""vLLM in the worker's own process, as lm-eval's model.

It runs in its deterministic mode unless asked otherwise: one process, fixed seed (paper section
5.3, Table 4). Memory of a GPU is not given back for certain within one process, so on a GPU each
process gets one candidate.
"""

import contextlib
import gc
import importlib.metadata
import logging
import os
import weakref
from collections.abc import Generator
from typing import Any

from optikit_assets.engines.flags import Flags
from optikit_assets.engines.vllm.flag_catalog import catalog
from optikit_assets.errors import EvaluationError, reason_of
from optikit_assets.scratch import scratch
from optikit_assets.specs import EngineSpec, SuiteSpec

log = logging.getLogger("optikit.evaluate")

_CPU_KV_CACHE_GIB = "2"
EVALUATED_WITH: Flags = {"data_parallel_size": 1}
"""Copies of a model answer alike, and lm-eval has them in Ray alone."""


class VllmOffline:
    """See `optikit_assets.engines.base.Offline`."""

    @contextlib.contextmanager
    def prepared(self, *, deterministic: bool) -> Generator[dict[str, str]]:
        mode = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0" if deterministic else "1"}
        os.environ.update(mode)
        # vLLM divides by the elapsed time of its progress bar, which a disabled bar does not count.
        os.environ.pop("TQDM_DISABLE", None)
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        # The default takes half of the memory. Only the CPU build reads it.
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", _CPU_KV_CACHE_GIB)
        # One for the whole process: vLLM keeps the first path that it reads.
        with scratch("vllm") as sockets:
            # The sockets between its processes, which it leaves behind.
            os.environ["VLLM_RPC_BASE_PATH"] = str(sockets)
            yield mode

    def arguments(
        self,
        suite: SuiteSpec,
        spec: EngineSpec,
        model_path: str,
        *,
        seed: int,
        trust_remote_code: bool,
    ) -> dict[str, Any]:
        arguments: dict[str, Any] = {"dtype": spec.dtype, **_offline_flags(spec)}
        if suite.max_model_len is not None:
            arguments["max_model_len"] = suite.max_model_len
        arguments.update(
            pretrained=model_path,
            batch_size=suite.batch_size,
            seed=seed,
            trust_remote_code=trust_remote_code,
        )
        return arguments

    @contextlib.contextmanager
    def opened(self, arguments: dict[str, Any]) -> Generator[Any]:
        module = _adapter()
        from vllm.distributed import cleanup_dist_env_and_memory

        model: Any = None
        try:
            try:
                model = module.VLLM(**arguments)
            except Exception as error:
                reason = reason_of(error, 600)
                raise EvaluationError(
                    f"vLLM cannot load the checkpoint: {type(error).__name__}: {reason}"
                ) from error
            tell_answers(model)
            yield model
        finally:
            # The engine must be unreachable before the process groups go; this also frees its
            # memory.
            model = None
            gc.collect()
            cleanup_dist_env_and_memory()


def tell_answers(model: Any) -> None:
    """Have the model's hook hear of every answer when it comes, not of all of them at the end."""
    from tqdm.auto import tqdm

    # The library's monitor may keep the class of a bar, which must not keep the engine.
    asked = weakref.ref(model)

    class Bar(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            up_to = getattr(getattr(asked(), "cache_hook", None), "up_to", None)
            # The same bar counts prompts before.
            if up_to is not None and self.desc.startswith("Processed"):
                up_to(int(self.n))
            return shown

    generate = model.model.generate
    model.model.generate = lambda *args, **options: generate(*args, **{**options, "use_tqdm": Bar})


def _offline_flags(spec: EngineSpec) -> dict[str, Any]:
    import dataclasses

    from vllm.engine.arg_utils import EngineArgs

    known = {field.name for field in dataclasses.fields(EngineArgs)} - EVALUATED_WITH.keys()
    ignored = sorted(set(spec.flags) - known)
    if ignored:
        log.info("server flags without meaning offline are left out: %s", ", ".join(ignored))
    flags = {name: value for name, value in spec.flags.items() if name in known}
    return catalog().to_arguments(flags)


def _adapter() -> Any:
    """Import lm-eval's vLLM model, also beside the CPU build of vLLM.

    lm-eval asks for the version of a distribution called ``vllm``; the CPU build is installed as
    ``vllm-cpu``. The answer is the one that vLLM itself gives in this case.
    """
    ask = importlib.metadata.version

    def version(name: str) -> str:
        try:
            return ask(name)
        except importlib.metadata.PackageNotFoundError:
            if name != "vllm":
                raise
            return ask("vllm-cpu") + "+cpu"

    importlib.metadata.version = version
    try:
        from lm_eval.models import vllm_causallms
    finally:
        importlib.metadata.version = ask
    vllm_causallms.version = version  # type: ignore[attr-defined]
    return vllm_causallms
