"""Executor ``ray``: workers on the nodes of a Ray cluster; see ``docs/cluster.md``.

Ray is in the extra ``optikit-assets[ray]``. Nothing of it is imported before an executor is made.
"""

from typing import TYPE_CHECKING

from optikit_assets.errors import EnvironmentMissingError, SpecError
from optikit_assets.execution.base import register_executor
from optikit_assets.settings import Settings
from optikit_assets.specs import PoolSpec

if TYPE_CHECKING:
    from optikit_assets.execution.ray.executor import RayExecutor

__all__ = ["ray_executor"]


@register_executor("ray")
def ray_executor(settings: Settings, pool: PoolSpec) -> "RayExecutor":
    """Return the executor of a pool's nodes on the cluster at ``OPTIKIT_RAY_ADDRESS``.

    The pool of the machine itself stands for any node with cards.

    Raises
    ------
    EnvironmentMissingError
        If Ray is not installed.
    SpecError
        If there is no address.
    """
    if settings.ray_address is None:
        raise SpecError(
            "OPTIKIT_RAY_ADDRESS",
            ["is not set, and OPTIKIT_EXECUTOR=ray needs it: HOST:PORT of the cluster's head"],
        )
    try:
        from optikit_assets.execution.ray.executor import RayExecutor
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise
        raise EnvironmentMissingError(
            "OPTIKIT_EXECUTOR=ray needs Ray, which is not installed; run: make setup-ray "
            "(or: pip install 'optikit-assets[ray]')"
        ) from error
    return RayExecutor(
        settings.ray_address,
        settings.home,
        selector=pool.labels,
        without_cards=pool.accelerator == "cpu",
        scale_up_s=settings.ray_scale_up_s,
    )
