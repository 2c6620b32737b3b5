"""A version of a hub model stays what it was, wherever its branch goes; the hub client is real."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from optikit_assets.settings import REPOSITORY
from tests.servers.hub import Hub, serving
from tests.tiny_model import write_model

SOURCE = "hf:org/name@main"
# The client reads its address from the environment once, when it is imported.
SCRIPT = """
import json, sys
from pathlib import Path
from optikit_assets.artifacts.models import ModelRegistry
from optikit_assets.errors import OptikitError
from optikit_assets.sources.datasets import pinned
from optikit_assets.freshness import pinned_suite
from optikit_assets.specs import Catalog, ModelSpec, SuiteSpec
home, *commands = sys.argv[1:]
spec = ModelSpec(name="declared", source="hf:org/name@main")
catalog = Catalog(Path(home, "recipes"), models={"declared": spec})
registry = ModelRegistry(Path(home), Path(home), catalog)
for command in commands:
    verb, _, what = command.partition(" ")
    try:
        if verb == "add":
            source, _, version = what.partition(" ")
            answer = registry.add(source, version=version or None).commit
        elif verb == "dataset":
            answer = pinned(what, Path(home))
        elif verb == "suite":
            task = {"task": "t", "metrics": ["m"], "judge": "classifier", "dataset": f"hf:{what}"}
            suite = SuiteSpec.model_validate({"name": "s", "judge_model": what, "tasks": [task]})
            held = pinned_suite(suite, None, "s.yaml")
            answer = [held.tasks[0].dataset, held.judge_model]
        elif verb == "commit":
            answer = registry.resolve(what).commit
        else:
            answer = registry.fetch(registry.resolve(what)).digest
    except OptikitError as error:
        answer = f"refused: {error}"
    print(json.dumps(answer))
"""

OPTIKIT = ("-c", "from optikit_assets.cli import main; main()", "models")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as found:
        yield found


class Machine:
    """Runs the registry in new processes, as on other days, with the hub at an address."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def run(self, endpoint: str, *argv: str) -> str:
        env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        env |= {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(self.home / "hf"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "OPTIKIT_HOME": str(self.home),
        }
        done = subprocess.run(
            [sys.executable, *argv],
            env=env, cwd=REPOSITORY, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ask(self, hub: Hub, *commands: str) -> list[str | None]:
        out = self.run(hub.endpoint, "-c", SCRIPT, str(self.home), *commands)
        return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "home")


def model(tmp_path: Path, fill: int) -> dict[str, bytes]:
    folder = write_model(tmp_path / f"model{fill}", fill)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.slow
def test_a_branch_that_moves_does_not_change_an_existing_version(tmp_path, hub, machine):
    first = hub.push(model(tmp_path, 1))
    commit, digest = machine.ask(hub, f"add {SOURCE}", "fetch name@main")
    assert commit == first

    second = hub.push(model(tmp_path, 2))
    assert machine.ask(hub, "commit name@main", "fetch name@main") == [first, digest]
    # A new version is what the branch names now; the old one stays.
    added, other, old = machine.ask(hub, f"add {SOURCE} 2", "fetch name@2", "fetch name@main")
    assert added == second
    assert other != digest
    assert old == digest
    # Added again, it is looked up anew.
    again = machine.ask(hub, f"add {SOURCE}", "fetch name@main", "commit name@main")
    assert again == [second, other, second]


@pytest.mark.slow
def test_calibration_data_are_those_of_their_first_use(tmp_path, hub, machine):
    rows = "hf:org/name"
    # Nothing is known of them while the hub cannot be reached.
    out = machine.run("http://127.0.0.1:9", "-c", SCRIPT, str(machine.home), f"dataset {rows}")
    assert json.loads(out) == rows
    first = hub.push({"train.jsonl": b'{"text": "one"}'})
    assert machine.ask(hub, f"dataset {rows}") == [f"{rows}@{first}"]
    second = hub.push({"train.jsonl": b'{"text": "two"}'})
    commands = (f"dataset {rows}", f"dataset {rows}@main", f"dataset {rows}@{second}")
    assert machine.ask(hub, *commands) == [
        f"{rows}@{first}", f"{rows}@{second}", f"{rows}@{second}",
    ]  # fmt: skip


@pytest.mark.slow
def test_items_and_judge_of_a_suite_are_those_of_their_first_use(hub, machine):
    nowhere = Hub(endpoint="http://127.0.0.1:9")
    assert machine.ask(nowhere, "suite org/name") == [["hf:org/name", "org/name"]]
    first = hub.push({"test.jsonl": b"{}"})
    pinned = [[f"hf:org/name@{first}", f"org/name@{first}"]]
    assert machine.ask(hub, "suite org/name") == pinned
    hub.push({"test.jsonl": b"{ }"})
    assert machine.ask(hub, "suite org/name") == pinned
    assert machine.ask(nowhere, "suite org/name") == pinned


@pytest.mark.slow
def test_a_model_that_the_recipes_declare_is_resolved_at_its_first_use(tmp_path, hub, machine):
    first = hub.push(model(tmp_path, 1))
    before, digest, after = machine.ask(
        hub, "commit declared@main", "fetch declared@main", "commit declared@main"
    )
    assert (before, after) == (None, first)
    hub.push(model(tmp_path, 2))
    assert machine.ask(hub, "fetch declared@main", "commit declared") == [digest, first]
    content = json.loads((machine.home / "models/declared/main/source.json").read_text())
    assert content == {"source": "hf:org/name@main", "commit": first}


@pytest.mark.slow
def test_a_version_added_without_a_hub_is_resolved_later_and_used_without_one(
    tmp_path, hub, machine
):
    nowhere = Hub(endpoint="http://127.0.0.1:9")
    commit, refused = machine.ask(nowhere, f"add {SOURCE}", "fetch name@main")
    assert commit is None
    assert str(refused).startswith(f"refused: {SOURCE} is not on this machine and the hub cannot")
    assert "not resolved" in machine.run(nowhere.endpoint, *OPTIKIT, "list")

    first = hub.push(model(tmp_path, 1))
    (digest,) = machine.ask(hub, "fetch name@main")
    assert machine.ask(nowhere, "fetch name@main", f"add {SOURCE}") == [digest, first]


@pytest.mark.slow
def test_a_commit_is_taken_as_it_is_and_a_revision_that_does_not_exist_is_refused(
    tmp_path, hub, machine
):
    first = hub.push(model(tmp_path, 1))
    hub.push(model(tmp_path, 2))
    (commit, refused) = machine.ask(hub, f"add hf:org/name@{first} old", "add hf:org/name@gone")
    assert commit == first
    assert refused == "refused: hf:org/name@gone: the repository has no such revision"


@pytest.mark.slow
def test_the_list_shows_branch_and_commit(tmp_path, hub, machine):
    first = hub.push(model(tmp_path, 1))
    added = machine.run(hub.endpoint, *OPTIKIT, "add", SOURCE, "--version", "1")
    assert added == f"added name@1 ({SOURCE}, commit {first})\n"
    listed = machine.run(hub.endpoint, *OPTIKIT, "list")
    assert f"name@1\t{SOURCE}, commit {first}" in listed.splitlines()
    entries = json.loads(machine.run(hub.endpoint, *OPTIKIT, "list", "--json"))
    assert {"name": "name", "version": "1", "source": SOURCE, "commit": first} in entries
