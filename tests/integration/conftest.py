from collections.abc import Iterator

import pytest

from tests.integration.evaluate_driver import Forks


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """What evaluates by workers that need not import their libraries, for the tests of a file."""
    with Forks(tmp_path_factory.mktemp("forks")) as started:
        yield started
