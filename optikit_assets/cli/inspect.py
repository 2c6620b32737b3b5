"""Commands that look and do not run anything: sql, status, doctor, models."""

import json
import shutil
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from optikit_assets.artifacts import ArtifactStore, open_store
from optikit_assets.artifacts.models import ModelRegistry, ModelVersion
from optikit_assets.environments.status import environment_status
from optikit_assets.errors import (
    DamagedArtifactError,
    HistoryError,
    MachineError,
    SpecError,
    StorageError,
    one_line,
)
from optikit_assets.settings import settings
from optikit_assets.specs import LOCAL, Catalog
from resources.history import open_history

if TYPE_CHECKING:
    from optikit_assets.execution import Pools
    from optikit_assets.headless.leftovers import Leftover

_LOW_DISK_BYTES = 10 * 2**30


def _registry() -> ModelRegistry:
    return ModelRegistry(settings().home, settings().root, Catalog.load(settings().recipes))


def run_sql(query: str, output_format: str) -> None:
    """Print the answer to a query."""
    history = open_history(settings())
    if history.is_behind:
        # What a killed run left in the spool belongs to the answer, but is not worth an error.
        try:
            history.drain(timeout_s=5)
        except (HistoryError, StorageError) as error:
            print(f"warning: rows may be late: {one_line(error)}", file=sys.stderr)
    frame = history.query(query)
    if output_format == "csv":
        frame.to_csv(sys.stdout, index=False)
    elif output_format == "json":
        print(frame.to_json(orient="records", date_format="iso"))
    else:
        table = Table()
        for column, dtype in frame.dtypes.items():
            numeric = getattr(dtype, "kind", "O") in "iuf"
            table.add_column(Text(str(column)), justify="right" if numeric else "left")
        for row in frame.itertuples(index=False):
            table.add_row(*(_cell(value) for value in row))
        # A pipe has no width: cells may not be cut there.
        console = Console() if sys.stdout.isatty() else Console(width=500)
        console.print(table)


def _cell(value: Any) -> Text:
    """Return a cell that shows what is there: its square brackets are no markup."""
    import pandas as pd

    if hasattr(value, "tolist"):  # a list is an array here
        value = value.tolist()
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return Text("–")
    return Text(f"{value:.4g}" if isinstance(value, float) else str(value))


def warn_of_broken(catalog: Catalog) -> None:
    """Say on stderr what is wrong with spec files, which take part in nothing until corrected."""
    for error in catalog.problems:
        print(f"warning: left out: {error}", file=sys.stderr)


def run_doctor(verify: bool = False, repair: bool = False) -> int:
    """Print what is ready and what to do; 1 if something is missing, broken or damaged.

    Parameters
    ----------
    verify
        Whether every artifact is read.
    repair
        Whether what was left behind is put right before; then 1 also if some of it could not be.
    """
    from optikit_assets.headless.leftovers import look_for_leftovers

    table = Table("what", "state", "details", "what to do")
    settings().home.mkdir(parents=True, exist_ok=True)
    left = list(look_for_leftovers(mend=repair))
    ready = not any(item.hampers or repair for item in left if not item.done)
    for item in environment_status(settings().envs_home):
        ready &= item.ready
        color = "green" if item.ready else "red"
        state = f"[{color}]{item.state}[/]"
        table.add_row(f"{item.name} environment", state, item.reason, item.what_to_do)
    catalog = Catalog.load(settings().recipes)
    ready &= _look_for_pools(catalog, table)
    home = settings().home
    free = shutil.disk_usage(home).free
    low = free < _LOW_DISK_BYTES
    table.add_row(
        "disk",
        "[yellow]low[/]" if low else "[green]ok[/]",
        f"{free / 2**30:.0f} GiB free at {home}",
        "free space, or set OPTIKIT_HOME to a larger disk" if low else "",
    )
    table.add_row(
        "specs",
        "[green]ok[/]",
        f"{len(catalog.recipes)} recipes, {len(catalog.slos)} SLOs, {len(catalog.suites)} suites",
        "",
    )
    for error in catalog.problems:
        ready = False
        table.add_row("spec file", "[red]broken[/]", Text(str(error)), f"correct {error.file}")
    for problem in _registry().problems():
        table.add_row("models", "[yellow]problem[/]", problem, "")
    store = open_store(settings().store, settings().home)
    if verify:
        # What was damaged is put aside by then.
        ready &= _verify_all(store, table) or repair
    for aside in store.quarantined():
        table.add_row(
            f"{aside.kind} {aside.key[:12]}…",
            "[yellow]quarantined[/]",
            "; ".join(aside.damage[:3]),
            f"run again, it is made anew; delete {aside.where}",
        )
    for item in left:
        table.add_row(item.what, *_state_of(item, repair))
    (Console() if sys.stdout.isatty() else Console(width=200)).print(table)
    return 0 if ready else 1


