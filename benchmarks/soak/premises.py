"""One long-lived `optikit dev` over one state folder: Dagster's servers, reports and metrics.

What `make dev` runs, with the models, workers and environments of `benchmarks.faults.room`.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.faults.room import Home, Room
from benchmarks.faults.stages import RECIPE, SLO
from optikit_assets.engines.server import free_port
from optikit_assets.processes import OwnedProcess
from optikit_assets.settings import configure

START_LIMIT_S = 240.0
_ASK_LIMIT_S = 60.0
_QUIET_S = 1
# How artifacts, drafts, copies of bundles and logs are dated.
_DATED = ("artifacts/[0-9a-f][0-9a-f]/*", "artifacts/staging/*", "bundles/*/*", "logs/*/*")


@dataclass(frozen=True)
class Premises:
    """A running Dagster, its state folder, and the files that people edit.

    Attributes
    ----------
    variables
        Environment of every process of it, by which they are known.
    url, reports, metrics
        Addresses on loopback.
    """

    room: Room
    home: Home
    variables: dict[str, str]
    url: str
    reports: str
    metrics: str

    def command(self, name: str, *words: str) -> OwnedProcess:
        """Return a command of ours, to be started; what it says is in NAME.log."""
        log_file = self.home.play / "commands" / f"{name}.log"
        return self.home.optikit(name, log_file, *words, variables=self.variables)

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """Ask Dagster's GraphQL, as its UI does."""
        asked = {"query": query, "variables": variables}
        answer = httpx.post(f"{self.url}/graphql", json=asked, timeout=_ASK_LIMIT_S)
        answer.raise_for_status()
        told = answer.json()
        if "errors" in told:
            raise SystemExit(f"GraphQL: {told['errors']}")
        return told["data"]

    def edit(self, file: str, **changes: object) -> None:
        """Change keys of a file of ``recipes/``."""
        path = self.room.root / "world" / "recipes" / file
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))

    def let_pass(self, seconds: float) -> None:
        """Let time pass for what was used, written and ticked so far."""
        root = self.home.folder
        for place in (place for pattern in _DATED for place in root.glob(pattern)):
            then = place.stat().st_mtime - seconds
            os.utime(place, (then, then))

    def let_ticks_pass(self, days: int) -> None:
        """Let days pass for the ticks of sensors, which Dagster purges by their age."""
        file = self.home.folder / "dagster" / "schedules" / "schedules.db"
        with closing(sqlite3.connect(file, timeout=60)) as ticks, ticks:
            ticks.execute(f"UPDATE job_ticks SET timestamp = datetime(timestamp, '-{days} days')")


@contextmanager
def running(root: Path) -> Iterator[Premises]:
    """Make a room with models, start Dagster in it, and end all of it with the context."""
    room = Room(root)
    home = Home(root / "plays" / "soak" / "home")
    home.folder.mkdir(parents=True)
    configure(home=home.folder)
    ports = [free_port() for _ in range(3)]
    url, reports, metrics = (f"http://127.0.0.1:{port}" for port in ports)
    variables = {
        **home.variables,
        "OPTIKIT_AUTOMATION": "models",
        "OPTIKIT_DAGSTER_URL": url,
        "OPTIKIT_METRICS": str(ports[2]),
        "OPTIKIT_MODEL_QUIET_S": str(_QUIET_S),
        "OPTIKIT_REPORTS_PORT": str(ports[1]),
    }
    made = Premises(room, home, variables, url, reports, metrics)
    # What the sensor requests of a version that comes; a decision has a study of one trial.
    made.edit("models/tiny.yaml", flow="quantize", recipes=[RECIPE])
    made.edit(f"search_spaces/{SLO}.yaml", trials=1)
    with made.command("dev", "dev", "--port", str(ports[0])) as dagster:
        if not dagster.until(lambda: _answers(f"{url}/server_info"), START_LIMIT_S):
            raise SystemExit(f"Dagster does not answer:\n{dagster.log_tail()}")
        yield made


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.HTTPError:
        return False
