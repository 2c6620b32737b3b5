"""Models in an object store: ``s3://BUCKET/…/NAME/VERSION``, ``gs://…``, ``az://…``.

Credentials and endpoints come from each provider's own variables.
"""

from optikit_assets.bucket import Bucket
from optikit_assets.sources.base import register_source
from optikit_assets.sources.listed import ListedSource


@register_source("s3")
@register_source("gs")
@register_source("az")
class ObjectSource(ListedSource):
    """Folders of objects, which are listed with all that is below them."""

    form = "s3://BUCKET/…/NAME[/VERSION], or gs:// or az:// in its place"

    def open(self, place: str, patience_s: float) -> Bucket:
        return Bucket(place, patience_s=patience_s)
