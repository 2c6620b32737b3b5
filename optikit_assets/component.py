"""The graph as a component of another Dagster project.

Partitions are fixed when the graph is imported, so there is one component per code location; what
it says goes into the settings first, where every process that Dagster starts later finds it.
"""

import hashlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Literal

import dagster as dg
import yaml
from pydantic import Field

from optikit_assets.disk import sync, sync_tree
from optikit_assets.errors import OptikitError, SpecError
from optikit_assets.settings import REPOSITORY, configure, settings
from optikit_assets.specs import check_name, digest

Inline = list[dict[str, Any]]


class OptimizationComponent(dg.Component, dg.Model, dg.Resolvable):
    """Finds the deployable configuration of language models: quantize, evaluate, benchmark, tune.

    Relative paths are relative to the project.
    """

    specs: str | None = Field(
        default=None,
        description="Folder of spec files, laid out as OptiKIT's recipes/; default: what ships.",
    )
    recipes: Inline = Field(
        default_factory=list, description="Further recipes, as their files would say them."
    )
    slos: Inline = Field(default_factory=list, description="Further SLOs.")
    search_spaces: Inline = Field(default_factory=list, description="Further search spaces.")
    models: Inline = Field(default_factory=list, description="Further models.")
    hardware: Inline = Field(default_factory=list, description="Further hardware pools.")
    automation: Literal["stopped", "models", "running"] = Field(
        default="models",
        description="What sensors request until they are switched: nothing, what new model "
        "versions need, or what edits made stale as well.",
    )
    publisher: str = Field(
        default="folder", description="Where certified bundles are published: its registered name."
    )
    home: str | None = Field(
        default=None,
        description="State folder; default: OPTIKIT_HOME, else .optikit in the project.",
    )
    environments_home: str | None = Field(
        default=None, description="State folder whose stage environments are used; default: home."
    )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return OptiKIT's own definitions, made with these settings.

        Raises
        ------
        OptikitError
            If the graph was made in this process with other spec files.
        """
        self.apply(context.project_root)
        made = sys.modules.get("optikit_assets.defs.partitions")
        if made is not None and made.catalog.root != settings().recipes:
            raise OptikitError(
                f"this code location has the graph of {made.catalog.root} already, and that of "
                f"{settings().recipes} cannot be added: use one OptimizationComponent per code "
                "location"
            )
        from optikit_assets.definitions import defs

        return defs

    def apply(self, project: Path) -> None:
        """Put what the component says into the settings of this process and its children.

        Raises
        ------
        SpecError
            If a spec of its own has no proper name, or that of a file.
        """
        if self.home is not None or not os.environ.get("OPTIKIT_HOME"):
            configure(home=project / (self.home or ".optikit"))
        if self.environments_home is not None:
            configure(environments_home=project / self.environments_home)
        shipped = self.specs is None and not self.models
        folder = REPOSITORY / "recipes" if self.specs is None else project / self.specs
        configure(
            # Specs that ship name files that ship.
            root=REPOSITORY if shipped else project,
            recipes=self._with_inline(folder, settings().home / "component"),
            publisher=self.publisher,
            automation=self.automation,
        )

    def _with_inline(self, folder: Path, cache: Path) -> Path:
        """Return the folder of spec files, or a copy that also has the component's own specs."""
        files = {
            file.relative_to(folder).as_posix(): file.read_bytes()
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }
        own = {
            "quantization": self.recipes,
            "slos": self.slos,
            "search_spaces": self.search_spaces,
            "models": self.models,
            "hardware": self.hardware,
        }
        if not any(own.values()):
            return folder
        for kind, specs in own.items():
            for spec in specs:
                try:
                    name = f"{kind}/{check_name(str(spec.get('name', '')))}.yaml"
                except ValueError as error:
                    raise SpecError("<component>", [f"{kind}: name: {error}"]) from error
                if name in files:
                    raise SpecError("<component>", [f"{kind}: {folder / name} exists already"])
                files[name] = yaml.safe_dump(spec, sort_keys=False).encode()
        key = digest([[name, hashlib.sha256(files[name]).hexdigest()] for name in sorted(files)])
        copy = cache / key[:16] / folder.name
        if not copy.is_dir():
            _write(files, copy)
        return copy


def _write(files: dict[str, bytes], folder: Path) -> None:
    """Make the folder with these files; of two that do so at once, one succeeds for both."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    for name, content in files.items():
        file = partial / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    # Who finds the folder takes it for whole, also after a loss of power.
    sync_tree(partial)
    try:
        partial.rename(folder)
    except OSError:
        shutil.rmtree(partial)
        if not folder.is_dir():
            raise
    sync(folder.parent)
