"""What the wheel has otherwise than the repository: everything is inside the package.

A distribution may not claim a top-level name as common as ``resources``. In the repository the
folder stands beside the package; in the wheel it is ``optikit_assets.resources``, and the imports
that name it say so. Recipes, demo and requirements are in ``optikit_assets/shipped``, where
`optikit_assets.locations` finds them. Editable installations use the repository as it is.
"""

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_PACKAGE = "optikit_assets"
_FOLDER = "resources"
_SHIPPED = ("demo", "recipes", "requirements")
_IMPORT = re.compile(rf"^(\s*(?:from|import) )({_FOLDER})(?=[.\s])", re.MULTILINE)


class InsideThePackage(BuildHookInterface):
    """Puts what stands beside the package into it, with every import of `resources` rewritten."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        root = Path(self.root)
        for name in _SHIPPED:
            build_data["force_include"][str(root / name)] = f"{_PACKAGE}/shipped/{name}"
        self._copies = Path(tempfile.mkdtemp(prefix="optikit-wheel-"))
        for file in sorted((root / _PACKAGE).rglob("*.py")):
            self._put(file, str(file.relative_to(root)), build_data)
        for file in sorted((root / _FOLDER).rglob("*.py")):
            self._put(file, f"{_PACKAGE}/{file.relative_to(root)}", build_data, always=True)

    def _put(self, file: Path, name: str, build_data: dict[str, Any], always: bool = False) -> None:
        text = file.read_text(encoding="utf-8")
        rewritten = _IMPORT.sub(rf"\1{_PACKAGE}.\2", text)
        if always or rewritten != text:
            copy = self._copies / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(rewritten, encoding="utf-8")
            build_data["force_include"][str(copy)] = name

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            shutil.rmtree(self._copies)
