# pyright: standard, reportMissingImports=false
# The libraries behind this module have no types and live in another environment.
"""transformers in the worker's own process, as lm-eval's ``hf`` model.

It is the library that the server generates with; of its flags, those that choose how the model
computes hold here too. Items are padded to batches, which the server does not do.
"""

import contextlib
import gc
from collections.abc import Generator
from typing import Any

from optikit_assets.errors import EvaluationError, reason_of
from optikit_assets.specs import EngineSpec, SuiteSpec

_HOW_IT_COMPUTES = ("attn_implementation",)


class TransformersOffline:
    """See `optikit_assets.engines.base.Offline`."""

    @contextlib.contextmanager
    def prepared(self, *, deterministic: bool) -> Generator[dict[str, str]]:
        # Answers are not drawn at random, and one process computes them in one order.
        yield {}

    def arguments(
        self,
        suite: SuiteSpec,
        spec: EngineSpec,
        model_path: str,
        *,
        seed: int,
        trust_remote_code: bool,
    ) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            name: value for name, value in spec.flags.items() if name in _HOW_IT_COMPUTES
        }
        if suite.max_model_len is not None:
            arguments["max_length"] = suite.max_model_len
        arguments.update(
            pretrained=model_path,
            dtype=spec.dtype,
            batch_size=suite.batch_size,
            trust_remote_code=trust_remote_code,
        )
        return arguments

    @contextlib.contextmanager
    def opened(self, arguments: dict[str, Any]) -> Generator[Any]:
        import torch
        from lm_eval.models.huggingface import HFLM

        device = "cuda" if torch.cuda.is_available() else "cpu"
        model: Any = None
        try:
            try:
                model = HFLM(**arguments, device=device)
            except Exception as error:
                reason = reason_of(error, 600)
                raise EvaluationError(
                    f"transformers cannot load the checkpoint: {type(error).__name__}: {reason}"
                ) from error
            yield model
        finally:
            model = None
            gc.collect()
            if device == "cuda":
                torch.cuda.empty_cache()
