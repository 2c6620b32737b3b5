"""How many results of workers are lost on their way, on a busy machine.

``python -m benchmarks.worker_results [--runs 200] [--kilobytes 200] [--records 5]
[--with-dagster-reader]``. Every run is a worker process of its own, started by the local executor,
that sends records and a result of that size each, while two processes keep the processors busy.
``--with-dagster-reader`` does the same again with the message reader that Dagster brings. The exit
code is 1 if the executor lost anything.
"""

import argparse
import contextlib
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg

from benchmarks.tables import markdown
from benchmarks.talkative_worker import Said, Talk, text_of
from optikit_assets.errors import OptikitError
from optikit_assets.execution import LocalExecutor
from optikit_assets.processes import OwnedProcess
from optikit_assets.settings import REPOSITORY
from optikit_assets.workers.channel import RECORD, REQUEST_KEY, RESULT
from optikit_assets.workers.records import Progress, Record, read_record
from tests.unit.execution.devices import install_environment

_BUSY_LOOPS = 2
_WORKER = [sys.executable, "-m", "benchmarks.talkative_worker"]

Converse = Callable[[dg.OpExecutionContext, Talk, list[Record]], Said]


@dataclass
class Tally:
    """What became of the messages of all runs through one reader."""

    reader: str
    runs: int = 0
    lost_results: int = 0
    lost_records: int = 0
    seconds: float = 0.0
    reasons: list[str] = field(default_factory=list)


@contextmanager
def busy_machine(folder: Path) -> Iterator[None]:
    """Keep processors busy with loops that end with the block."""
    with ExitStack() as stack:
        for number in range(_BUSY_LOOPS):
            argv = [sys.executable, "-S", "-c", "while True: pass"]
            loop = OwnedProcess(argv, log_file=folder / f"loop-{number}.log", name="busy loop")
            stack.enter_context(loop)
        yield


def local_executor(home: Path) -> LocalExecutor:
    """Return an executor whose only environment starts the worker of this benchmark."""
    install_environment(home, worker="benchmarks.talkative_worker")
    return LocalExecutor(home)


def through_executor(executor: LocalExecutor) -> Converse:
    """Return what runs a worker as the stages do."""

    def converse(context: dg.OpExecutionContext, talk: Talk, records: list[Record]) -> Said:
        with executor.lease(0) as lease:
            return executor.run("compress", talk, Said, lease, on_record=records.append)

    return converse


def through_dagster_reader(folder: Path) -> Converse:
    """Return what runs a worker with Dagster's own reader of temporary files."""

    def converse(context: dg.OpExecutionContext, talk: Talk, records: list[Record]) -> Said:
        with dg.open_pipes_session(
            context=context,
            extras={REQUEST_KEY: talk.model_dump(mode="json")},
            context_injector=dg.PipesTempFileContextInjector(),
            message_reader=dg.PipesTempFileMessageReader(),
        ) as session:
            env = {**os.environ, **session.get_bootstrap_env_vars()}
            log_file = folder / "dagster-reader.log"
            with OwnedProcess(_WORKER, log_file=log_file, env=env, cwd=REPOSITORY) as worker:
                while worker.wait(0.1) is None:
                    pass
        sent = session.get_custom_messages()
        records += [read_record(m["body"]) for m in sent if m["type"] == RECORD]
        results = [m["body"] for m in sent if m["type"] == RESULT]
        if not results:
            raise OptikitError("no result arrived")
        return Said.model_validate(results[0])

    return converse


def measure(name: str, converse: Converse, arguments: argparse.Namespace) -> Tally:
    """Run all workers inside one op and count what did not arrive as it was sent."""
    tally = Tally(name)

    @dg.op
    def conversations(context: dg.OpExecutionContext) -> None:
        for number in range(arguments.runs):
            talk = Talk(run=number, records=arguments.records, kilobytes=arguments.kilobytes)
            records: list[Record] = []
            said = None
            try:
                said = converse(context, talk, records)
            except OptikitError as error:
                tally.reasons.append(f"run {number}: {str(error)[:200]}")
            texts = {r.done: r.text for r in records if isinstance(r, Progress)}
            tally.runs += 1
            whole = said is not None and said.text == text_of(talk, talk.records)
            tally.lost_results += not whole
            tally.lost_records += sum(texts.get(n) != text_of(talk, n) for n in range(talk.records))

    @dg.job
    def all_of_them() -> None:
        conversations()

    begin = time.monotonic()
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    with dg.DagsterInstance.ephemeral() as instance:
        all_of_them.execute_in_process(run_config=quiet, instance=instance)
    tally.seconds = time.monotonic() - begin
    return tally


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Worker results that are lost on their way.")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--kilobytes", type=int, default=200, help="of every message")
    parser.add_argument("--records", type=int, default=5, help="of every run, before its result")
    parser.add_argument("--with-dagster-reader", action="store_true", help="to compare")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", dg.BetaWarning)
    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    tallies: list[Tally] = []
    with tempfile.TemporaryDirectory(prefix="optikit-results-") as folder:
        home = Path(folder)
        ways = {"local executor": through_executor(local_executor(home))}
        if arguments.with_dagster_reader:
            ways["Dagster's reader"] = through_dagster_reader(home)
        with busy_machine(home), contextlib.redirect_stderr(None):
            tallies += [measure(name, converse, arguments) for name, converse in ways.items()]
    rows = [
        {
            "reader": tally.reader,
            "runs": str(tally.runs),
            "results lost": str(tally.lost_results),
            "records lost": str(tally.lost_records),
            "seconds": f"{tally.seconds:.0f}",
        }
        for tally in tallies
    ]
    print(markdown(rows))
    for tally in tallies:
        for reason in tally.reasons[:5]:
            print(f"{tally.reader}, {reason}")
    if tallies[0].lost_results or tallies[0].lost_records:
        sys.exit(1)


if __name__ == "__main__":
    main()
