# pyright: standard, reportMissingImports=false
# The libraries behind this module have no types and live in another environment.
"""SGLang in the worker's own process, as lm-eval's ``sglang`` model."""

import contextlib
import gc
from collections.abc import Generator
from typing import Any

from optikit_assets.errors import EvaluationError, reason_of
from optikit_assets.specs import EngineSpec, SuiteSpec


class SglangOffline:
    """See `optikit_assets.engines.base.Offline`."""

    @contextlib.contextmanager
    def prepared(self, *, deterministic: bool) -> Generator[dict[str, str]]:
        # Answers are not drawn at random; its batch-invariant mode is a flag of the model's spec.
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
        arguments: dict[str, Any] = {"dtype": spec.dtype, **spec.flags}
        if suite.max_model_len is not None:
            arguments["context_length"] = suite.max_model_len
        arguments.update(
            pretrained=model_path,
            batch_size=suite.batch_size,
            random_seed=seed,
            trust_remote_code=trust_remote_code,
        )
        return arguments

    @contextlib.contextmanager
    def opened(self, arguments: dict[str, Any]) -> Generator[Any]:
        from lm_eval.models.sglang_causallms import SGLangLM

        model: Any = None
        try:
            try:
                model = SGLangLM(**arguments)
            except Exception as error:
                reason = reason_of(error, 600)
                raise EvaluationError(
                    f"SGLang cannot load the checkpoint: {type(error).__name__}: {reason}"
                ) from error
            yield model
        finally:
            if model is not None:
                # Its processes are this one's children.
                model.model.shutdown()
            model = None
            gc.collect()
