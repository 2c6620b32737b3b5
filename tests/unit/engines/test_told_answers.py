"""vLLM's own bar tells of answers as they come, and keeps no engine alive."""

import gc
import weakref
from typing import Any

from optikit_assets.engines.vllm.offline import tell_answers
from optikit_assets.stateval.harness import Answered


class Engine:
    """Counts prompts, then answers, as `vllm.LLM.generate` does; ``bars`` are what it got."""

    def __init__(self, bars: list[Any]) -> None:
        self.bars = bars

    def generate(self, prompts: list[str], *, use_tqdm: Any) -> list[str]:
        self.bars.append(use_tqdm)
        for what in ("Rendering prompts", "Processed prompts"):
            with use_tqdm(total=len(prompts), desc=what) as bar:
                for _ in prompts:
                    bar.update(1)
        return prompts


class Model:
    """What lm-eval makes of an engine."""

    def __init__(self, engine: Engine) -> None:
        self.model = engine
        self.cache_hook: Any = None


def test_each_answer_is_told_when_it_comes_and_the_engine_can_go_afterwards() -> None:
    told: list[tuple[int, int, str]] = []
    bars: list[Any] = []
    model = Model(Engine(bars))
    tell_answers(model)
    model.cache_hook = Answered(lambda *part: told.append(part), 3)
    assert model.model.generate(["a", "b", "c"], use_tqdm=False) == ["a", "b", "c"]
    assert told == [(1, 3, "items"), (2, 3, "items"), (3, 3, "items")]
    engine = weakref.ref(model.model)
    del model
    gc.collect()
    # Whoever keeps a bar's class, as the library's monitor may, keeps no engine with it.
    assert bars
    assert engine() is None
