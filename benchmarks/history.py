"""What the history stands: many writers and readers at once, and a million probes.

``python -m benchmarks.history [--probes N] [--write]`` fills a history below a temporary folder
with `N` probes, eight to a tuning trial, sixteen trials to a study, and measures what people wait
for.

- *Questions*: every query of the README's section on the history, the median of five.
- *Drains*: 10,000 more probes each, with and without a reader that keeps its connection; how long
  they take, and how many bytes they write.
- *At once*: 8 processes that append and drain, and 4 that read: three ask ten times a second, one
  keeps its connection throughout. Then the same writers without readers. Every row has to be there
  once.

The exit code is 1 if a row is lost, doubled or changed, if anybody got an error, if a reader that
keeps its connection sees anything else than at first, or if a limit (`LIMIT_S`) is missed;
``--write`` puts the tables into ``docs/history.md``.
"""

import argparse
import math
import multiprocessing
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from benchmarks.tables import markdown, write_section
from optikit_assets.history import History, schema
from optikit_assets.locations import REPOSITORY

PROBES = 1_000_000
DRAINED = 10_000
WRITERS, READERS, APPENDS, ROWS = 8, 4, 20, 50
LIMIT_S = {"question": 0.1, "drain": 1.0}
_TRIALS, _PROBES_OF_TRIAL = 16, 8
_RECIPES = ("baseline", "fp8_dynamic", "int_w4a16", "int_w8a8")
_SLOS = ("chat", "longform")
_BATCH = 100_000
_TIMES = 5
_PAUSE_S = 0.1
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_DOC = REPOSITORY / "docs" / "history.md"

Row = dict[str, Any]

# Keeps a connection to the published copy until its input ends; says what it sees at both ends.
_HOLD = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1], read_only=True)
ask = "SELECT count(*), sum(rate_rps), max(content_key) FROM probes"
print(connection.sql(ask).fetchall(), flush=True)
sys.stdin.readline()
print(connection.sql(ask).fetchall(), flush=True)
"""


def probe(study: str, trial: int, number: int, **columns: Any) -> Row:
    """Return one probe; its figures follow from its number."""
    rate = 10 + trial + number / 8
    return {
        "model": "m@1",
        "content_key": study,
        "stage": "tuning",
        "trial": trial,
        "probe": number,
        "kind": "open",
        "rate_rps": rate,
        "achieved_rate_rps": rate * 0.999,
        "duration_s": 30.0,
        "requests": 300,
        "errors": 0,
        "verdict": "pass" if number % 2 else "fail",
        "beta": 1.0 + math.sin(number * trial) / 100,
        **{
            f"{metric}_p{p}_ms": 10.0 + p * rate / (1 + len(metric))
            for metric in ("e2e_latency", "ttft", "tpot", "itl")
            for p in (50, 90, 95, 99)
        },
        "latency_ms": {"ttft_p50": rate, "tpot_p50": rate / 10},
        "throughput_tokens_per_s": rate * 100,
        **columns,
    }


def tables(probes: int) -> Iterator[tuple[str, list[Row]]]:
    """Yield the rows of a history of so many probes, of all stages, by table."""
    per_study = _TRIALS * _PROBES_OF_TRIAL
    batch: list[Row] = []
    other: dict[str, list[Row]] = {}
    for study in range(math.ceil(probes / per_study)):
        part, slo = divmod(study, len(_SLOS))
        model, recipe = divmod(part, len(_RECIPES))
        made = _EPOCH + timedelta(minutes=study)
        common = {
            "model": f"model-{model}@1",
            "recipe": _RECIPES[recipe],
            "slo": _SLOS[slo],
            "content_key": f"{study:064x}",
            "accelerator": "NVIDIA H100 80GB HBM3",
            "started_at": made,
            "ended_at": made + timedelta(seconds=50),
        }
        for name, rows in _of_study(common, study).items():
            other.setdefault(name, []).extend(rows)
        for number in range(min(per_study, probes - study * per_study)):
            trial, n = divmod(number, _PROBES_OF_TRIAL)
            batch.append(probe("", trial, n, **common))
        if len(batch) >= _BATCH:
            yield "probes", batch
            batch = []
    yield from [("probes", batch), *other.items()]


def _of_study(common: Row, study: int) -> dict[str, list[Row]]:
    """Return what else a scenario leaves behind: once per model, per recipe, and per study."""
    sweep = {"status": "feasible", "certified_rate_rps": 10.0 + study % 7, "gpus": 1}
    trials = [
        {
            **common,
            "trial": trial,
            "study": common["content_key"][:12],
            "status": "feasible",
            "rate_rps": 10.0 + trial,
            "gpus": 1,
            "flags": {"max_num_seqs": 8 * trial} if trial else {},
            "is_default": trial == 0,
            "is_best": trial == _TRIALS - 1,
            "seconds": 300.0,
        }
        for trial in range(_TRIALS)
    ]
    found = {"sweeps": [{**common, **sweep}], "tuning_trials": trials}
    if common["slo"] == _SLOS[0]:
        of_recipe = {**common, "slo": None, "content_key": f"q{common['content_key'][1:]}"}
        gate = {"verdict": "pass", "accepted": True, "q_star_trial": 0, "mean_recovery": 0.99}
        found["quality_gates"] = [{**of_recipe, **gate}]
        found["comparisons"] = [
            {**of_recipe, "trial": trial, "task": task, "recovery": 0.99, "score": 0.9,
             "baseline_score": 0.91, "verdict": "pass", "selected": trial == 0}
            for trial in range(5)
            for task in ("Instructions", "Reasoning", "Safety", "mean")
        ]  # fmt: skip
    if common["recipe"] == _RECIPES[-1]:
        chosen = {"chosen_recipe": common["recipe"], "gain": 1.2, "gain_low": 1.1, "gpus": 1}
        key = f"d{common['content_key'][1:]}"
        found["deployments"] = [
            {**common, **chosen, "recipe": None, "content_key": key, "status": "certified"}
        ]
    return found


def readme_queries() -> list[str]:
    """Return the queries of the README's section on the history, as they stand there."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Ask the history")[2].partition("\n## ")[0]
    quoted = re.findall(r"`(?:optikit sql \")?(SELECT [^`\"]+)", section)
    return [" ".join(query.split()) for query in quoted]