def _state_of(item: "Leftover", repair: bool) -> tuple[str, Text, Text]:
    """Return the state of what was left behind, its details, and what to do."""
    if item.done:
        return "[green]mended[/]", Text(f"{item.found}: {item.done}"), Text()
    state = "[red]broken[/]" if item.hampers or repair else "[yellow]left behind[/]"
    return state, Text(item.found), Text(item.what_to_do or "optikit doctor --repair")


def _look_for_pools(catalog: Catalog, table: Table) -> bool:
    """Add a row for every pool and every node; say whether all are as declared and ready."""
    from optikit_assets.execution import Pools

    pools = Pools.of(settings(), catalog)
    found = True
    if settings().executor != LOCAL:
        found &= _look_for_nodes(pools, table)
    for name in (LOCAL, *sorted(set(catalog.pools) - {LOCAL})):
        what = "accelerator" if name == LOCAL else f"pool {name}"
        try:
            hardware = pools.hardware(name)
        except (MachineError, SpecError) as error:
            # A control machine may have no pool of its own.
            found &= name == LOCAL and len(catalog.pools) > 0
            table.add_row(what, "[red]not found[/]", Text(str(error)), "")
        else:
            table.add_row(what, "[green]found[/]", f"{hardware.count} × {hardware.name}", "")
    return found


def _look_for_nodes(pools: "Pools", table: Table) -> bool:
    """Add a row for every node of a cluster; return whether all of them are ready."""
    from optikit_assets.execution import NodeStatus

    try:
        nodes = pools.executor(LOCAL).nodes()
    except (MachineError, SpecError) as error:
        nodes = [NodeStatus(f"executor {settings().executor}", str(error), "see docs/cluster.md")]
    for node in nodes:
        state = "[green]found[/]" if node.ready else "[red]problem[/]"
        table.add_row(node.name, state, Text(node.details), node.what_to_do)
    return all(node.ready for node in nodes)


def _verify_all(store: ArtifactStore, table: Table) -> bool:
    """Read every artifact, put damaged ones aside, and add a row of how many are whole."""
    counts = {"verified": 0, "without digests (of an earlier release)": 0, "damaged": 0}
    for key in store.all_keys():
        try:
            whole = store.verify(key, remembered=False, in_use=False).verified
            counts["verified" if whole else "without digests (of an earlier release)"] += 1
        except DamagedArtifactError:
            counts["damaged"] += 1
    found = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    state = "[red]damaged[/]" if counts["damaged"] else "[green]ok[/]"
    table.add_row("artifacts", state, found or "none", "")
    return not counts["damaged"]


def add_model(reference: str, name: str | None, version: str | None) -> None:
    """Register a model version and say how to optimize it."""
    added = _registry().add(reference, name, version)
    print(f"added {added.key} ({_source(added)})")


def list_models(as_json: bool) -> None:
    """Print a line per model version, or all as JSON."""
    registry = _registry()
    warn_of_broken(registry.catalog)
    versions = registry.versions()
    if as_json:
        print(
            json.dumps(
                [
                    {"name": v.name, "version": v.version, "source": v.source, "commit": v.commit}
                    for v in versions
                ]
            )
        )
        return
    for version in versions:
        print(f"{version.key}\t{_source(version)}")


def _source(version: ModelVersion) -> str:
    if version.in_place is not None:
        return version.source
    return f"{version.source}, {f'commit {version.commit}' if version.commit else 'not resolved'}"
