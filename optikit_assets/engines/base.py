"""What an inference engine must offer to be benchmarked, evaluated and deployed, and the registry.

The control environment has no engine, so everything here but `Offline` and what `Engine.launch`
names works without one: engines import their libraries inside functions.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from optikit_assets.engines.batching import Batching
from optikit_assets.engines.container import Container, Format
from optikit_assets.engines.context import context_length
from optikit_assets.engines.flags import FlagCatalog, Flags, integer
from optikit_assets.engines.hardware import WIDE_VECTORS, Hardware
from optikit_assets.engines.memory import MemoryEstimate
from optikit_assets.engines.model_facts import ModelFacts
from optikit_assets.engines.requests import USUAL, Requests
from optikit_assets.engines.scheduling import CHRT
from optikit_assets.engines.start_failures import LogWords
from optikit_assets.environments.variables import EngineVariables
from optikit_assets.schemas import ServingPlan
from optikit_assets.specs import EngineSpec, RecipeSpec, SloSpec, SuiteSpec, plugins
from optikit_assets.specs.search_space import Scalar


@dataclass(frozen=True)
class Launch:
    """How a server process is started: its command, and variables beside those of every server."""

    argv: list[str]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where a server runs.

    Parameters
    ----------
    python
        Interpreter of the serve environment.
    host, port
        What it listens on.
    scratch
        Empty folder that lives as long as the server.
    cache_dir
        What is kept between starts; None leaves it to the engine.
    """

    python: str
    host: str
    port: int
    scratch: Path
    cache_dir: Path | None = None


class Offline(Protocol):
    """Evaluation in the worker's own process, through the engine's model in lm-eval."""

    def prepared(self, *, deterministic: bool) -> AbstractContextManager[dict[str, str]]:
        """Set what the libraries read when they are imported; yield what is recorded of it."""
        ...

    def arguments(
        self,
        suite: SuiteSpec,
        spec: EngineSpec,
        model_path: str,
        *,
        seed: int,
        trust_remote_code: bool,
    ) -> dict[str, Any]:
        """Return what the model is opened with; ``pretrained`` is `model_path`, all is recorded.

        The suite's context length wins over the engine's. Flags that only a server knows are left
        out: they do not change what the model answers.
        """
        ...

    def opened(self, arguments: dict[str, Any]) -> AbstractContextManager[Any]:
        """Load a checkpoint into lm-eval's model of this engine, and free it at the end.

        Raises
        ------
        EvaluationError
            If it does not load, with its reason.
        """
        ...


@runtime_checkable
class HotReconfiguration(Protocol):
    """What an engine offers beside `Engine` if a running server can take other flags.

    For exploring only: a server that was started with other flags is not the one that ships.
    """

    hot_flags: frozenset[str]
    """Flags that a running server can change."""

    def retunable(self, variants: Sequence[Mapping[str, Scalar]]) -> Flags:
        """Return the flags of a server that can go on with any of `variants`.

        They differ in `hot_flags` alone.
        """
        ...

    def reconfigure(
        self, place: Place, flags: Mapping[str, Scalar], *, served_model_name: str
    ) -> None:
        """Have the idle server at `place` go on with these values of `hot_flags`.

        Raises
        ------
        EndpointError
            If it does not say that it did.
        """
        ...


def hot_flags(engine: "Engine") -> frozenset[str]:
    """Return the flags that a running server of an engine can change; none if it cannot."""
    return engine.hot_flags if isinstance(engine, HotReconfiguration) else frozenset()


