"""The pools: an executor for each, and what it declares held against what its nodes have."""

from collections.abc import Callable, Mapping

from optikit_assets.engines import Hardware
from optikit_assets.errors import AcceleratorError
from optikit_assets.execution.base import Executor, get_executor
from optikit_assets.execution.ledger import Keep, RecordedExecutor
from optikit_assets.execution.local import LocalExecutor
from optikit_assets.settings import Settings
from optikit_assets.specs import Catalog, PoolSpec, is_type_of

# What a card's driver reports is up to this much less than the round number that it is sold with.
_MEMORY_SHARE = 0.9
_GIB = 1024**3


class Pools:
    """The executor of every pool by its name, made when it is first asked for.

    Parameters
    ----------
    spec_of
        Returns what is declared of a pool.
    make
        Makes its executor.
    keep
        Records who held which cards when, see `RecordedExecutor`; None: nobody does.
    """

    def __init__(
        self,
        spec_of: Callable[[str], PoolSpec],
        make: Callable[[PoolSpec], Executor],
        keep: Keep | None = None,
    ) -> None:
        self._spec_of = spec_of
        self._make = make
        self._keep = keep
        self._executors: dict[str, Executor] = {}
        self._hardware: dict[str, Hardware] = {}

    @classmethod
    def of(cls, settings: Settings, catalog: Catalog, keep: Keep | None = None) -> "Pools":
        """Return the pools of a catalog on the executor that the settings name."""
        return cls(catalog.pool, lambda pool: get_executor(settings, pool), keep)

    @classmethod
    def here(cls, settings: Settings) -> "Pools":
        """Return this machine alone, whatever executor is chosen; its leases are not recorded."""
        return cls(
            lambda name: PoolSpec(name=name),
            lambda pool: LocalExecutor(settings.home, settings.envs_home),
        )

    def executor(self, name: str) -> Executor:
        """Return what runs the workers of a pool.

        Raises
        ------
        UnknownNameError
            If there is no such pool.
        AcceleratorError
            If it is not reached from here.
        """
        if name not in self._executors:
            made = self._make(self._spec_of(name))
            if self._keep is not None:
                made = RecordedExecutor(made, name, self._keep)
            self._executors[name] = made
        return self._executors[name]

    def environment(self, name: str, stage_environment: str) -> str:
        """Return the digest of what is installed in a stage environment of a pool's nodes."""
        return self.executor(name).environment(stage_environment)

    def variables(self, name: str) -> Mapping[str, str]:
        """Return the environment variables of a pool's nodes that results depend on."""
        return self.executor(name).variables()

    def hardware(self, name: str) -> Hardware:
        """Return that of a pool's nodes, which is what the pool declares; asked once.

        Raises
        ------
        UnknownNameError
            If there is no such pool.
        AcceleratorError
            If it is not reached from here, or is something else.
        """
        if name not in self._hardware:
            found = self.executor(name).hardware()
            self._hardware[name] = check_pool(self._spec_of(name), found)
        return self._hardware[name]


def check_pool(pool: PoolSpec, hardware: Hardware) -> Hardware:
    """Return the hardware, which is what the pool declares.

    Raises
    ------
    AcceleratorError
        If it is of another type, or less.
    """
    wrong = [
        text
        for text, differs in (
            (
                f"accelerator {pool.accelerator}",
                pool.accelerator is not None
                and not is_type_of(pool.accelerator, hardware.accelerator),
            ),
            (
                f"cards_per_node {pool.cards_per_node}",
                (pool.cards_per_node or 0) > hardware.count,
            ),
            (
                f"memory_gib {pool.memory_gib or 0:g}",
                (pool.memory_gib or 0) * _MEMORY_SHARE * _GIB > hardware.memory_bytes,
            ),
        )
        if differs
    ]
    if wrong:
        raise AcceleratorError(
            f"pool {pool.name} declares {', '.join(wrong)}, but its node has {hardware.count} x "
            f"{hardware.accelerator} with {hardware.memory_bytes / _GIB:.1f} GiB: correct "
            f"recipes/hardware/{pool.name}.yaml, or what its reach leads to"
        )
    return hardware


def beyond_a_node(pool: str, accelerators: int, hardware: Hardware) -> str:
    """Say why a server cannot have so many accelerators of a pool."""
    return (
        f"needs {accelerators} accelerators, a node of pool {pool} has {hardware.count}: a server "
        "runs on one node, so neither tensor nor pipeline parallelism goes beyond its cards"
    )
