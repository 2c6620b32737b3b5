"""Which executor a setting chooses."""

from pathlib import Path

import pytest

from optikit_assets.errors import AcceleratorError, UnknownNameError
from optikit_assets.execution import LocalExecutor, get_executor, register_executor
from optikit_assets.settings import Settings
from optikit_assets.specs import LOCAL, PoolSpec, plugins

HERE = PoolSpec(name=LOCAL)
MODULE = """\
class Elsewhere:
    def __init__(self, settings, pool):
        self.home, self.pool = settings.home, pool
"""


def test_the_local_executor_is_chosen_unless_a_setting_says_otherwise(tmp_path: Path) -> None:
    assert isinstance(get_executor(Settings(home=tmp_path), HERE), LocalExecutor)


def test_an_executor_that_nobody_registered_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown executor 'nomad'; known: local, ray.*OPTIKIT_EX"
    ):
        get_executor(Settings(home=tmp_path, executor="nomad"), HERE)


def test_this_machine_is_no_pool_that_labels_select(tmp_path: Path) -> None:
    away = PoolSpec(
        name="h100",
        accelerator="H100",
        cards_per_node=8,
        reach={"ray.io/accelerator-type": "H100"},
    )
    with pytest.raises(AcceleratorError, match=r"pool h100 is selected by labels.*EXECUTOR is loc"):
        get_executor(Settings(home=tmp_path), away)


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="executor 'local' is registered already"):
        register_executor("local")(lambda settings, pool: LocalExecutor(settings.home))


def test_an_installed_package_brings_an_executor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "acme-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[optikit.executors]\nacme = acme_cluster:Elsewhere\n")
    (tmp_path / "acme_cluster.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    plugins.registered.cache_clear()
    try:
        found = get_executor(Settings(home=tmp_path, executor="acme"), HERE)
        assert type(found).__name__ == "Elsewhere"
        assert found.home == tmp_path  # type: ignore[attr-defined]
        assert found.pool is HERE  # type: ignore[attr-defined]
    finally:
        plugins.registered.cache_clear()
