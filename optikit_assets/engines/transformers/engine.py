"""The server that comes with the transformers library."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from optikit_assets.engines.base import Engine, Launch, Place, register_engine
from optikit_assets.engines.flags import FlagCatalog, Flags
from optikit_assets.engines.hardware import Hardware
from optikit_assets.engines.memory import MemoryEstimate, estimate
from optikit_assets.engines.model_facts import ModelFacts
from optikit_assets.engines.requests import Requests
from optikit_assets.engines.script import read_script, write_script
from optikit_assets.engines.transformers import support
from optikit_assets.engines.transformers.flag_catalog import catalog
from optikit_assets.engines.transformers.offline import TransformersOffline
from optikit_assets.engines.transformers.requests import TransformersRequests
from optikit_assets.errors import ModelError
from optikit_assets.specs import EngineSpec, RecipeSpec, SloSpec
from optikit_assets.specs.search_space import Scalar

_COMMAND = ("transformers", "serve")


@register_engine("transformers")
class TransformersEngine(Engine):
    """Serves one model that is loaded before the port opens, evaluates in the worker's process."""

    name: ClassVar[str] = "transformers"
    title: ClassVar[str] = "transformers"
    config_file: ClassVar[str] = "transformers-serve.sh"
    commands: ClassVar[tuple[str, ...]] = ("sh transformers-serve.sh --host=127.0.0.1 --port=8000",)
    distributions: ClassVar[tuple[str, ...]] = ("transformers", "accelerate")
    requests: ClassVar[Requests] = TransformersRequests()

    @property
    def catalog(self) -> FlagCatalog:
        return catalog()

    @property
    def offline(self) -> TransformersOffline:
        return TransformersOffline()

    def flags(
        self,
        spec: EngineSpec,
        slo: SloSpec | None,
        tuned: Mapping[str, Scalar] | None = None,
        *,
        hardware: Hardware | None = None,
        facts: ModelFacts | None = None,
        trust_remote_code: bool = False,
    ) -> Flags:
        given = catalog().checked({**spec.flags, **(tuned or {})})
        if slo is not None:
            # There is no flag for it: what is too long for the model is refused here.
            self.context_length(spec, slo, facts)
        # One line per request would be a warning.
        flags: Flags = {"log_level": "error"}
        dtype = spec.dtype if hardware is None else self.compute_dtype(spec, hardware)
        if dtype != "auto":
            flags["dtype"] = dtype
        flags |= given
        if trust_remote_code:
            flags["trust_remote_code"] = True
        if hardware is not None:
            flags["device"] = hardware.kind
            if hardware.kind == "cpu":
                flags = {n: value for n, value in flags.items() if n not in catalog().gpu_only}
        return dict(sorted(flags.items()))

    def estimate(
        self,
        facts: ModelFacts,
        hardware: Hardware,
        flags: Mapping[str, Scalar],
        *,
        context_length: int,
    ) -> MemoryEstimate:
        # Weights are unpacked at the first request; the least is what they take before.
        return estimate(facts, hardware, context_length=context_length)

    def unsupported(
        self, recipe: RecipeSpec, spec: EngineSpec, hardware: Hardware, *, experts: bool = False
    ) -> str | None:
        return support.unsupported(recipe, hardware)

    def fallback(self, recipe: RecipeSpec, hardware: Hardware) -> str | None:
        return support.fallback(recipe)

    def config_text(
        self, flags: Mapping[str, Scalar], *, model: str, served_model_name: str, header: str = ""
    ) -> str:
        if "@" in model:
            raise ModelError(
                f"{model}: {self.title} takes what follows the @ for a revision; move the model, "
                "or OPTIKIT_HOME, to a path without one"
            )
        return write_script(_COMMAND, [model, *catalog().to_argv(flags)], header=header)

    def config_flags(self, text: str) -> Flags:
        return catalog().from_argv(read_script(text, _COMMAND)[1:])

    def launch(self, config_file: Path, place: Place) -> Launch:
        arguments = read_script(config_file.read_text(encoding="utf-8"), _COMMAND)
        # What the `transformers` command of the script is.
        command = [place.python, "-m", "transformers.cli.transformers", "serve", *arguments]
        environment = {"HF_HUB_DISABLE_UPDATE_CHECK": "1"}
        return Launch([*command, f"--host={place.host}", f"--port={place.port}"], environment)

    def request_name(self, model: str, served_model_name: str) -> str:
        # It refuses every name but the one that it was started with.
        return model
