"""What clients fetched of a release: held against what was certified, and served by vLLM."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import yaml

from optikit_assets.artifacts.manifest import MANIFEST
from optikit_assets.engines import EngineServer, get_engine
from optikit_assets.environments.layout import python_path
from optikit_assets.settings import settings

CONFIG = "vllm.yaml"
RECORDS = ("deployment.json", "report.html")

_START_LIMIT_S = 300.0


def digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file below a folder, by its path there."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def differences(folder: Path, certified: Path, has_bundle: bool = True) -> list[str]:
    """Return in what a release that a client fetched differs from what was certified here.

    Parameters
    ----------
    folder
        With ``model/``, and ``bundle/`` where a client fetches that too.
    certified
        The bundle on this machine. The engine's file there and the one that was fetched may differ
        in the model's folder alone.
    """
    mine = _flags(certified)
    # What the store and a fetch wrote down beside the files is no part of a model.
    sent = {
        name: found
        for name, found in digests(Path(mine["model"])).items()
        if name != MANIFEST and not name.startswith(".")
    }
    told = _unlike(sent, digests(folder / "model"))
    if has_bundle:
        records, found = digests(certified), digests(folder / "bundle")
        told += _unlike({n: records[n] for n in RECORDS}, {n: found.get(n, "") for n in RECORDS})
        theirs = _flags(folder / "bundle")
        if {**theirs, "model": ""} != {**mine, "model": ""}:
            told.append(f"the flags are {theirs}, certified were {mine}")
    return told


def _unlike(sent: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    return [
        *(f"{name} is missing" for name in sorted(sent.keys() - found.keys())),
        *(f"{name} was not sent" for name in sorted(found.keys() - sent.keys())),
        *(f"{n} differs" for n in sorted(sent.keys() & found.keys()) if sent[n] != found[n]),
    ]


def serve(folder: Path) -> str:
    """Let vLLM serve what was pulled, by the pulled file, and return its answer."""
    engine = get_engine("vllm")
    flags = _flags(folder / "bundle")
    config = folder / CONFIG
    config.write_text(yaml.safe_dump({**flags, "model": str(folder / "model")}), encoding="utf-8")
    with EngineServer(
        engine,
        config,
        log_file=folder / "vllm.log",
        python=python_path(settings().envs_home, "serve"),
        timeout_s=_START_LIMIT_S,
    ) as server:
        asked = {
            "model": flags["served-model-name"],
            "prompt": "Q: Write lemon three times with commas.\nA:",
            "max_tokens": 24,
            "temperature": 0,
        }
        answer = httpx.post(f"{server.base_url}/completions", json=asked, timeout=60)
        answer.raise_for_status()
    return answer.json()["choices"][0]["text"].strip().partition("\n")[0]


def _flags(bundle: Path) -> dict[str, Any]:
    return yaml.safe_load((bundle / CONFIG).read_text(encoding="utf-8"))
