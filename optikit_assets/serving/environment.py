"""Environment variables of a server process: what it sees, where it writes, how it uses the CPU."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from optikit_assets.environments.variables import server_variables


def server_environment(
    *,
    cache_dir: Path | None = None,
    gpus: Sequence[str] = (),
    base: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the complete environment of a vLLM server: what `server_variables` lets through.

    A worker's ``PYTHONPATH`` was set by OptiKIT, and so goes on.

    Parameters
    ----------
    cache_dir
        Where compiled kernels and model information are kept between starts. None leaves vLLM's
        own choice below the home folder.
    gpus
        Leased devices for ``CUDA_VISIBLE_DEVICES``; empty keeps the inherited value.
    base
        What to start from; the process's own environment by default.
    """
    base = os.environ if base is None else base
    environ = server_variables(base)
    if "PYTHONPATH" in base:
        environ["PYTHONPATH"] = base["PYTHONPATH"]
    environ |= {
        # The model is a local folder: a server never has to ask a hub, nor wait for one.
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    if cache_dir is not None:
        environ |= {
            "VLLM_CACHE_ROOT": str(cache_dir / "vllm"),
            "VLLM_CONFIG_ROOT": str(cache_dir / "vllm-config"),
            "TORCHINDUCTOR_CACHE_DIR": str(cache_dir / "inductor"),
            "TRITON_CACHE_DIR": str(cache_dir / "triton"),
        }
    if gpus:
        environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    return environ
