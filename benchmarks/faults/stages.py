"""The stages as they are disturbed: what each brings up to date, and when it is in its middle."""

import re
from dataclasses import dataclass

from optikit_assets import graph
from optikit_assets.graph import Flow
from optikit_assets.schemas import BENCHMARK_FILE, STUDY_FILE
from optikit_assets.workers.benchmark import BENCHMARK
from optikit_assets.workers.compress import CHECKPOINT
from tests.definitions.world import MODEL

__all__ = ["MODEL", "RECIPE", "SLO", "STAGES", "Stage", "flow_of"]

RECIPE, SLO = "int_w8a8", "demo"
QUANTIZED = "quantized.bin"
"""What the worker of the plays adds to a checkpoint."""


@dataclass(frozen=True)
class Stage:
    """A stage of the plays.

    Attributes
    ----------
    asset
        What it makes; all that is upstream of it is there when it is disturbed.
    finished
        What the driver says of a unit of its work that is finished: one has to be.
    unit
        Word for such units.
    reads
        Kind of the artifacts that it, or whoever comes next, reads, and the file: what is damaged.
    serves
        Whether an engine is part of it, with processes that send load.
    """

    asset: str
    finished: re.Pattern[str]
    unit: str
    reads: tuple[str, str]
    serves: bool = True


_TRIAL = r" (?:baseline|trial \d+) finished"
_PROBE = r" (?:closed|open) probe at"
_CHECKPOINT = (CHECKPOINT, QUANTIZED)
STAGES = {
    "compress": Stage(
        graph.QUANTIZED_MODEL,
        re.compile(graph.QUANTIZED_MODEL + r"\S+" + _TRIAL),
        "checkpoint",
        _CHECKPOINT,
        serves=False,
    ),
    "evaluate": Stage(
        graph.EVAL_SCORES,
        re.compile(graph.EVAL_SCORES + r"\S+" + _TRIAL),
        "evaluation",
        _CHECKPOINT,
        serves=False,
    ),
    "sweep": Stage(
        graph.BENCHMARK_SWEEP,
        re.compile(graph.BENCHMARK_SWEEP + r"\S+" + _PROBE),
        "probe",
        _CHECKPOINT,
    ),
    "tune": Stage(
        graph.TUNED_CONFIG,
        re.compile(graph.TUNED_CONFIG + r"\S+" + _PROBE),
        "probe",
        (BENCHMARK, BENCHMARK_FILE.file),
    ),
    "deploy": Stage(
        graph.DEPLOYABLE_CONFIG,
        re.compile(graph.DEPLOYABLE_CONFIG + r"\S+" + _PROBE),
        "probe",
        (graph.TUNED_CONFIG, STUDY_FILE.file),
    ),
}


def flow_of(stage: str) -> Flow:
    """Return the flow that ends with a stage."""
    last = graph.STAGES.index(STAGES[stage].asset)
    return Flow(f"until_{stage}", frozenset(graph.STAGES[: last + 1]))
