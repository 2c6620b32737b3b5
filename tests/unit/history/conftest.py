import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from optikit_assets.history import History

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class Rows:
    """Writes rows with what every table asks for filled in."""

    def __init__(self, history: History) -> None:
        self.history = history

    def add(self, table: str, day: int = 0, **row: Any) -> None:
        row = {"model": "qwen@1", "started_at": EPOCH + timedelta(days=day)} | row
        key = [row["model"], row.get("recipe", ""), row.get("slo", ""), table]
        self.history.append(table, [{"content_key": "/".join(key)} | row])

    def sweep(self, recipe: str, rate: float | None, slo: str = "chat", **row: Any) -> None:
        self.add(
            "sweeps",
            recipe=recipe,
            slo=slo,
            **{
                "status": "infeasible" if rate is None else "feasible",
                "certified_rate_rps": rate or 0.0,
                "gpus": 1,
            }
            | row,
        )

    def trial(
        self, recipe: str, trial: int, rate: float | None, slo: str = "chat", **row: Any
    ) -> None:
        self.add(
            "tuning_trials",
            recipe=recipe,
            slo=slo,
            trial=trial,
            **{
                "status": "infeasible" if rate is None else "feasible",
                "rate_rps": rate or 0.0,
                "gpus": 1,
                "is_default": trial == 0,
            }
            | row,
        )

    def gate(self, recipe: str, accepted: bool, mean_recovery: float = 0.99, **row: Any) -> None:
        self.add(
            "quality_gates",
            recipe=recipe,
            verdict="pass" if accepted else "fail",
            accepted=accepted,
            mean_recovery=mean_recovery,
            **row,
        )


@pytest.fixture
def new_history(tmp_path: Path) -> History:
    return History(tmp_path / "history")


@pytest.fixture
def history(new_history: History, empty_database: Path) -> History:
    (new_history.root / "private").mkdir(parents=True)
    shutil.copy(empty_database, new_history.root / "private")
    return new_history


@pytest.fixture
def rows(history: History) -> Rows:
    return Rows(history)
