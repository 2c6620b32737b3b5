"""A bundle on fresh servers: the very text it ships with, on one engine or on another."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optikit_assets import graph
from optikit_assets.artifacts import Artifact
from optikit_assets.defs.benchmarking.serving import Measurement
from optikit_assets.defs.body import Partition
from optikit_assets.defs.deployment.fresh_servers import Servers
from optikit_assets.defs.evaluation.candidates import Representative, verified
from optikit_assets.engines import Engine
from optikit_assets.environments.installed import installed
from optikit_assets.environments.layout import environment_path
from optikit_assets.errors import ChangedInputError, StageError
from optikit_assets.execution import Pools
from optikit_assets.graph import Key, Node
from optikit_assets.schemas import ArmMeasurement, Deployment
from optikit_assets.settings import settings
from optikit_assets.specs import SloSpec, digest
from resources import PoolRunners


@dataclass
class ShippedServers(Servers):
    """Fresh servers of a bundle; each is an artifact of the run that asked for it.

    ``side`` tells those of now from those of then, also where both are the same.
    """

    side: str
    partition: Partition
    shipped: Representative
    deployment: Deployment
    config: str

    def asked(self, arm: ArmMeasurement, slo: SloSpec, seed: int, **how: Any) -> Measurement:
        """Return what is to be measured of the bundle, with `how` of `Measurement`."""
        partition = self.partition
        budget = slo.budget.model_dump(mode="json")
        key = digest(
            [
                "recertification",
                partition.context.run.run_id,
                self.side,
                self.shipped.digest,
                self.config,
                [seed, sorted(how.items()), budget],
            ]
        )
        return Measurement(
            partition,
            slo,
            self.shipped,
            artifact_key=key,
            flags=self.deployment.flags,
            seed=seed,
            config=self.config,
            of=f"the engine of {self.side}",
            **how,
        )


def servers_of(
    partition: Partition, artifact: Artifact, deployment: Deployment, side: str
) -> ShippedServers:
    """Return the servers of a bundle where the workers of a partition run.

    Raises
    ------
    StageError
        If that is not the engine and the hardware that it was certified on.
    ChangedInputError
        If the weights are not those that were.
    """
    engine, hardware = partition.engine, partition.runner.hardware
    if engine.name != deployment.engine:
        raise StageError(
            f"{deployment.model_key} was certified on the engine {deployment.engine}, and its file "
            f"in recipes/models/ names {engine.name} now"
        )
    if deployment.accelerator not in (hardware.label, hardware.accelerator):
        raise StageError(
            f"{deployment.model_key} was certified on {deployment.accelerator}, and here is "
            f"{hardware.label}: re-certify it there"
        )
    shipped = _shipped(partition, artifact, deployment)
    if shipped.digest != deployment.checkpoint_digest:
        raise ChangedInputError(
            f"the weights in {shipped.where} are not those that {deployment.model_key} was "
            "certified with; run `optikit optimize` again first"
        )
    text = artifact.file(engine.config_file).read_text(encoding="utf-8")
    config = engine.config_text(
        engine.config_flags(text),
        model=shipped.model.symbol,
        served_model_name=deployment.model_key,
    )
    return ShippedServers(deployment.slo, side, partition, shipped, deployment, config)


def as_decided(
    partition: Partition, key: Key, artifact: Artifact, deployment: Deployment
) -> Partition:
    """Return a partition as that of a decision which was made, on the pool it was certified on."""
    partition = copy.copy(partition)
    # Whatever its inputs have become.
    partition.key = artifact.key
    partition.node = Node(graph.DEPLOYABLE_CONFIG, replace(key, pool=deployment.pool))
    return partition


def in_environments_of(partition: Partition, home: Path, deployment: Deployment) -> Partition:
    """Return a partition whose workers run in the stage environments of another ``OPTIKIT_HOME``.

    Raises
    ------
    StageError
        If the engine there is not the one that a deployment was certified on, or the workers are
        on other machines.
    """
    if settings().executor == "ray":
        raise StageError(
            f"stage environments in {home} are of this machine, and the executor ray runs workers "
            "elsewhere: compare with the record instead"
        )
    there = engine_in(partition.engine, home)
    certified = engine_versions(partition.engine, deployment.versions)
    if there != certified:
        raise StageError(
            f"{deployment.model_key} was certified on {versions_told(certified)}, and {home} has "
            f"{versions_told(there)} in its environment serve"
        )
    other = copy.copy(partition)
    for name in ("runner", "provenance", "versions"):
        vars(other).pop(name, None)
    here = settings().model_copy(update={"environments_home": home})
    pools = Pools.of(here, partition.catalog)
    other.runners = PoolRunners(pools, partition.runners.listener)
    return other


def _shipped(partition: Partition, artifact: Artifact, deployment: Deployment) -> Representative:
    """Return what the bundle serves, as a stage has it."""
    checkpoint = None
    for key in artifact.references:
        checkpoint = verified(partition, key)
    return Representative(
        recipe=deployment.recipe or "",
        trial=0,
        model=partition.base_reference if checkpoint is None else checkpoint.reference,
        base=partition.base,
        checkpoint=checkpoint,
        verdict="",
        accepted=True,
        reasons=(),
    )


def engine_in(engine: Engine, home: Path) -> Mapping[str, str]:
    """Return the versions of an engine in the stage environments of an ``OPTIKIT_HOME``."""
    return engine_versions(engine, installed(environment_path(home, "serve")))


def engine_versions(engine: Engine, found: Mapping[str, str]) -> Mapping[str, str]:
    """Return those versions that are an engine's own."""
    return {name: found[name] for name in engine.distributions if name in found}


def versions_told(versions: Mapping[str, str]) -> str:
    """Return versions in words."""
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or "no such engine"
