import pytest
from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants


@pytest.fixture(autouse=True)
def _numbers_of_no_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hypothesis would read all modules of this repository for numbers to try: ten seconds."""
    monkeypatch.setattr(providers, "_get_local_constants", Constants)