def ask(history: History) -> list[dict[str, str]]:
    """Time every query; a row each."""
    rows = []
    for query in readme_queries():
        answer = history.query(query)
        took = []
        for _ in range(_TIMES):
            began = time.perf_counter()
            history.query(query)
            took.append(time.perf_counter() - began)
        middle = statistics.median(took)
        rows.append(
            {
                "query": f"`{query}`",
                "rows": f"{len(answer):,}",
                "median": f"{middle * 1e3:.0f} ms",
                "": "" if middle < LIMIT_S["question"] else "over the limit",
            }
        )
    return rows


def bytes_written() -> int:
    """Return what this process has had written to disks so far."""
    text = Path("/proc/self/io").read_text(encoding="ascii")
    return int(text.partition("write_bytes: ")[2].split()[0])


@contextmanager
def holder(history: History) -> Iterator[list[str]]:
    """Keep a connection in another process; the list has what it sees at first and at last."""
    seen: list[str] = []
    command = [sys.executable, "-c", _HOLD, str(history.published_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            seen.append(process.stdout.readline().strip())
            yield seen
            seen.append(process.communicate("\n", timeout=60)[0].strip())
        finally:
            process.kill()


def drain_more(history: History, label: str) -> dict[str, str]:
    """Append and drain `DRAINED` probes, several times; a row."""
    took, written = [], []
    for turn in range(_TIMES):
        key = f"{label}-{turn}"
        history.append("probes", [probe(key, n // 8, n % 8) for n in range(DRAINED)])
        before, began = bytes_written(), time.perf_counter()
        history.drain()
        took.append(time.perf_counter() - began)
        written.append(bytes_written() - before)
    size = history.published_path.stat().st_size
    return {
        f"drain of {DRAINED:,} probes": label,
        "median": f"{statistics.median(took):.2f} s",
        "longest": f"{max(took):.2f} s",
        "written, median": f"{statistics.median(written) / 2**20:.0f} MiB",
        "most written": f"{max(written) / 2**20:.0f} MiB",
        "database": f"{size / 2**20:.0f} MiB",
        "": "" if statistics.median(took) < LIMIT_S["drain"] else "over the limit",
    }


# --- many at once ---------------------------------------------------------------------------------


def _write(root: Path, writer: int, start: Event, results: Any) -> None:
    history = History(root)
    schema.tables()  # what a process looks at once
    start.wait()
    appends, drains = [], []
    try:
        for step in range(APPENDS):
            began = time.perf_counter()
            history.append("probes", [probe(f"at-once-{writer}", step, n) for n in range(ROWS)])
            appends.append(time.perf_counter() - began)
            began = time.perf_counter()
            history.drain(timeout_s=300)
            drains.append(time.perf_counter() - began)
        results.put((appends, drains, ""))
    except Exception as error:
        results.put((appends, drains, f"{type(error).__name__}: {error}"))


def _read(root: Path, start: Event, end: Event, results: Any) -> None:
    history = History(root)
    start.wait()
    answers, seen, error = 0, 0, ""
    try:
        while not end.is_set():
            sql = "SELECT count(*) AS n FROM probes WHERE content_key LIKE 'at-once-%'"
            found = int(history.query(sql)["n"].iloc[0])
            if found < seen:
                raise AssertionError(f"saw {found} rows after {seen}")
            seen, answers = found, answers + 1
            end.wait(_PAUSE_S)
    except Exception as caught:
        error = f"{type(caught).__name__}: {caught}"
    results.put((answers, error))


def at_once(history: History, readers: int) -> tuple[dict[str, str], list[str]]:
    """Let writers and readers go at one history; return a row, and what went wrong."""
    context = multiprocessing.get_context("spawn")
    start, end = context.Event(), context.Event()
    written, read = context.Queue(), context.Queue()
    writers = [
        context.Process(target=_write, args=(history.root, n, start, written), daemon=True)
        for n in range(WRITERS)
    ]
    askers = [
        context.Process(target=_read, args=(history.root, start, end, read), daemon=True)
        for _ in range(max(0, readers - 1))
    ]
    for process in (*writers, *askers):
        process.start()
    with holder(history) if readers else _nobody() as seen:
        start.set()
        ends = [written.get(timeout=900) for _ in writers]
        end.set()
        asked = [read.get(timeout=60) for _ in askers]
    for process in (*writers, *askers):
        process.join(60)
    wrong = [error for *_, error in (*ends, *asked) if error]
    if len(set(seen)) > 1:
        wrong.append(f"the reader that kept its connection saw {seen[0]}, then {seen[1]}")
    counted = history.query(
        "SELECT count(*) AS rows, count(DISTINCT (content_key, trial, probe)) AS keys FROM probes "
        "WHERE content_key LIKE 'at-once-%'"
    ).iloc[0]
    expected = WRITERS * APPENDS * ROWS
    if list(counted) != [expected, expected]:
        wrong.append(
            f"of {expected} rows {counted['rows']} are there, {counted['keys']} of them once"
        )
    appends = sorted(value for took, *_ in ends for value in took)
    drains = sorted(value for _, took, _ in ends for value in took)
    row = {
        "at once": f"{WRITERS} writers, {readers} readers" if readers else f"{WRITERS} writers",
        "append, median": f"{statistics.median(appends) * 1e3:.1f} ms",
        "99th percentile": f"{appends[int(0.99 * len(appends))] * 1e3:.1f} ms",
        "drain and its turn, median": f"{statistics.median(drains):.2f} s",
        "answers": f"{sum(count for count, _ in asked):,}" if readers else "–",
        "errors": str(len(wrong)),
    }
    return row, wrong


@contextmanager
def _nobody() -> Iterator[list[str]]:
    yield []


def main() -> int:
    """Measure, print, and say whether all held."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--probes", type=int, default=PROBES)
    parser.add_argument("--write", action="store_true", help=f"put the tables into {_DOC.name}")
    arguments = parser.parse_args()
    wrong: list[str] = []
    rows: list[dict[str, str]] = []

    def keep(name: str, table: list[dict[str, str]]) -> None:
        print(markdown(table), end="\n\n", flush=True)
        rows.extend(table)
        if arguments.write:
            write_section(_DOC, name, markdown(table))

    with tempfile.TemporaryDirectory() as folder:
        measured = []
        for readers in (READERS, 0):
            small = History(Path(folder) / f"readers-{readers}")
            small.drain()
            row, errors = at_once(small, readers)
            measured.append(row)
            wrong += errors
        keep("at once", measured)
        history = History(Path(folder) / "history")
        for name, batch in tables(arguments.probes):
            history.append(name, batch)
        history.drain()
        keep("questions", ask(history))
        drains = [drain_more(history, "nobody reads")]
        with holder(history) as seen:
            drains.append(drain_more(history, "a reader keeps its connection"))
        if len(set(seen)) > 1:
            wrong.append(f"the reader saw {seen[0]}, then {seen[1]}")
        keep("drains", drains)
    wrong += [str(row) for row in rows if row.get("")]
    for text in wrong:
        print(f"error: {text}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