class Engine(ABC):
    """One inference engine with an OpenAI-compatible server; without state.

    Flags are written with underscores everywhere. Order of precedence: tuned values, then the
    model's own flags, then what follows from workload and machine; what nobody names stays at the
    engine's default.
    """

    name: ClassVar[str]
    """What specs call it."""
    title: ClassVar[str]
    """What people call it."""
    config_file: ClassVar[str]
    """Name of the file in a bundle that a server is started from."""
    commands: ClassVar[tuple[str, ...]]
    """How a person starts a server from `config_file`, in the bundle's folder."""
    sched_batch_on: ClassVar[frozenset[str]] = frozenset()
    """Kinds of hardware on which its server runs with ``SCHED_BATCH`` (`engines.scheduling`)."""
    distributions: ClassVar[tuple[str, ...]]
    """Packages that it is installed as; those that are there are the version of a measurement."""
    health_path: ClassVar[str] = "/health"
    """Answers 200 as soon as the first request can be served."""
    requests: ClassVar[Requests] = USUAL
    """How its server is asked for completions."""
    variables: ClassVar[EngineVariables] = EngineVariables()
    log_words: ClassVar[LogWords] = LogWords()
    parallel_flags: ClassVar[tuple[str, ...]] = ()
    """Flags of tensor, pipeline and data parallelism, in this order; empty: it has none."""
    evaluated_with: ClassVar[Mapping[str, Scalar]] = {}
    """Parallel flags that `offline` has at another value than a server, however they are set."""
    batch_flags: ClassVar[tuple[str, ...]] = ()
    """Flags of the most sequences at a time, and of the most tokens that a step computes of prompts
    and sequences; empty: it has none."""
    container: ClassVar[Container | None] = None
    """Its images; None: a bundle of it has no manifests."""

    def commands_on(self, hardware_kind: str | None) -> tuple[str, ...]:
        """Return `commands` as they are to be given on hardware of a kind."""
        before = self.prefix_on(hardware_kind)
        return tuple(" ".join((*before, command)) for command in self.commands)

    def prefix_on(self, hardware_kind: str | None) -> tuple[str, ...]:
        """Return the words before a command that starts a server on hardware of a kind, if any."""
        return CHRT if hardware_kind in self.sched_batch_on else ()

    @property
    @abstractmethod
    def catalog(self) -> FlagCatalog:
        """Flags of its server."""

    @property
    @abstractmethod
    def offline(self) -> Offline:
        """How checkpoints are evaluated without a server."""

    @abstractmethod
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
        """Merge everything that decides how the server runs, sorted by name.

        Parameters
        ----------
        spec
            Flags that hold for this model in every stage.
        slo
            Gives the context length; None leaves it to the engine.
        tuned
            Values of a search, empty for the engine's default.
        hardware
            Leaves out what the machine does not have; None changes nothing.
        facts
            Bounds the context length.
        trust_remote_code
            Run Python code that comes with the model.

        Raises
        ------
        SpecError
            If a flag does not exist or has a value of the wrong type; all problems at once.
        ModelError
            If the workload does not fit into the model's context.
        """

    @abstractmethod
    def estimate(
        self,
        facts: ModelFacts,
        hardware: Hardware,
        flags: Mapping[str, Scalar],
        *,
        context_length: int,
    ) -> MemoryEstimate:
        """Estimate the memory of one device under the given flags."""

    def host_bytes(
        self,
        facts: ModelFacts,
        hardware: Hardware,
        flags: Mapping[str, Scalar],
        *,
        context_length: int,
    ) -> int:
        """Return the bytes of weights, activations and a full cache on a machine without a GPU."""
        found = self.estimate(facts, hardware, flags, context_length=context_length)
        sequences = self.batching({**self.defaults(hardware), **flags}).most_sequences or 1
        most = sequences * context_length * found.kv_bytes_per_token
        return found.weights_bytes + found.activation_bytes + self.cache_bytes(flags, most)

    def cache_bytes(self, flags: Mapping[str, Scalar], most: int) -> int:
        """Return what a server takes for its cache, of which it can fill `most` bytes."""
        return most

    @abstractmethod
    def unsupported(
        self, recipe: RecipeSpec, spec: EngineSpec, hardware: Hardware, *, experts: bool = False
    ) -> str | None:
        """Return why checkpoints of `recipe` cannot be served on `hardware`, None if they can.

        Parameters
        ----------
        recipe
            Its schemes, its key-value cache and its own demands count.
        spec
            Its compute type counts too.
        hardware
            Machine; a compute capability that is not known does not speak against a recipe.
        experts
            Whether the model is a mixture of experts.
        """

    @abstractmethod
    def config_text(
        self, flags: Mapping[str, Scalar], *, model: str, served_model_name: str, header: str = ""
    ) -> str:
        """Return the content of `config_file`; host and port are left to who starts it.

        Parameters
        ----------
        flags
            Flags as `flags` returns them.
        model
            Folder of the checkpoint.
        served_model_name
            Name that requests use, where the server takes one.
        header
            Comment lines for people, without the ``#``.
        """

    @abstractmethod
    def config_flags(self, text: str) -> Flags:
        """Read the flags back from what `config_text` wrote."""

    @abstractmethod
    def launch(self, config_file: Path, place: Place) -> Launch:
        """Return how a server is started from a file that `config_text` wrote."""

    def container_arguments(self, config_file: str) -> tuple[str, ...]:
        """Return what follows `Container.command`, to be served from a file in the container."""
        return (config_file,)

    def formats(
        self, plan: ServingPlan, files: Mapping[str, Any], pod: Mapping[str, Any]
    ) -> dict[str, Format]:
        """Return formats that serve this engine alone, by file name.

        Parameters
        ----------
        files
            Kubernetes object with `config_file` in it.
        pod
            Of a replica, with one container called ``main``.
        """
        return {}

    def request_name(self, model: str, served_model_name: str) -> str:
        """Return the model name that its server wants in requests."""
        return served_model_name

    def context_length(
        self, spec: EngineSpec, slo: SloSpec, facts: ModelFacts | None = None
    ) -> int:
        """Return the context length to serve a workload with; see `context.context_length`."""
        return context_length(slo, facts)

    def defaults(self, hardware: Hardware) -> Flags:
        """Return the values in force on `hardware` of flags that are not set, as far as known."""
        return self.catalog.defaults()

    def repair(self, flags: Mapping[str, Scalar], hardware: Hardware | None = None) -> Flags:
        """Return `flags` with the constraints between them made true that it checks at start-up."""
        return dict(flags)

    def batching(self, flags: Mapping[str, Scalar]) -> Batching:
        """Return how a server with these flags, its defaults among them, forms its batches."""
        # -1 stands for no bound.
        bounds = [integer(flags.get(name)) or 0 for name in self.batch_flags] or [0, 0]
        sequences, tokens = (bound if bound > 0 else None for bound in bounds)
        return Batching(sequences, tokens)

    def devices(self, flags: Mapping[str, Scalar]) -> int:
        """Return how many accelerators a server with these flags occupies."""
        return 1

    def accelerators(
        self, spec: EngineSpec, tuned: Mapping[str, Scalar], hardware: Hardware
    ) -> int:
        """Return how many accelerators to lease for a model; a machine without a GPU is one."""
        return 1 if hardware.kind == "cpu" else self.devices({**spec.flags, **tuned})

    def graphs(self, log: str) -> tuple[int, int] | None:
        """Return how many compiled graphs a server took from the cache and how many it made.

        None if its log, whole, does not say.
        """
        return None

    def compute_dtype(self, spec: EngineSpec, hardware: Hardware) -> str:
        """Return the compute type to serve with: the spec's, or what suits the processor.

        Without AVX-512 a processor emulates bfloat16, which takes three times as long as float32.
        """
        emulated = hardware.kind == "cpu" and WIDE_VECTORS not in hardware.features
        return "float32" if spec.dtype == "auto" and emulated else spec.dtype

    def fallback(self, recipe: RecipeSpec, hardware: Hardware) -> str | None:
        """Return what it does instead of computing as the recipe says, None if it does so."""
        return None


_ENGINES: plugins.Registry[Callable[[], Engine]] = plugins.Registry("engine", plugins.ENGINES)


def register_engine(name: str) -> Callable[[Callable[[], Engine]], Callable[[], Engine]]:
    """Register an engine class under the name that specs use.

    Other packages register theirs as entry points in the group ``optikit.engines``.
    """
    return _ENGINES.register(name)


@lru_cache(maxsize=32)
def get_engine(name: str) -> Engine:
    """Return the engine called `name`: an own one, or that of an installed package.

    Raises
    ------
    UnknownNameError
        If there is none.
    EnvironmentMissingError
        If the package that registered it cannot be imported.
    """
    return _ENGINES.get(name)()


def engine_names() -> tuple[str, ...]:
    """Return the names of all registered engines, sorted."""
    return _ENGINES.names()


def engine_variables() -> EngineVariables:
    """Return the environment variables of all registered engines."""
    return EngineVariables.union(get_engine(name).variables for name in engine_names())
