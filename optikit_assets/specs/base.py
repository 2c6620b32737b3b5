"""What all spec models share: frozen, closed to unknown keys, named, digestible."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

# Characters that break a partition key in Dagster (some of them silently), plus our own separator.
_ILLEGAL = re.compile(r"[@|,\[\]\s/\\]|\.\.\.|[\x00-\x1f]")


def check_name(name: str) -> str:
    """Return `name`, or raise ``ValueError`` if it cannot be (part of) a partition key."""
    if not name:
        raise ValueError("a name may not be empty")
    if len(name) > 100:
        raise ValueError(f"{name!r} is longer than 100 characters")
    if _ILLEGAL.search(name) or name.startswith("."):
        raise ValueError(
            f"{name!r} may not contain @ | , [ ] / \\ white space or '...', or start with a dot"
        )
    return name


Name = Annotated[str, AfterValidator(check_name)]


def digest(value: Any) -> str:
    """Return the sha256 of a JSON-serializable value in canonical form (sorted keys, no spaces).

    Two YAML files that differ only in white space, comments or key order have the same digest.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


class SpecModel(BaseModel):
    """A piece of a spec: immutable, unknown keys refused (files: `load_spec`, types too)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Spec(SpecModel):
    """A whole spec file; its ``name`` equals the file name."""

    name: Name = Field(description="Unique name; equals the file name without .yaml.")
    description: str = Field(
        default="", description="One sentence for people; not part of the digest."
    )

    operational: ClassVar[frozenset[str]] = frozenset()
    """Fields that decide how patiently something is made, not what comes out."""
    said_elsewhere: ClassVar[Mapping[str, str]] = {}
    """Keys that one may look for here -> where what they mean is said."""

    def digest(self) -> str:
        """Return the sha256 of the parsed, normalized content.

        Neither the description nor what is `operational` counts.
        """
        left_out = {"description", *self.operational}
        return digest(self.model_dump(mode="json", exclude=left_out))
