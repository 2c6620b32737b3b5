"""Running installers: limits, ownership, logs, and the package settings of the machine."""

import os
import sys
import time
from pathlib import Path

import pytest

from optikit_assets.environments.layout import INSTALLATIONS, Installation
from optikit_assets.environments.lock import compile_arguments, installations_to_lock
from optikit_assets.environments.uv_tool import (
    CommandError,
    has_disk_space,
    log_tail,
    parse_pip_settings,
    run_logged,
    torch_arguments,
    uv_environ,
)
from tests.alive import is_gone

CPU = INSTALLATIONS["serve", "cpu"]
GPU = INSTALLATIONS["serve", "gpu"]
PIP_LISTING = """\
:env:.find-links='wheels more-wheels'
global.find-links='ignored'
global.index-url='mirror'
install.index-url='better-mirror'
global.cert='ca.pem'
freeze.timeout='1'
"""


def test_pip_settings_of_the_environment_win_over_those_of_files() -> None:
    assert parse_pip_settings(PIP_LISTING) == {
        "find-links": "wheels more-wheels",
        "index-url": "better-mirror",
        "cert": "ca.pem",
    }


def test_uv_gets_what_pip_was_told(tmp_path: Path) -> None:
    environ = uv_environ({"PATH": "bin"}, parse_pip_settings(PIP_LISTING), CPU, tmp_path)
    assert environ["UV_FIND_LINKS"] == "wheels,more-wheels"
    assert environ["UV_DEFAULT_INDEX"] == "better-mirror"
    assert environ["SSL_CERT_FILE"] == "ca.pem"
    assert environ["UV_CACHE_DIR"] == str(tmp_path / "cache" / "uv")
    assert environ["PATH"] == "bin"


def test_settings_made_for_uv_win_over_those_of_pip(tmp_path: Path) -> None:
    mine = {"UV_FIND_LINKS": "a", "UV_DEFAULT_INDEX": "b", "UV_CACHE_DIR": "c"}
    environ = uv_environ(mine, parse_pip_settings(PIP_LISTING), CPU, tmp_path)
    assert {name: environ[name] for name in mine} == mine


def test_cpu_wheels_that_pip_finds_do_not_reach_gpu_sets(tmp_path: Path) -> None:
    assert "UV_FIND_LINKS" not in uv_environ({}, {"find-links": "wheels"}, GPU, tmp_path)


def test_active_virtual_environment_does_not_leak_into_the_installation(tmp_path: Path) -> None:
    leaking = {"VIRTUAL_ENV": "x", "PYTHONPATH": "y", "PYTHONHOME": "z"}
    assert not leaking.keys() & uv_environ(leaking, {}, CPU, tmp_path).keys()


def test_cpu_torch_comes_from_the_find_links_first_and_from_its_own_index_else() -> None:
    backend = ["--torch-backend", "cpu"]
    assert torch_arguments(CPU, {"UV_FIND_LINKS": "wheels"}) == [[], backend]
    assert torch_arguments(CPU, {}) == [backend]
    assert torch_arguments(GPU, {}) == [[]]


def test_every_pinned_set_is_compiled_without_addresses() -> None:
    installations = installations_to_lock()
    assert {installation.requirements for installation in INSTALLATIONS.values()} < {
        r.requirements for r in installations
    }
    for installation in installations:
        arguments = compile_arguments(installation, upgrade=False)
        assert {"--no-emit-index-url", "--no-emit-find-links"} <= set(arguments)
        assert not any(Path(argument).is_absolute() for argument in arguments)
    installation = Installation("x", "x.txt", ("x.in",), overrides="o.txt")
    assert compile_arguments(installation, upgrade=True)[-3:] == [
        "--overrides",
        "o.txt",
        "--upgrade",
    ]


def test_command_and_its_output_are_logged(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "x.log"
    run_logged(["echo", "hello"], log_file=log, environ=os.environ, limit_s=10, cwd=tmp_path)
    assert log_tail(log) == ["$ echo hello", "hello"]
    assert log_tail(log, 1) == ["hello"]
    assert log_tail(tmp_path / "absent") == []


def test_failing_command_reports_its_exit_code(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="exit code 7"):
        run_logged(
            ["sh", "-c", "exit 7"],
            log_file=tmp_path / "log",
            environ=os.environ,
            limit_s=10,
            cwd=tmp_path,
        )


def test_command_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="no-such-command cannot be started"):
        run_logged(["no-such-command"], log_file=tmp_path / "log", environ={}, limit_s=1)


@pytest.mark.parametrize("child", ["sleep 60", "sh -c 'trap : TERM; sleep 60; sleep 60'"])
def test_command_past_its_limit_is_ended_with_its_children(tmp_path: Path, child: str) -> None:
    pid_file = tmp_path / "pid"
    script = f"{child} & echo $! > {pid_file}; wait"
    started_s = time.monotonic()
    with pytest.raises(CommandError, match="ran past its limit of 1 s"):
        run_logged(
            ["sh", "-c", script],
            log_file=tmp_path / "log",
            environ=os.environ,
            limit_s=1,
            cwd=tmp_path,
        )
    assert time.monotonic() - started_s < 10
    assert is_gone(int(pid_file.read_text(encoding="utf-8")))


def test_interrupt_ends_the_command(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"

    def interrupt() -> None:
        if pid_file.exists() and pid_file.read_text(encoding="utf-8"):
            raise KeyboardInterrupt

    script = (
        f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    )
    with pytest.raises(KeyboardInterrupt):
        run_logged(
            [sys.executable, "-c", script],
            log_file=tmp_path / "log",
            environ=os.environ,
            limit_s=30,
            on_wait=interrupt,
            cwd=tmp_path,
        )
    assert is_gone(int(pid_file.read_text(encoding="utf-8")))


def test_disk_space_is_asked_of_the_nearest_existing_folder(tmp_path: Path) -> None:
    assert has_disk_space(tmp_path / "not" / "yet", 1)
    assert not has_disk_space(tmp_path / "not" / "yet", 1 << 60)
