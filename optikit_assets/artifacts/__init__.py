"""Content-addressed artifacts and model versions.

`store` needs the standard library only, so it works in every stage environment; `models` is for
the control environment.
"""

from optikit_assets.artifacts.store import (
    Artifact,
    ArtifactDraft,
    ArtifactStore,
    check_free_space,
    human_bytes,
)

__all__ = ["Artifact", "ArtifactDraft", "ArtifactStore", "check_free_space", "human_bytes"]
