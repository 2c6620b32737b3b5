from collections.abc import Iterator

import pytest

from tests.integration.evaluate_driver import Forks


@pytest.fixture(scope="module", autouse=True)
def patient_threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Threads of workers and servers sleep while they wait for one another.

    As many as there are cores, they would spin instead, and beside other tests some of them always
    lack a core: more than half of what a worker computed was that.
    """
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("alone") is None:
            patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        yield


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """What evaluates by workers that need not import their libraries, for the tests of a file."""
    with Forks(tmp_path_factory.mktemp("forks")) as started:
        yield started
