"""What re-certification found: whether a shipped configuration is as fast as it was."""

from typing import Literal

from pydantic import AwareDatetime, Field

from optikit_assets.schemas.base import Result
from optikit_assets.schemas.comparison import Comparison
from optikit_assets.schemas.document import Document

RecertificationVerdict = Literal["holds", "regressed", "improved", "unresolved"]
Against = Literal["engine", "record"]


class RateRatio(Result):
    """Highest rate now over the one of then, with its interval."""

    estimate: float
    low: float
    high: float
    rounds: int = Field(description="In which both were read; against a record, those of now.")


class Recertification(Result):
    """Content of ``recertification.json``."""

    verdict: RecertificationVerdict
    against: Against = Field(
        description="What it was compared with: the engine that it was certified on, served in "
        "turn with the one of now, or what was written down when it was certified."
    )
    ratio: RateRatio | None = Field(
        default=None, description="Null: there are no two rounds of each that read a limit."
    )
    confidence: float = 0.95
    tolerance: float = Field(description="Of the SLO: smaller changes are none.")
    held_rps: float | None = Field(
        default=None, description="Highest rate that all probes of now vouch for together."
    )
    rounds: int = 0
    server_starts: int = 0
    load_seconds: float = 0.0
    stopped_by: str = ""
    summary: str


class RecertifiedDeployment(Result):
    """Of which bundle it was found, on what."""

    model: str = Field(description="``NAME@VERSION``.")
    slo: str
    bundle_key: str
    recipe: str | None
    certified_rate_rps: float
    accelerator: str
    certified_versions: dict[str, str]
    versions: dict[str, str]
    found: Recertification
    quality: Comparison | None = Field(
        default=None,
        exclude_if=lambda quality: quality is None,
        description="Its answers now against those of then; unset: not asked for.",
    )
    created_at: AwareDatetime

    @property
    def stands(self) -> bool:
        """Whether the certificate does: as fast, and, where asked, as good."""
        as_good = self.quality is None or self.quality.verdict == "pass"
        return self.found.verdict in ("holds", "improved") and as_good


RECERTIFICATION_FILE: Document[RecertifiedDeployment] = Document(
    "recertification.json", RecertifiedDeployment, version=1
)
