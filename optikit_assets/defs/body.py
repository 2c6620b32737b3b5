"""What the body of every stage does around its one subsystem call: keys, memoization, rows."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, partial
from typing import Any, TypeVar

import dagster as dg
from pydantic import Field

from optikit_assets import clock
from optikit_assets.artifacts import Artifact, ArtifactDraft, Reference
from optikit_assets.artifacts.models import FetchedModel
from optikit_assets.defs.recorded import INPUTS_METADATA, POOL_TAG, STATUS_TAG, recorded_of
from optikit_assets.defs.sources import source_versions
from optikit_assets.engines import Engine, get_engine
from optikit_assets.errors import StageError
from optikit_assets.freshness import Versions
from optikit_assets.graph import (
    BASE_MODEL,
    MISSING,
    Node,
    is_failed,
    outcome_version,
    split_model,
)
from optikit_assets.history import RowsByTable
from optikit_assets.specs import Catalog, ModelSpec, SloSpec, digest
from optikit_assets.workers.messages import Message
from resources import (
    ArtifactStoreResource,
    HistoryResource,
    ModelRegistryResource,
    OnPools,
    PoolRunner,
)

SharedT = TypeVar("SharedT", bound=Reference | str | None)

CACHE_TAG = "optikit/cache"
PROVENANCE = "provenance"
"""What an artifact's manifest says of the run that made it (`Partition.provenance`)."""
BENCHMARKS = "benchmarks"
"""Which benchmarks an artifact was made of, each a `BenchmarkUsed`."""


class BenchmarkUsed(Message):
    """One of the benchmarks that an artifact was made of, as its manifest names it."""

    recipe: str
    part: str = Field(description="The ``stage`` of its rows: sweep, tuning or certification.")
    arm: str = ""
    trial: int = 0
    artifact_key: str
    pool: str | None = Field(default=None, description="Unset for the machine itself.")


