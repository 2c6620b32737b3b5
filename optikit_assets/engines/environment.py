"""Environment variables of a server process: what it sees and where it writes."""

import os
from collections.abc import Mapping
from pathlib import Path

from optikit_assets.environments.variables import EngineVariables, server_variables


def server_environment(
    variables: EngineVariables,
    *,
    cache_dir: Path | None = None,
    base: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the environment of a server, but for what its engine sets: `server_variables`, mostly.

    A worker's ``PYTHONPATH`` was set by OptiKIT, and so goes on.

    Parameters
    ----------
    variables
        Those of the engine.
    cache_dir
        Where compiled kernels are kept between starts. None leaves it to the libraries.
    base
        What to start from; the process's own environment by default.
    """
    base = os.environ if base is None else base
    environ = server_variables(base, variables)
    if "PYTHONPATH" in base:
        environ["PYTHONPATH"] = base["PYTHONPATH"]
    environ |= {
        # The model is a local folder: a server never has to ask a hub, nor wait for one.
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
    }
    if cache_dir is not None:
        environ |= {
            "TORCHINDUCTOR_CACHE_DIR": str(cache_dir / "inductor"),
            "TRITON_CACHE_DIR": str(cache_dir / "triton"),
        }
    return environ
