"""Models in HDFS, by its REST interface: ``webhdfs://HOST:PORT/…/NAME/VERSION``, ``swebhdfs://…``.

What a file's tag is made of, `optikit_assets.webhdfs` says; credentials come from the environment.
"""

from optikit_assets.sources.base import register_source
from optikit_assets.sources.listed import ListedSource
from optikit_assets.webhdfs import WebHdfs


@register_source("webhdfs")
@register_source("swebhdfs")
class HdfsSource(ListedSource):
    """Folders of files."""

    form = "webhdfs://HOST:PORT/…/NAME[/VERSION], or swebhdfs:// in its place"

    def open(self, place: str, patience_s: float) -> WebHdfs:
        return WebHdfs(place, patience_s)
