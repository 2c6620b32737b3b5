"""What all results have in common."""

from pydantic import BaseModel, ConfigDict


class Result(BaseModel):
    """Immutable, closed to unknown keys, finite numbers only; JSON in and out without loss."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
