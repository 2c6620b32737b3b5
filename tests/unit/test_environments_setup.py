"""The set-up program, with a stand-in for uv that creates the folders and can be told to fail."""

import fcntl
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from optikit_assets.environments import setup
from optikit_assets.environments.layout import (
    ENVIRONMENT_NAMES,
    environment_path,
    python_path,
    read_stamp,
    write_stamp,
)
from optikit_assets.environments.setup import InstallationError, main, set_up
from optikit_assets.environments.setup_lock import setup_lock
from optikit_assets.environments.status import environment_status
from optikit_assets.errors import OptikitError
from optikit_assets.locations import REPOSITORY

FAKE_UV = """\
#!{python}
import os, pathlib, sys

arguments = sys.argv[1:]
with open({calls!r}, "a") as calls:
    calls.write(" ".join(arguments) + chr(10))
failure = pathlib.Path({failure!r})
if arguments[0] == "venv":
    folder = pathlib.Path(arguments[-1])
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    (folder / "lib" / "python3.11" / "site-packages").mkdir(parents=True, exist_ok=True)
    (folder / "bin" / "python").unlink(missing_ok=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
elif failure.exists():
    print(failure.read_text())
    sys.exit(2)
"""


class FakeUv:
    """What was asked of the stand-in, and the failure it is told to report."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.command = folder / "uv"
        self._calls = folder / "calls"
        self.failure = folder / "failure"
        script = FAKE_UV.format(
            python=sys.executable, calls=str(self._calls), failure=str(self.failure)
        )
        self.command.write_text(script, encoding="utf-8")
        self.command.chmod(0o755)

    def take_calls(self) -> list[str]:
        if not self._calls.exists():
            return []
        calls = self._calls.read_text(encoding="utf-8").splitlines()
        self._calls.unlink()
        return calls


@pytest.fixture
def uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeUv:
    fake = FakeUv(tmp_path)

    def ensure_uv(*arguments: object, **keywords: object) -> Path:
        return fake.command

    monkeypatch.setattr(setup, "ensure_uv", ensure_uv)
    monkeypatch.setenv("OPTIKIT_HOME", str(fake.home))
    monkeypatch.setenv("OPTIKIT_ACCELERATOR", "cpu")
    monkeypatch.setenv("UV_FIND_LINKS", "wheels")
    return fake


@pytest.fixture
def run(uv: FakeUv) -> Callable[..., list[str]]:
    def run_set_up(*names: str) -> list[str]:
        return set_up(uv.home, names or ENVIRONMENT_NAMES, accelerator="cpu", stream=io.StringIO())

    return run_set_up


def test_fresh_set_up_makes_every_environment_ready(
    uv: FakeUv, run: Callable[..., list[str]]
) -> None:
    assert run() == list(ENVIRONMENT_NAMES)
    assert all(status.ready for status in environment_status(uv.home))
    assert (uv.home / "dagster" / "dagster.yaml").is_file()
    assert [call.split()[0] for call in uv.take_calls()] == ["venv", "pip"] * 3


def test_second_set_up_starts_no_installer(uv: FakeUv, run: Callable[..., list[str]]) -> None:
    run()
    uv.take_calls()
    assert run() == []
    assert uv.take_calls() == []


def test_interrupted_environment_is_built_anew_and_others_are_left_alone(
    uv: FakeUv, run: Callable[..., list[str]]
) -> None:
    run()
    uv.take_calls()
    (environment_path(uv.home, "serve") / "optikit-stamp.json").unlink()
    assert run() == ["serve"]
    venv, sync = uv.take_calls()
    assert venv.startswith("venv --clear")
    assert "requirements/serve-cpu.txt" in sync


def test_changed_requirements_update_in_place(uv: FakeUv, run: Callable[..., list[str]]) -> None:
    run()
    uv.take_calls()
    stamp = read_stamp(uv.home, "compress")
    assert stamp is not None
    older = type(stamp)("older", stamp.location, stamp.repository, stamp.accelerator)
    write_stamp(uv.home, "compress", older)
    assert run() == ["compress"]
    (sync,) = uv.take_calls()
    assert sync.startswith("pip sync")


def test_an_extra_that_was_asked_for_once_is_kept(
    uv: FakeUv, run: Callable[..., list[str]]
) -> None:
    run()
    uv.take_calls()
    done = set_up(uv.home, ENVIRONMENT_NAMES, accelerator="cpu", stream=io.StringIO(), extra="ray")
    assert done == ["control"]
    (sync,) = uv.take_calls()
    assert "requirements/control-ray.txt" in sync
    assert run() == []
    assert all(status.ready for status in environment_status(uv.home))


def test_change_of_machine_rebuilds_from_its_own_pinned_set(
    uv: FakeUv, run: Callable[..., list[str]]
) -> None:
    run("serve")
    uv.take_calls()
    set_up(uv.home, ["serve"], accelerator="gpu", stream=io.StringIO())
    venv, sync = uv.take_calls()
    assert venv.startswith("venv --clear")
    assert "requirements/serve-gpu.txt" in sync


def test_failed_update_leaves_the_environment_unready(
    uv: FakeUv, run: Callable[..., list[str]]
) -> None:
    uv.failure.write_text("boom", encoding="utf-8")
    with pytest.raises(InstallationError):
        run("compress")
    assert read_stamp(uv.home, "compress") is None
    uv.failure.unlink()
    assert run("compress") == ["compress"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("log", "advice"),
    [
        ("error: No space left on device (os error 28)", "free disk space"),
        ("error: Failed to fetch: `x`", "check the network, the proxy"),
        ("error: error sending request: dns error: pytorch index", "PyTorch's own index"),
        ("  × No solution found when resolving dependencies", "make lock"),
        ("something else", "read the log"),
    ],
)
def test_failure_names_the_environment_the_log_and_what_to_do(
    uv: FakeUv, capsys: pytest.CaptureFixture[str], log: str, advice: str
) -> None:
    uv.failure.write_text(log, encoding="utf-8")
    assert main(["compress"]) == 1
    printed = capsys.readouterr().err
    assert "error: the compress environment could not be installed: exit code 2" in printed
    assert str(uv.home / "logs" / "setup" / "compress.log") in printed
    assert f"  | {log}" in printed
    assert advice in printed
    assert "Traceback" not in printed


def test_cpu_torch_is_looked_for_in_its_own_index_when_the_find_links_lack_it(
    uv: FakeUv, run: Callable[..., list[str]]
) -> None:
    uv.failure.write_text("no version of torch==2.13.0+cpu", encoding="utf-8")
    with pytest.raises(InstallationError):
        run("compress")
    first, second = uv.take_calls()[1:]
    assert "--torch-backend" not in first
    assert second.endswith("--torch-backend cpu")


def test_full_disk_is_reported_before_anything_is_downloaded(
    uv: FakeUv, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(setup, "has_disk_space", lambda *_: False)
    assert main(["serve"]) == 1
    assert "needs about 6 GiB" in capsys.readouterr().err
    assert uv.take_calls() == []


def test_worker_environments_import_the_project_without_installing_it(
    uv: FakeUv, run: Callable[..., list[str]]
) -> None:
    run()
    syncs = [call for call in uv.take_calls() if call.startswith("pip sync")]
    assert [("project.txt" in call) for call in syncs] == [True, False, False]
    path_file = python_path(uv.home, "serve").parents[1].glob("lib/*/site-packages/optikit.pth")
    assert [Path(file.read_text().strip()) for file in path_file] == [REPOSITORY]


def test_nothing_is_printed_when_nothing_is_done_and_nobody_watches(
    run: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    run()
    assert main([]) == 0
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""


def test_unknown_environment_is_refused_with_the_known_names(
    uv: FakeUv, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train"])
    assert stopped.value.code == 2
    assert "unknown environment 'train'; known: control, compress, serve" in capsys.readouterr().err
    assert uv.take_calls() == []


def test_second_set_up_waits_for_the_first_up_to_its_limit(tmp_path: Path) -> None:
    with (
        setup_lock(tmp_path, limit_s=1, stream=io.StringIO()),
        pytest.raises(OptikitError, match=rf"started by process {os.getpid()}\)"),
        setup_lock(tmp_path, limit_s=0, stream=io.StringIO()),
    ):
        pass


def test_lock_is_free_again_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), setup_lock(tmp_path, limit_s=1, stream=io.StringIO()):
        raise ZeroDivisionError
    with (tmp_path / "envs" / ".setup.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