@dataclass
class Partition:
    """One partition of one asset while its body runs, on one pool.

    The body computes the content key first and looks it up in the store: on a hit it re-emits the
    same version and starts no worker.
    """

    context: dg.AssetExecutionContext
    models: ModelRegistryResource
    artifacts: ArtifactStoreResource
    history: HistoryResource
    runners: OnPools
    started_at: datetime = field(default_factory=clock.now)
    benchmarks: list[BenchmarkUsed] = field(default_factory=list)

    @cached_property
    def node(self) -> Node:
        """Which partition of which asset, as seen from the pool that its workers are on."""
        node = Node.of(self.context.asset_key.to_user_string(), self.context.partition_key)
        return node.on(self.versions.pool_of(node))

    def on(self, pool: str | None) -> "Partition":
        """Return this partition with its workers on another pool."""
        other = copy.copy(self)
        for name in ("runner", "provenance"):
            vars(other).pop(name, None)
        other.node = self.node.on(pool)
        return other

    @cached_property
    def runner(self) -> PoolRunner:
        """Runs workers on the pool."""
        return self.runners.on(self.node.key.pool)

    @cached_property
    def catalog(self) -> Catalog:
        """The spec files as they are now."""
        return self.models.catalog()

    @cached_property
    def versions(self) -> Versions:
        """Versions of sources and of what is materialized."""
        sources = source_versions(self.catalog, self.models, self.runners)
        told = self.context.run.tags.get(POOL_TAG)
        named = {"": told.split(",")} if told else {}
        return Versions(
            partial(recorded_of, self.context.instance), sources, self.artifacts.has, named=named
        )

    @cached_property
    def inputs(self) -> dict[Node, str]:
        """Version of every upstream partition.

        Raises
        ------
        StageError
            If the model is not the one that ``base_model`` recorded: what is made from its files
            now would be filed under other weights.
        """
        inputs = self.versions.actual(self.node)[1]
        base = self.node.needed(BASE_MODEL)
        recorded = inputs.get(base, MISSING)
        if recorded != MISSING and recorded != self.versions.of_source(base):
            raise StageError(
                f"the files of {self.model_key} changed since {base} was materialized: "
                "materialize it again first"
            )
        return inputs

    @cached_property
    def key(self) -> str:
        """Content key of this partition."""
        if self.node.is_root:
            return self.versions.of_source(self.node)
        return self.versions.key(self.node, self.inputs)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Make this partition's artifact alone: who comes second waits here, and then finds it."""
        # Not the artifact's own turn: that is the worker's.
        name = digest(["stage", self.key])
        with self.artifacts.store.turn(name, on_wait=self._say_that_it_waits):
            yield

    def _say_that_it_waits(self) -> None:
        self.context.log.info(f"another run is making {self.node}: waiting for its result")

    @property
    def model_key(self) -> str:
        """``NAME@VERSION``."""
        return self.node.key.model

    @property
    def recipe(self) -> str:
        """Name of the partition's recipe, "" if it has none."""
        return self.node.key.recipe

    @property
    def slo(self) -> str:
        """Name of the partition's SLO, "" if it has none."""
        return self.node.key.slo

    @property
    def slo_spec(self) -> SloSpec:
        """Spec of the partition's SLO."""
        return self.catalog.slo(self.slo)

    @cached_property
    def model_spec(self) -> ModelSpec:
        """Spec of the model family."""
        return self.catalog.model(split_model(self.model_key)[0])

    @property
    def engine(self) -> Engine:
        """The engine that serves the model."""
        return get_engine(self.model_spec.engine.name)

    def environment(self, name: str) -> str:
        """Return the digest of a stage environment where the workers run."""
        return self.versions.sources.environment(name, self.node.key.pool)

    @property
    def base(self) -> FetchedModel:
        """The unquantized model's files and facts."""
        return self.versions.sources.model(self.model_key)

    @cached_property
    def base_reference(self) -> Reference:
        """The unquantized model's files, for every node that reads them."""
        return self.share(self.versions.sources.model_reference(self.model_key))

    def share(self, reference: SharedT) -> SharedT:
        """Return what every node finds; the name of data on a hub, and nothing, are that."""
        if isinstance(reference, Reference):
            return self.artifacts.store.share(reference)
        return reference

    def seed(self, *parts: object) -> int:
        """Return a seed that depends on this partition's content key and `parts` alone."""
        return int(digest([self.key, *map(str, parts)])[:8], 16)

    def version_of(self, node: Node) -> str:
        """Return the recorded version of an upstream partition that has to be there."""
        version = self.inputs[node]
        if version == MISSING:
            raise StageError(
                f"{self.node} needs {node}, which was never materialized: do that first"
            )
        return version

    def require_current(self, looked_at: Iterable[Node]) -> None:
        """Make sure that what was up to date when somebody looked at it still is.

        Raises
        ------
        StageError
            If an input of one of them changed since, or what it made is gone: what is made now
            would be made without it.
        """
        for node in looked_at:
            # A model is not in the store.
            versions = self.versions
            why = versions.outdated(node) if node.is_root else versions.why_left_out(node)
            if why:
                raise StageError(
                    f"{self.node}: something changed after it was looked at: {why}; run again"
                )

    def artifact_of(self, node: Node) -> Artifact | None:
        """Return the artifact of an upstream partition, or None if its last attempt failed.

        Raises
        ------
        StageError
            If it was never materialized, or what it made is gone.
        """
        version = self.version_of(node)
        if is_failed(version):
            return None
        artifact = self.artifacts.find(version)
        if artifact is None:
            raise StageError(f"the artifact of {node} is gone: materialize it again first")
        return artifact

    @cached_property
    def provenance(self) -> dict[str, str]:
        """What an artifact keeps of this run: its rows are the same whichever run appends them."""
        return {
            "run_id": self.context.run.run_id,
            "started_at": self.started_at.isoformat(),
            "accelerator": self.runner.hardware.accelerator,
        }

    @contextmanager
    def keep(self) -> Iterator[ArtifactDraft]:
        """Open the draft of this partition's artifact, which says what its rows have to tell."""
        with self.artifacts.store.create(self.key, self.node.asset) as draft:
            used = [found.model_dump(mode="json", exclude_none=True) for found in self.benchmarks]
            draft.manifest.update({PROVENANCE: self.provenance, BENCHMARKS: used})
            yield draft

    def remember(
        self, made: Artifact | None, make_rows: Callable[[], RowsByTable], *part: object
    ) -> None:
        """Append the rows of a result, on the first run that has it and wherever they are missing.

        Parameters
        ----------
        made
            What the rows are read from. None: an outcome that leaves no artifact, told as it
            happens. What was made by a version that kept no provenance has the rows it had.
        make_rows
            Not called if all of its rows were appended before.
        part
            Of this stage, if the artifact is one of several or serves several.
        """
        if made is None:
            for table, rows in make_rows():
                self.history.append(table, list(rows))
        elif PROVENANCE in made.manifest:
            # An artifact that is made anew under its key has rows of its own.
            key = digest([self.key, made.key, made.created_at.isoformat(), *map(str, part)])
            self.history.append_once(key, make_rows)

    def row(self, made: Artifact | None = None, **columns: Any) -> dict[str, Any]:
        """Return a history row: the columns all tables share, and `columns`.

        Run, times and accelerator are those of the artifact that the row is read from, or of now.
        """
        origin = self.provenance if made is None else made.manifest.get(PROVENANCE, {})
        return {
            "model": self.model_key,
            "recipe": None,
            "slo": None,
            "content_key": self.key,
            "seed": None,
            "versions": {},
            "accelerator": origin.get("accelerator"),
            "run_id": origin.get("run_id"),
            "started_at": origin.get("started_at"),
            "ended_at": clock.now() if made is None else made.created_at,
            **columns,
        }

    def result(
        self,
        *,
        status: str = "ok",
        cached: bool = False,
        metadata: Mapping[str, Any],
        artifact: Artifact | None = None,
        checks: list[dg.AssetCheckResult] | None = None,
        pool: str | None = None,
    ) -> dg.MaterializeResult:
        """Return the materialization: its version is the content key, its tags outcome and cache.

        `pool` is where a decision was certified; for all else it is that of the partition.
        A failed outcome has a version of its own, so that what was built on it is rebuilt once the
        stage succeeds.
        """
        version = outcome_version(self.key, status)
        pool = pool or self.node.key.pool
        self._remember_materialization(version, cached, pool)
        self.history.drain()
        shown = {
            **metadata,
            INPUTS_METADATA: {str(node): version for node, version in self.inputs.items()},
        }
        if artifact is not None:
            shown["artifact"] = dg.MetadataValue.path(artifact.where)
        seconds = (clock.now() - self.started_at).total_seconds()
        return dg.MaterializeResult(
            data_version=dg.DataVersion(version),
            metadata={"status": status, "seconds": round(seconds, 1), **shown},
            tags={
                STATUS_TAG: status,
                CACHE_TAG: "hit" if cached else "miss",
                **({} if pool is None else {POOL_TAG: pool}),
            },
            check_results=checks or [],
        )

    def _remember_materialization(self, version: str, cached: bool, pool: str | None) -> None:
        self.history.append(
            "materializations",
            [
                {
                    "asset": self.node.asset,
                    "partition": self.node.partition,
                    "content_key": version,
                    "model": self.model_key,
                    "recipe": self.recipe or None,
                    "slo": self.slo or None,
                    "pool": pool,
                    "owner": self.model_spec.owner,
                    "cached": cached,
                    "run_id": self.context.run.run_id,
                    "materialized_at": clock.now(),
                }
            ],
        )
