"""How a worker made what it keeps, as the manifest of the artifact says it.

A manifest says more, e.g. who asked for it. What one of an earlier release does not say is unset.
"""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field

from optikit_assets.engines import Flags, Hardware
from optikit_assets.workers.messages import Message


class _Making(Message):
    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Self:
        """Read it from a manifest."""
        return cls.model_validate({k: v for k, v in manifest.items() if k in cls.model_fields})

    def as_notes(self) -> dict[str, Any]:
        """Return it as a manifest has it."""
        return self.model_dump(mode="json")


class CheckpointMaking(_Making):
    """How a checkpoint was made; times are ISO 8601 with their offset."""

    rows_digest: str | None = Field(default=None, description="Unset without calibration, too.")
    rows: int | None = Field(default=None, description="Calibration rows.")
    row_numbers: tuple[int, ...] = Field(default=(), description="Their places in the data.")
    max_sequence_length: int | None = Field(default=None, description="Tokens of a row at most.")
    notes: tuple[str, ...] = Field(default=(), description="What differs from the recipe.")
    seconds: float | None = Field(default=None, description="Loading, compressing and saving.")
    bytes: int | None = Field(default=None, description="Size of all files.")
    started_at: str | None = None
    ended_at: str | None = None


class BenchmarkMaking(_Making):
    """How a benchmark was made: on which machine, by which server."""

    versions: dict[str, str] = Field(default_factory=dict, description="Of engine and libraries.")
    environment: dict[str, str] = Field(
        default_factory=dict, description="Variables that reached the engine and may change it."
    )
    accelerator: str | None = Field(default=None, description="Label of the hardware.")
    hardware: Hardware | None = Field(default=None, description="Of the node, as leased.")
    server_start_s: float | None = Field(
        default=None, description="0 of one whose server was running for another."
    )
    graphs: tuple[int, int] | None = Field(
        default=None, description="Compiled graphs that it took from the cache, and that it made."
    )
    flags: Flags = Field(default_factory=dict)
    mode: Literal["search", "confirm"] | None = None
    retuned: bool = Field(default=False, description="On a server started with other flags.")
