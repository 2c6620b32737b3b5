"""A scheduler of vLLM whose limits change while the server runs; for exploring only.

Loaded by the engine itself (``--scheduler-cls``), in the serve environment. It reads a file whose
name is in the environment before it schedules a step, and answers with another file. The limits
it takes were seen to be read at every step by the pinned version: ``max_num_active_reqs`` in place
of ``max_num_seqs`` (to set ``max_num_running_reqs`` crashes the engine),
``max_num_scheduled_tokens`` and ``long_prefill_token_threshold``.
"""

import json
import os
from pathlib import Path
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler  # noqa: TID253 (vLLM loads this)

from optikit_assets.engines.vllm.retuning import ANSWER, FILE_VARIABLE


class RetunableScheduler(AsyncScheduler):
    """vLLM's scheduler with limits from a file, within those that the server was started with."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in ("max_num_active_reqs", "max_num_scheduled_tokens"):
            if not isinstance(getattr(self, name, None), int):
                raise RuntimeError(f"this vLLM's scheduler has no {name}: it cannot be retuned")
        if not hasattr(self.scheduler_config, "long_prefill_token_threshold"):
            raise RuntimeError("this vLLM's scheduler has no long_prefill_token_threshold")
        self._file = Path(os.environ[FILE_VARIABLE])
        self._read_ns = 0
        self._most = (self.max_num_active_reqs, self.max_num_scheduled_tokens)

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Take new limits if there are any, then schedule a step."""
        try:
            written_ns = self._file.stat().st_mtime_ns
        except OSError:
            written_ns = self._read_ns
        if written_ns != self._read_ns:
            self._read_ns = written_ns
            self._take(json.loads(self._file.read_text(encoding="utf-8")))
        return super().schedule(*args, **kwargs)

    def _take(self, limits: dict[str, int]) -> None:
        most_requests, most_tokens = self._most
        self.max_num_active_reqs = min(limits["max_num_active_reqs"], most_requests)
        self.max_num_scheduled_tokens = min(limits["max_num_scheduled_tokens"], most_tokens)
        threshold = limits["long_prefill_token_threshold"]
        self.scheduler_config.long_prefill_token_threshold = threshold
        taken = {
            "max_num_active_reqs": self.max_num_active_reqs,
            "max_num_scheduled_tokens": self.max_num_scheduled_tokens,
            "long_prefill_token_threshold": threshold,
        }
        answer = self._file.with_name(ANSWER)
        # With data parallelism several engine cores answer at once.
        part = answer.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(taken), encoding="utf-8")
        part.replace(answer)
