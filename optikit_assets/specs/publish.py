"""Where certified bundles are published (``recipes/publish/NAME.yaml``).

In place and alias ``{model}`` stands for the model's name, ``{slo}`` for that of the SLO.
"""

import re

from pydantic import Field, field_validator, model_validator

from optikit_assets.specs import plugins
from optikit_assets.specs.base import Name, Spec

# With what stands for names, which are looked at by MLflow itself.
_MLFLOW_ALIAS = re.compile(r"(?!(?:latest|[vV]\d+)$)[\w{}-]+")


class PublishSpec(Spec):
    """One place, and the alias that names what is in force there."""

    to: str = Field(
        description="s3://BUCKET/PREFIX, gs://…, az://CONTAINER/PREFIX, oci://REGISTRY/NAME, "
        "hf://ORG/NAME or file:///PATH; credentials come from the environment."
    )
    alias: Name = Field(
        default="current", description="What names the release that was published last."
    )
    mlflow: Name | None = Field(
        default=None,
        description="Registered model at MLFLOW_TRACKING_URI that gets a version of each release, "
        "and experiment that gets a run; weights stay in the place.",
    )
    models: tuple[Name, ...] = Field(
        default=(), description="Models, of whichever version, that it is for; none: all."
    )
    slos: tuple[Name, ...] = Field(default=(), description="SLOs that it is for; none: all.")

    @field_validator("to")
    @classmethod
    def _known(cls, value: str) -> str:
        scheme, separator, rest = value.partition("://")
        known = plugins.known(plugins.TARGETS)
        # A bucket or a registry has a name of its own before the path.
        fits = rest.startswith("/") if scheme == "file" else "/" in rest.strip("/")
        if not separator or scheme not in known or not fits or not rest.strip("/"):
            forms = ", ".join(f"{name}://" for name in known)
            raise ValueError(f"must be one of {forms} with a place and a path in it")
        if "@" in rest.partition("/")[0]:
            raise ValueError("must not have credentials in it; put them into the environment")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _alias_of_mlflow(self) -> "PublishSpec":
        if self.mlflow is not None and not _MLFLOW_ALIAS.fullmatch(self.alias):
            raise ValueError(
                "alias: MLflow takes letters, digits, _ and -, but neither `latest` nor a version "
                "as `v1`"
            )
        return self

    def takes(self, model: str, slo: str) -> bool:
        """Whether it is for a model and an SLO."""
        return (not self.models or model in self.models) and (not self.slos or slo in self.slos)

    def of(self, model: str, slo: str) -> "PublishSpec":
        """Return the target of one model and SLO."""
        filled = {
            name: value.replace("{model}", model).replace("{slo}", slo)
            for name in ("to", "alias", "mlflow")
            if (value := getattr(self, name)) is not None
        }
        return self.model_copy(update=filled)

    @property
    def mixed_up(self) -> str:
        """What would have one alias for several of its models or SLOs; empty if nothing."""
        named = {"model": self.models, "slo": self.slos}
        told = [self.to + self.alias, *([] if self.mlflow is None else [self.mlflow + self.alias])]
        lacking = [
            f"{{{name}}}"
            for name, values in named.items()
            if len(values) != 1 and any(f"{{{name}}}" not in text for text in told)
        ]
        return " and ".join(lacking)
