"""Stands in for ``python -m vllm.entrypoints.openai.api_server``: an imitation that may die.

``python -m tests.servers.vllm_stand_in MODEL AFTER --port=PORT`` breaks every connection after so
many completion requests; vLLM's other arguments are ignored.
"""

import argparse
import signal
import sys
from pathlib import Path

from optikit_assets.settings import REPOSITORY
from tests.servers.imitation import Behaviour, running


def install(python: Path, model: str, after: int) -> Path:
    """Write an interpreter of a serve environment that runs the stand-in whatever it is asked."""
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text(
        f"#!/bin/sh\ncd {REPOSITORY}\n"
        f'exec "{sys.executable}" -m tests.servers.vllm_stand_in {model} {after} -- "$@"\n'
    )
    python.chmod(0o755)
    return python


def main() -> None:
    """Serve until this process is told to end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("after", type=int)
    parser.add_argument("ignored", nargs="*")
    known = parser.parse_args()
    (port,) = (a.partition("=")[2] for a in known.ignored if a.startswith("--port="))
    behaviour = Behaviour(
        slots=2, prefill_s=0.03, token_s=0.01, model=known.model, fault="die", after=known.after
    )
    with running(behaviour, int(port)):
        signal.pause()


if __name__ == "__main__":
    main()
