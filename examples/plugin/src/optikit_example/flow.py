"""A flow: how far a job goes."""

from optikit_assets.graph import BASE_MODEL, QUANTIZED_MODEL, Flow

CHECKPOINTS = Flow(
    "checkpoints_only",
    frozenset({BASE_MODEL, QUANTIZED_MODEL}),
    "Candidate checkpoints, without a score of them.",
)
