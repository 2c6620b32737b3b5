"""Commands that look and start nothing."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import typer

from optikit_assets import __version__
from optikit_assets.artifacts import open_store
from optikit_assets.cli import inspect
from optikit_assets.cli.app import app
from optikit_assets.history import History
from optikit_assets.settings import settings
from tests.tiny_model import write_model
from tests.unit.cli.conftest import Optikit
from tests.unit.history.test_exchange import Log


def test_version(optikit: Optikit):
    ended = optikit("--version")
    assert (ended.code, ended.out) == (0, f"optikit {__version__}\n")


PROMISED = {
    "optimize": {"--model", "--flow", "--slo", "--recipe", "--job", "--shortlist", "--json"},
    "plan": {"--model", "--slo", "--target-rps", "--pool", "--recipe", "--shortlist", "--json"},
    "bench": {"--base-url", "--model", "--slo", "--seed", "--json"},
    "evaluate": {"--base-url", "--model", "--suite", "--chat", "--tokenizer", "--seed", "--json"},
    "repeatability": {"--model", "--recipe", "--suite", "--times", "--deterministic", "--json"},
    "sql": {"--format"},
    "status": {"--model"},
    "doctor": {"--verify", "--repair"},
    "models add": {"--name", "--version"},
    "models list": {"--json"},
}
"""What other people's scripts call."""


