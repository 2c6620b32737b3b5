"""Secrets of the environment are planted; nothing that a run leaves behind holds one."""

from pathlib import Path

import pytest

from optikit_assets.headless.materialize import materialize_node
from optikit_assets.history import History
from optikit_assets.settings import settings
from tests.definitions.test_certification import DEPLOYABLE, prepared
from tests.definitions.world import World
from tests.servers.otlp import traced

SECRETS = {
    "HF_TOKEN": "hf_PlantedPlantedPlanted01",
    "OPENAI_API_KEY": "sk-PlantedPlantedPlanted02",
    "AWS_SECRET_ACCESS_KEY": "PlantedPlantedPlanted03",
    "AZURE_STORAGE_CONNECTION_STRING": "AccountKey=PlantedPlantedPlanted04",
    "WANDB_API_KEY": "PlantedPlantedPlanted05",
    "VLLM_API_KEY": "PlantedPlantedPlanted06",
    "OPTIKIT_POSTGRES_URL": "postgresql+psycopg2://optikit:PlantedPlantedPlanted08@db/optikit",
    "OPTIKIT_POSTGRES_PASSWORD": "PlantedPlantedPlanted08",
}
_MARK = b"PlantedPlanted"


def holding(folder: Path, what: bytes) -> list[str]:
    """Return the files below a folder that hold some bytes."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return sorted(str(file.relative_to(folder)) for file in files if what in file.read_bytes())


@pytest.mark.slow
def test_no_secret_of_the_environment_is_written_anywhere(
    real: World, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    prepared(real, monkeypatch, 1.8)
    with traced(monkeypatch, OTEL_EXPORTER_OTLP_HEADERS=f"key={_MARK.decode()}07") as receiver:
        assert materialize_node(DEPLOYABLE) == "feasible"
    assert {"deployable_config", "worker benchmark", "lease wait"} <= {
        s.name for s in receiver.spans
    }
    assert len({span.trace for span in receiver.spans}) == 1
    assert not any(_MARK in body for body in receiver.raw)
    assert holding(home, _MARK) == []
    history = History(settings().history)
    tables = history.query("SELECT table_name FROM information_schema.tables")["table_name"]
    assert len(tables) > 10
    for table in tables:
        # Its file packs strings: what it holds is looked at as text.
        assert _MARK.decode() not in history.query(f'SELECT * FROM "{table}"').to_json(), table


def test_what_is_planted_in_a_file_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "log").write_bytes(b"\0token=" + _MARK + b"\n")
    assert holding(tmp_path, _MARK) == ["deep/log"]
