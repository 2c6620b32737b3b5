import gc
import os
import shutil
import signal
from collections.abc import Generator, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from optikit_assets.environments.layout import prepare_dagster_home
from optikit_assets.execution.ray.loopback import LoopbackCluster
from optikit_assets.history import History
from optikit_assets.settings import settings
from tests.cluster import connected, three_nodes
from tests.quick_storage import opened_quickly

# What `slow` leaves to a test, in seconds of a processor; twice that is no accident of the machine.
_QUICK_S = 0.3
_NOT_FAST = {"slow", "serial", "alone", "integration", "e2e"}
_PROCESSOR_S = "processor_s"
_BEGUN_S = pytest.StashKey[float]()


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts what runs in its background with Ctrl-C ignored, and children inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Dagster calls what it has deprecated itself; where our code does, it stays an error.
    config.addinivalue_line(
        "filterwarnings", r"ignore:.* is deprecated:DeprecationWarning:dagster\."
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # What takes minutes first: no process is left with it alone at the end. Files stay whole.
    long = {item.path for item in items if item.get_closest_marker("integration")}
    items.sort(key=lambda item: item.path not in long)
    # `make test` finds these by the text of their files.
    for mark in ("serial", "alone"):
        for file in {item.path for item in items if item.get_closest_marker(mark)}:
            if f"pytest.mark.{mark}" not in file.read_text(encoding="utf-8"):
                raise pytest.UsageError(f"{file}: say pytest.mark.{mark} where the tests are")


def pytest_collection_finish() -> None:
    # Modules stay as long as the process does: to look through them for garbage, again and again,
    # takes a tenth of the time of tests.
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    # At its end a process asks of its modules whether they left anything behind.
    gc.unfreeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    item.stash[_BEGUN_S] = _processor_s()
    yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "teardown":
        report.user_properties.append((_PROCESSOR_S, _processor_s() - item.stash[_BEGUN_S]))
    return report


def _processor_s() -> float:
    """Return the processor time of this process and of those children that it waited for."""
    return sum(os.times()[:4])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name what `make test-fast` ran and should not; no test fails for the time that it took."""
    took = {
        report.nodeid: dict(report.user_properties)[_PROCESSOR_S]
        for report in terminalreporter.getreports("")
        if report.when == "teardown" and _NOT_FAST.isdisjoint(report.keywords)
    }
    most = sorted((node for node in took if took[node] > 2 * _QUICK_S), key=took.__getitem__)
    for node in most[-10:]:
        line = f"{took[node]:.1f} s of a processor without the mark slow: {node}"
        terminalreporter.write_line(line)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Set OPTIKIT_HOME to an empty folder, for this process and those that it starts."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("OPTIKIT_HOME", str(folder))
    monkeypatch.delenv("OPTIKIT_RECIPES", raising=False)
    monkeypatch.delenv("OPTIKIT_ENVIRONMENTS_HOME", raising=False)
    # Opening the instance sets it: this makes monkeypatch put the old value back.
    monkeypatch.setenv("DAGSTER_HOME", str(folder / "dagster"))
    settings.cache_clear()
    yield folder
    settings.cache_clear()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackCluster]:
    """A Ray cluster on loopback; this process is connected to it, as far as Ray is concerned."""
    # Not imported yet: it reads the variables of the cluster's token then.
    if find_spec("ray") is None:
        pytest.skip("the extra ray is not installed: make setup-ray")
    with connected(three_nodes(tmp_path_factory.mktemp("nodes"))) as started:
        yield started


@pytest.fixture(scope="session")
def quick_storage() -> Iterator[None]:
    """Dagster's databases open in a fraction of the time that they would take each by itself."""
    with opened_quickly():
        yield


@pytest.fixture(scope="session")
def empty_instance(tmp_path_factory: pytest.TempPathFactory, quick_storage: None) -> Path:
    """A DAGSTER_HOME with empty databases: making them takes longer than most tests."""
    import dagster as dg

    folder = prepare_dagster_home(tmp_path_factory.mktemp("instance"))
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        instance.add_dynamic_partitions("none", ["none"])
        instance.delete_dynamic_partition("none", "none")
    return folder


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A history with the latest schema: all migrations take longer than most drains."""
    history = History(tmp_path_factory.mktemp("empty"))
    history.drain()
    return history.root / "private" / "history.duckdb"


@pytest.fixture
def with_instance(home: Path, empty_instance: Path) -> Path:
    """Put an empty Dagster instance below OPTIKIT_HOME."""
    shutil.copytree(empty_instance, home / "dagster")
    return home


@pytest.fixture
def with_history(home: Path, empty_database: Path) -> Path:
    """Put an empty history below OPTIKIT_HOME."""
    (home / "history" / "private").mkdir(parents=True)
    shutil.copy(empty_database, home / "history" / "private")
    return home
