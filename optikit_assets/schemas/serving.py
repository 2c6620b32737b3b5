"""How a certified configuration is run somewhere else: what every manifest of it says."""

from pydantic import Field

from optikit_assets.schemas.base import Result
from optikit_assets.specs import digest
from optikit_assets.specs.search_space import Scalar


class Capacity(Result):
    """How many replicas a traffic takes, and when to add one (`delivery.capacity`)."""

    target_rps: float = Field(description="Requests per second that all replicas get together.")
    rate_rps: float = Field(description="Certified rate of one replica.")
    utilization: float = Field(description="Share of it that a replica is planned to serve.")
    replicas: int
    min_replicas: int = Field(description="Fewest to scale down to.")
    in_flight: float | None = Field(
        description="Requests that a replica has at a time at that share; null if no mean latency "
        "was kept, as by earlier releases."
    )


class Probes(Result):
    """When an orchestrator asks a server, in whole seconds."""

    period_s: int
    failures: int = Field(description="Failed questions in a row until a start is given up.")

    @property
    def patience_s(self) -> int:
        """How long a start may take."""
        return self.period_s * self.failures


class ServingPlan(Result):
    """Everything that the manifests of one certified configuration need."""

    name: str = Field(description="Of its objects: a DNS label.")
    served_name: str = Field(description="Model name in requests.")
    slo: str
    accelerator: str
    gpus: int = Field(description="Cards of a replica; 0 on a processor.")
    model_uri: str = Field(description="Where a target takes the weights from.")
    model_folder: str = Field(description="Where a container finds them.")
    image: str
    command: tuple[str, ...]
    arguments: tuple[str, ...]
    port: int
    health_path: str
    metrics: tuple[str, ...] = Field(description="Gauges whose sum is what a server has in flight.")
    config_file: str
    config_text: str
    slo_text: str | None = Field(description="SLO file for a bench; null if it needs other files.")
    flags: dict[str, Scalar]
    environment: dict[str, str] = Field(description="Variables of the engine that were measured.")
    engine: str
    engine_version: str
    why_not_certified: str = Field(description="Empty: the certificate holds for the image.")
    start_s: float | None = Field(description="Measured from start to the first answer.")
    probes: Probes
    capacity: Capacity
    bench_image: str

    @property
    def settings_name(self) -> str:
        """Of the object that holds the files, by their content: it is never changed."""
        return f"{self.name}-{digest([self.config_text, self.slo_text])[:8]}"