def declared(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every command without sub-commands, under its full name."""
    for part, sub in getattr(command, "commands", {}).items():
        yield from declared(sub, f"{name} {part}".strip())
    if not hasattr(command, "commands"):
        yield name, command


COMMANDS = dict(declared(typer.main.get_command(app)))


@pytest.mark.parametrize("name", PROMISED)
def test_promised_commands_take_their_options(name: str):
    assert PROMISED[name] <= {flag for option in COMMANDS[name].params for flag in option.opts}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_says_what_it_is_for(name: str):
    command = COMMANDS[name]
    assert command.help.strip().endswith(".")
    silent = [p.name for p in command.params if not (getattr(p, "help", None) or p.metavar)]
    assert silent == []


@pytest.mark.slow
def test_help_does_not_wait_for_libraries_that_it_does_not_need():
    """A second of imports before every answer is what makes a command line feel slow."""
    heavy = ("dagster", "duckdb", "matplotlib", "optuna", "pandas", "scipy")
    program = f"""
import sys
from optikit_assets.cli import main
sys.argv = ["optikit", "bench", "--help"]
try:
    main()
except SystemExit as ended:
    print(ended.code, sorted(set({heavy}) & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stderr == "0 []\n"
    assert "--base-url" in done.stdout


@pytest.mark.parametrize("command", [(), ("models",)])
def test_no_arguments_show_the_help_and_fail(optikit: Optikit, command: tuple[str, ...]):
    ended = optikit(*command)
    assert "Usage: optikit" in ended.out
    assert ended.code != 0
    assert ended.err == ""


def test_an_added_model_is_listed(optikit: Optikit, tmp_path: Path):
    folder = write_model(tmp_path / "Qwen2.5-7B" / "2024.11")
    added = optikit("models", "add", folder)
    assert (added.code, added.out) == (0, f"added Qwen2.5-7B@2024.11 ({folder})\n")
    listed = optikit("models", "list")
    assert f"Qwen2.5-7B@2024.11\t{folder}" in listed.out.splitlines()
    assert any(line.startswith("demo-llama@1\t") for line in listed.out.splitlines())
    entries = json.loads(optikit("models", "list", "--json").out)
    added = {"name": "Qwen2.5-7B", "version": "2024.11", "source": str(folder), "commit": None}
    assert added in entries


def test_a_hub_model_is_added_without_network(optikit: Optikit, monkeypatch: pytest.MonkeyPatch):
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    added = optikit("models", "add", "hf:Qwen/Qwen2.5-7B-Instruct@main", "--version", "1")
    assert (added.code, added.err) == (0, "")
    assert "Qwen2.5-7B-Instruct@1" in optikit("models", "list").out


def test_doctor_fails_and_says_what_to_do_while_environments_are_missing(optikit: Optikit):
    ended = optikit("doctor")
    assert ended.code == 1
    assert ended.out.count("missing") == 3
    assert ended.out.count("make setup") == 3
    for word in ("accelerator", "disk", "specs"):
        assert word in ended.out


def test_doctor_names_folders_that_cannot_be_models(optikit: Optikit, home: Path):
    write_model(home / "models" / "a b" / "1")
    assert "'a b' may not contain" in " ".join(optikit("doctor").out.split())


def test_doctor_verifies_when_asked_and_lists_what_was_put_aside(optikit: Optikit):
    store = open_store(settings().store, settings().home)
    for key in ("a" * 64, "b" * 64):
        with store.create(key, "checkpoint") as draft:
            draft.file("weights").write_text("first")
    store.get("a" * 64).file("weights").write_text("other")
    assert "quarantined" not in optikit("doctor").out
    out = optikit("doctor", "--verify").out
    assert "1 verified, 1 damaged" in out
    assert store.find("a" * 64) is None
    assert store.find("b" * 64) is not None
    # Until somebody deletes it.
    shown = " ".join(optikit("doctor").out.split())
    assert "checkpoint aaaaaaaaaaaa…" in shown
    assert "quarantined" in shown
    assert "weights: its digest was" in shown


@pytest.mark.slow
def test_status_of_an_empty_instance_lists_the_models(optikit: Optikit, with_instance: Path):
    write_model(with_instance / "models" / "qwen" / "1")
    ended = optikit("status")
    assert (ended.code, ended.err) == (0, "")
    rows = [line.split("│") for line in ended.out.splitlines() if "base_model" in line]
    assert [row[2].strip() for row in rows] == ["demo-llama@1", "qwen@1"]
    assert all("missing" in row[3] and "never materialized" in row[-2] for row in rows)
    only = optikit("status", "--model", "qwen")
    assert "qwen@1" in only.out
    assert "demo-llama" not in only.out


@pytest.mark.slow
def test_a_table_shows_text_in_square_brackets_as_it_is(optikit: Optikit, home: Path):
    history = History(home / "history")
    reason = "[bold]fast[/bold] [/red] [link=x]"
    history.append("sweeps", [{"model": "m", "content_key": "k", "status": "ok", "reason": reason}])
    ended = optikit("sql", 'SELECT reason AS "[/i] why", reason AS "[b]" FROM sweeps')
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.count(reason) == 2
    assert "[/i] why" in ended.out


@pytest.mark.slow
def test_a_table_shows_lists_and_what_is_missing(optikit: Optikit, home: Path):
    History(home / "history").drain()
    ended = optikit("sql", "SELECT [1, 2] AS a, [1.5, NULL] AS b, NULL::BOOLEAN AS c, 1 AS c")
    assert (ended.code, ended.err) == (0, "")
    assert [cell.strip() for cell in ended.out.splitlines()[3].strip("│").split("│")] == [
        "[1, 2]",
        "[1.5, None]",
        "–",
        "1",
    ]


@pytest.mark.slow
def test_sql_answers_with_this_machines_rows_and_says_when_others_may_be_late(
    optikit: Optikit, home: Path, monkeypatch: pytest.MonkeyPatch
):
    away = Log(home / "empty")
    away.fails = "add"
    monkeypatch.setattr(inspect, "open_history", lambda here: History(here.history, log=away))
    History(home / "history", log=away).append(
        "sweeps", [{"model": "m", "content_key": "k", "status": "ok"}]
    )
    ended = optikit("sql", "SELECT model FROM sweeps", "--format", "json")
    assert (ended.code, json.loads(ended.out)) == (0, [{"model": "m"}])
    assert ended.err.splitlines() == ["warning: rows may be late: the log cannot be reached"]


@pytest.mark.slow
def test_a_damaged_copy_is_mended_before_the_answer(optikit: Optikit, home: Path):
    history = History(home / "history")
    history.append("sweeps", [{"model": "m", "content_key": "k", "status": "ok"}])
    history.drain()
    history.published_path.unlink()
    history.published_path.write_text("no database")
    assert json.loads(optikit("sql", "SELECT model FROM sweeps", "--format", "json").out) == [
        {"model": "m"}
    ]


def test_a_channel_without_a_canary_is_refused_instead_of_ignored(optikit: Optikit) -> None:
    ended = optikit("deploy", "--model", "tiny", "--slo", "chat", "--channel", "staging")
    assert ended.code == 1
    assert "--channel staging is for --canary PERCENT alone" in ended.error
