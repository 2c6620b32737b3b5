"""A model version is dropped into a folder, and the daemon makes its deployable config.

``python -m benchmarks.dropped_version [--write]`` starts Dagster's daemon (no UI, no command of
ours) on a state folder of its own, with the demo model's recipes as the tests of the pipeline cut
them short. Once the sensor has looked into the empty folder of models, a version is copied there,
file by file. Then nothing is done but to look, until ``deployable_config`` of it is recorded.

It prints when which run was requested, started and ended. ``--write`` puts that into
``docs/daily-use.md``.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import dagster as dg

from benchmarks.tables import markdown, write_section
from optikit_assets.defs.sensors import OPTIMIZE_JOB
from optikit_assets.graph import DEPLOYABLE_CONFIG
from optikit_assets.headless.materialize import open_instance
from optikit_assets.processes import OwnedProcess
from optikit_assets.settings import REPOSITORY, configure, settings
from tests.integration.workspace import Workspace, quick_workspace

_SHIPPED = REPOSITORY / "demo" / "models" / "demo-llama" / "1"
_BETWEEN_FILES_S = 2.0
_FIRST_LOOK_LIMIT_S = 180.0
_LIMIT_S = 5400.0
_POLL_S = 1.0


def prepare(root: Path) -> Workspace:
    """Make the state folder the one that settings name, with an empty folder of versions."""
    made = quick_workspace(root)
    versions = root / "models" / "demo-llama"
    versions.mkdir(parents=True)
    made.edit("models/demo-llama.yaml", source=str(versions))
    configure(environments_home=settings().envs_home, home=made.home, recipes=made.recipes)
    return made


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
    folder = versions / "1"
    folder.mkdir()
    for file in sorted(_SHIPPED.iterdir(), key=lambda file: file.stat().st_size):
        time.sleep(_BETWEEN_FILES_S)
        shutil.copyfile(file, folder / file.name)


def await_daemon(
    daemon: OwnedProcess, holds: Callable[[], bool], limit_s: float, what: str
) -> None:
    """Wait for something that the daemon does; end with its last words if it does not."""
    if not daemon.until(holds, limit_s, _POLL_S):
        raise SystemExit(f"{what}:\n{daemon.log_tail()}")


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
        where = run.tags.get("dagster/partition") or run.tags.get("optikit/model", "")
        rows.append(
            {
                # Of an asset its step has the name, and the job has none.
                "run": ", ".join(sorted(run.step_keys_to_execute or ())) or run.job_name,
                "partition": where.replace("|", r"\|"),
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
    root = settings().home / "dropped-version"
    if root.exists():
        raise SystemExit(f"{root} is of an earlier run: remove it, so that nothing is there yet")
    made = prepare(root)
    with open_instance() as instance, daemon(made.home) as running:
        looked = "new_model_versions skipped"
        await_daemon(
            running,
            lambda: looked in running.log_tail(200),
            _FIRST_LOOK_LIMIT_S,
            "the sensor did not look",
        )
        drop(root / "models" / "demo-llama")
        dropped_at = time.time()
        await_daemon(running, lambda: decided(instance), _LIMIT_S, "no decision")
        whole_s = time.time() - dropped_at
        rows = timeline(instance, dropped_at)
    table = f"{whole_s:.0f} s from the last byte to the decision.\n\n{markdown(rows)}"
    print(table)
    if chosen.write:
        write_section(REPOSITORY / "docs" / "daily-use.md", "dropped-version", table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
