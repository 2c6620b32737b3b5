"""Where certified bundles are published (``recipes/publish/NAME.yaml``)."""

from pydantic import Field, field_validator

from optikit_assets.specs import plugins
from optikit_assets.specs.base import Name, Spec


class PublishSpec(Spec):
    """One place, and the alias that names what is in force there."""

    to: str = Field(
        description="s3://BUCKET/PREFIX, gs://…, az://CONTAINER/PREFIX, or oci://REGISTRY/NAME; "
        "credentials come from the environment."
    )
    alias: Name = Field(
        default="current", description="What names the release that was published last."
    )

    @field_validator("to")
    @classmethod
    def _known(cls, value: str) -> str:
        scheme, separator, rest = value.partition("://")
        known = plugins.known(plugins.TARGETS)
        if not separator or scheme not in known or "/" not in rest.strip("/"):
            forms = ", ".join(f"{name}://" for name in known)
            raise ValueError(f"must be one of {forms} with a place and a path in it")
        if "@" in rest.partition("/")[0]:
            raise ValueError("must not have credentials in it; put them into the environment")
        return value.rstrip("/")
