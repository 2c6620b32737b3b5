"""A model version is dropped into a folder, and the daemon makes its deployable config.

``python -m benchmarks.dropped_version [--write]`` starts Dagster's daemon (no UI, no command of
ours) on a state folder of its own, with the recipes of the repository and a models folder that
holds one version of the demo model. Once the sensor has looked, a second version is copied there,
file by file. Then nothing is done but to look, until ``deployable_config`` of it is recorded.

It prints when which run was requested, started and ended, and where the time went. ``--write`` puts
that into ``docs/daily-use.md``.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import dagster as dg
import yaml

from benchmarks.tables import markdown, write_section
from optikit_assets.defs import partitions
from optikit_assets.defs.sensors import OPTIMIZE_JOB
from optikit_assets.graph import DEPLOYABLE_CONFIG
from optikit_assets.headless.materialize import open_instance
from optikit_assets.processes import OwnedProcess
from optikit_assets.settings import REPOSITORY, configure, settings

MODEL, SLO = "demo-llama", "demo"
_FOUND, _DROPPED = "1", "2"
_SHIPPED = REPOSITORY / "demo" / "models" / MODEL / _FOUND
_BETWEEN_FILES_S = 2.0
_FIRST_LOOK_LIMIT_S = 180.0
_LIMIT_S = 5400.0
_POLL_S = 1.0


def prepare(home: Path) -> Path:
    """Make the state folder the one that settings name; return the model's folder of versions."""
    versions = home / "models" / MODEL
    shutil.copytree(settings().recipes, home / "recipes")
    shutil.copytree(_SHIPPED, versions / _FOUND)
    file = home / "recipes" / "models" / f"{MODEL}.yaml"
    spec = yaml.safe_load(file.read_text(encoding="utf-8"))
    file.write_text(yaml.safe_dump(spec | {"source": str(versions)}), encoding="utf-8")
    configure(environments_home=settings().envs_home, home=home, recipes=home / "recipes")
    return versions


def daemon(home: Path) -> OwnedProcess:
    """Return Dagster's daemon on the instance of `home`, ended with its context."""
    program = Path(sys.executable).with_name("dagster-daemon")
    return OwnedProcess(
        [str(program), "run", "--workspace", str(REPOSITORY / "workspace.yaml")],
        log_file=home / "daemon.log",
        env=dict(os.environ),
        cwd=REPOSITORY,
        name="Dagster's daemon",
        grace_s=30.0,
    )


def drop(versions: Path) -> None:
    """Copy a version as a slow upload does: file by file, the largest last."""
    folder = versions / _DROPPED
    folder.mkdir()
    for file in sorted(_SHIPPED.iterdir(), key=lambda file: file.stat().st_size):
        shutil.copyfile(file, folder / file.name)
        time.sleep(_BETWEEN_FILES_S)


def until(holds: Callable[[], bool], limit_s: float, running: OwnedProcess, what: str) -> None:
    """Wait for something that the daemon does; end with its last words if it does not."""
    end_s = time.monotonic() + limit_s
    while not holds():
        if running.poll() is not None or time.monotonic() > end_s:
            raise SystemExit(f"{what}:\n{running.log_tail()}")
        time.sleep(_POLL_S)


def decided(instance: dg.DagsterInstance) -> bool:
    """Whether the decision of the dropped version is recorded; ends if the request failed."""
    ended = instance.get_runs(dg.RunsFilter(job_name=OPTIMIZE_JOB))
    if bad := [run for run in ended if run.status == dg.DagsterRunStatus.FAILURE]:
        raise SystemExit(f"the request failed: run {bad[0].run_id}")
    made = instance.get_materialized_partitions(dg.AssetKey(DEPLOYABLE_CONFIG))
    return bool(made) and any(run.is_success for run in ended)


def timeline(instance: dg.DagsterInstance, dropped_at: float) -> list[dict[str, str]]:
    """Return a row for every run of the dropped version, in the order of their starts."""
    rows: list[dict[str, str]] = []
    records = [r for r in instance.get_run_records() if r.start_time and r.end_time]
    for record in sorted(records, key=lambda record: record.start_time or 0.0):
        run = record.dagster_run
        start, end = record.start_time or 0.0, record.end_time or 0.0
        assets = sorted(key.to_user_string() for key in run.asset_selection or ())
        rows.append(
            {
                "run": ", ".join(assets) or run.job_name,
                "partition": run.tags.get("dagster/partition") or run.tags.get("optikit/model", ""),
                "requested at (s)": f"{record.create_timestamp.timestamp() - dropped_at:.0f}",
                "started at (s)": f"{start - dropped_at:.0f}",
                "took (s)": f"{end - start:.0f}",
                "status": run.status.value,
            }
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Drop a version, wait for its decision and print where the time went; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dropped_version")
    parser.add_argument("--write", action="store_true", help="put it into docs/daily-use.md")
    chosen = parser.parse_args(arguments)
    home = settings().home / "dropped-version"
    if home.exists():
        raise SystemExit(f"{home} is of an earlier run: remove it, so that nothing is there yet")
    versions = prepare(home)
    with open_instance() as instance, daemon(home) as running:
        key = f"{MODEL}@{_FOUND}"
        until(
            lambda: key in instance.get_dynamic_partitions(partitions.MODEL_DIMENSION),
            _FIRST_LOOK_LIMIT_S,
            running,
            "the sensor did not look",
        )
        drop(versions)
        dropped_at = time.time()
        until(lambda: decided(instance), _LIMIT_S, running, "no decision")
        whole_s = time.time() - dropped_at
        rows = timeline(instance, dropped_at)
    table = f"{whole_s:.0f} s from the last byte to the decision.\n\n{markdown(rows)}"
    print(table)
    if chosen.write:
        write_section(REPOSITORY / "docs" / "daily-use.md", "dropped-version", table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
