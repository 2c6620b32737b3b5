"""What comes through the channel from a worker: in pieces, and from a broken machine."""

import os
from pathlib import Path

import pytest

from optikit_assets.environments.layout import python_path
from optikit_assets.errors import (
    AcceleratorError,
    ChangedInputError,
    EnvironmentMissingError,
    ResultMissingError,
    StageError,
    StorageError,
    WorkerKilledError,
)
from optikit_assets.execution import LocalExecutor
from optikit_assets.workers.records import Progress, Record
from tests.unit.execution.devices import executor_on, install_environment
from tests.unit.execution.test_local_executor import ledger, run, trials
from tests.unit.execution.worker import finished


@pytest.fixture
def executor(tmp_path: Path) -> LocalExecutor:
    install_environment(tmp_path)
    return executor_on(tmp_path)


@pytest.mark.slow
def test_a_message_that_is_written_in_pieces_is_read_once_it_is_whole(executor):
    records: list[Record] = []
    run(executor, "tear", records.append)
    assert records == [finished(1), Progress(text="x" * 5000), finished(2)]


@pytest.mark.slow
def test_a_line_that_is_no_message_is_logged_and_costs_no_other(executor, caplog):
    records: list[Record] = []
    run(executor, "scribble", records.append)
    assert trials(records) == [1, 2]
    first, second = (r.message for r in caplog.records if r.levelname == "ERROR")
    assert "a message of 18 bytes that begins with 'this is no message': JSONDecodeError" in first
    assert "no method 'unheard_of' is known" in second


@pytest.mark.slow
def test_a_worker_that_dies_in_a_message_leaves_the_ones_before_it(executor):
    records: list[Record] = []
    with pytest.raises(StageError, match=r"exit code -9.*ended in the middle of it"):
        run(executor, "crash_in_a_message", records.append)
    assert trials(records) == [1]


@pytest.mark.slow
def test_a_worker_that_ends_well_without_a_result_leaves_the_answer_to_the_store(executor):
    with pytest.raises(ResultMissingError, match="the compress worker ended well, but no result"):
        run(executor, "keep_silent")


@pytest.mark.slow
def test_a_result_of_a_worker_that_ends_badly_does_not_count(executor):
    with pytest.raises(StageError, match="exit code 7") as caught:
        run(executor, "exit_badly")
    assert not isinstance(caught.value, ResultMissingError)


# --- faults of the machine ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [StorageError, AcceleratorError, EnvironmentMissingError, ChangedInputError]
)
def test_a_fault_of_the_machine_keeps_its_class(executor, tmp_path, kind):
    with pytest.raises(kind) as caught:
        run(executor, "raise", flag=kind.__name__)
    (entry,) = ledger(tmp_path)
    assert str(caught.value) == f"the compress worker failed: said the worker (log: {entry['log']})"


@pytest.mark.slow
@pytest.mark.parametrize("behaviour", ["wrap_full_disk", "quote_full_disk"])
def test_a_full_disk_is_known_by_what_libraries_make_of_it(executor, behaviour):
    with pytest.raises(StorageError, match="No space left on device"):
        run(executor, behaviour)


@pytest.mark.slow
def test_a_disk_too_full_for_messages_is_known_by_the_exit_code(executor):
    with pytest.raises(StorageError, match=f"exit code {os.EX_IOERR}"):
        run(executor, "fill_disk")


@pytest.mark.slow
def test_a_worker_that_somebody_ends_says_nothing_of_its_trial(executor):
    with pytest.raises(WorkerKilledError):
        run(executor, "end_by_signal", flag="SIGTERM")


@pytest.mark.slow
def test_memory_that_runs_out_is_the_trials_where_the_model_is_in_the_worker(tmp_path):
    for name in ("compress", "serve"):
        install_environment(tmp_path, name)
    executor = executor_on(tmp_path)
    for worker, expected in (
        ("compress", StageError),
        ("evaluate", StageError),
        ("benchmark", WorkerKilledError),
    ):
        with pytest.raises(expected, match="exit code -9"):
            run(executor, "end_by_signal", flag="SIGKILL", worker=worker)


def test_a_worker_that_never_gets_as_far_as_our_code_is_a_broken_environment(executor, tmp_path):
    python = python_path(tmp_path, "compress")
    python.write_text("#!/bin/sh\necho no such library\nexit 3\n")
    with pytest.raises(EnvironmentMissingError, match="exit code 3: no such library"):
        run(executor, "finish")
