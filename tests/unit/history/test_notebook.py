"""The example notebook runs from top to bottom, on a history with rows and on an empty one."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from optikit_assets.errors import HistoryError
from optikit_assets.history import History, connect
from optikit_assets.settings import REPOSITORY

NOTEBOOK = REPOSITORY / "examples" / "notebooks" / "history.ipynb"


def run(notebook: Path) -> dict[str, object]:
    """Execute the code cells as one program; return its names."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    source = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    names: dict[str, object] = {}
    exec(compile(source, str(notebook), "exec"), names)
    return names


@pytest.fixture
def own(home: Path, history: History, rows) -> History:
    """The history of this OPTIKIT_HOME."""
    history.root.rename(home / "history")
    rows.history = History(home / "history")
    return rows.history


def test_the_notebook_answers_from_the_history_of_this_home(own, rows):
    rows.sweep("baseline", 2.0)
    rows.trial("baseline", 0, 2.0, study="s")
    rows.trial("baseline", 1, 3.0, study="s")
    own.drain()
    names = run(NOTEBOOK)
    gains = names["gains"]
    assert list(gains["gain_over_baseline"]) == [1.5, 1.0]  # pyright: ignore[reportIndexIssue]
    (line,) = names["axes"].get_lines()  # pyright: ignore[reportAttributeAccessIssue]
    assert list(line.get_ydata()) == [2.0, 3.0]


def test_the_notebook_runs_on_an_empty_history(own):
    own.drain()
    assert len(run(NOTEBOOK)["costs"]) == 0  # pyright: ignore[reportArgumentType]


def test_a_notebook_without_a_history_is_told_so(home: Path):
    with pytest.raises(HistoryError, match="there is no history at"):
        connect()


def test_a_connection_asks_and_does_nothing_else(own, rows):
    rows.sweep("baseline", 2.0)
    own.drain()
    with connect() as connection:
        assert connection.sql("SELECT recipe FROM sweeps").df()["recipe"].tolist() == ["baseline"]
        orders: list[Callable[[], object]] = [
            lambda: connection.sql("DELETE FROM sweeps"),
            lambda: connection.sql("COPY sweeps TO 'out.csv'"),
            lambda: connection.sql("SET enable_external_access = true"),
        ]
        for order in orders:
            with pytest.raises(Exception, match=r"read-only|disabled|locked"):
                order()
