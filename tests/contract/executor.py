"""What the rest of the system relies on from every executor; subclass it for one of yours.

A subclass makes executors whose ``compress`` worker is `tests.contract.executor_worker`.
"""

import abc
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from optikit_assets import errors
from optikit_assets.errors import AcceleratorError, StageError, StorageError, WorkerKilledError
from optikit_assets.execution import Executor, Lease, settle
from optikit_assets.workers.records import Progress, Record
from tests.alive import is_alive
from tests.contract.executor_worker import Done, Work


@dataclass(frozen=True)
class Item:
    artifact_key: str


class ExecutorContract(abc.ABC):
    """The tests."""

    @abc.abstractmethod
    def make(self, place: Path) -> Executor:
        """Return an executor with two accelerators that all executors of this place share."""

    @pytest.fixture
    def executor(self, tmp_path: Path) -> Executor:
        return self.make(tmp_path)

    def run(self, executor: Executor, work: Work, records: list[Record] | None = None) -> Done:
        heard = [] if records is None else records
        with executor.lease() as lease:
            return executor.run("compress", work, Done, lease, on_record=heard.append)

    # --- one worker -------------------------------------------------------------------------------

    def test_records_come_in_order_and_the_result_after_them(self, executor: Executor) -> None:
        records: list[Record] = []
        done = self.run(executor, Work(what="é\n", records=50), records)
        assert done == Done(heard="é\n", sent=50)
        assert records == [Progress(done=n, total=50, text="é\n") for n in range(50)]

    def test_records_are_handed_over_in_the_thread_that_asked(self, executor: Executor) -> None:
        threads: set[int] = set()
        with executor.lease() as lease:
            executor.run(
                "compress",
                Work(),
                Done,
                lease,
                on_record=lambda record: threads.add(threading.get_ident()),
            )
        assert threads == {threading.get_ident()}

    @pytest.mark.parametrize(
        ("work", "message"),
        [
            (Work(behaviour="refuse"), "failed: group_size 100 does not divide 64 columns"),
            (Work(behaviour="break"), "failed: KeyError: 'layer'"),
        ],
    )
    def test_an_error_of_the_worker_is_told_with_what_it_finished(
        self, executor: Executor, work: Work, message: str
    ) -> None:
        records: list[Record] = []
        with pytest.raises(StageError, match=f"the compress worker {message}"):
            self.run(executor, work, records)
        assert len(records) == work.records

    @pytest.mark.parametrize(
        "kind", ["StorageError", "AcceleratorError", "EnvironmentMissingError", "ChangedInputError"]
    )
    def test_a_fault_of_the_machine_keeps_its_class(self, executor: Executor, kind: str) -> None:
        with pytest.raises(getattr(errors, kind), match="worker failed: said the worker"):
            self.run(executor, Work(behaviour="fault", what=kind))

    def test_a_full_disk_is_known_below_what_a_library_made_of_it(self, executor: Executor) -> None:
        with pytest.raises(StorageError, match="No space left on device"):
            self.run(executor, Work(behaviour="full_disk"))

    def test_what_is_broken_off_leaves_no_process(self, executor: Executor) -> None:
        stop = threading.Event()
        pids: set[int] = set()

        def on_record(record: Record) -> None:
            assert isinstance(record, Progress)
            pids.add(int(record.text))
            stop.set()

        work = Work(behaviour="work_on", records=0)
        with executor.lease(stop=stop) as lease, pytest.raises(WorkerKilledError):
            executor.run("compress", work, Done, lease, on_record=on_record)
        assert [is_alive(pid) for pid in pids] == [False]

    def test_whoever_asked_can_end_it_from_what_hears_the_records(self, executor: Executor) -> None:
        pids: set[int] = set()

        def on_record(record: Record) -> None:
            assert isinstance(record, Progress)
            pids.add(int(record.text))
            raise KeyboardInterrupt

        work = Work(behaviour="work_on", records=0)
        with executor.lease() as lease, pytest.raises(KeyboardInterrupt):
            executor.run("compress", work, Done, lease, on_record=on_record)
        assert [is_alive(pid) for pid in pids] == [False]

    # --- leases -----------------------------------------------------------------------------------

    def test_leases_are_exclusive_for_all_who_share_the_place(self, tmp_path: Path) -> None:
        first, second = self.make(tmp_path), self.make(tmp_path)
        with first.lease() as one, second.lease() as other:
            assert len({*one.devices, *other.devices}) == 2
            stop = threading.Event()
            threading.Timer(0.3, stop.set).start()
            with pytest.raises(AcceleratorError, match="broken off"), first.lease(1, stop):
                pass
        with second.lease(2) as both:
            assert len(both.devices) == 2

    def test_more_than_there_is_is_refused_at_once(self, executor: Executor) -> None:
        assert executor.slots == 2
        with pytest.raises(AcceleratorError, match="3 accelerators asked for"), executor.lease(3):
            pass

    def test_what_needs_no_accelerator_waits_for_nobody(self, executor: Executor) -> None:
        with executor.lease(2), executor.lease(0) as lease:
            assert lease.devices == ()

    def test_what_is_planned_from_its_hardware_holds_under_every_lease(
        self, executor: Executor
    ) -> None:
        for count in range(executor.slots + 1):
            with executor.lease(count) as lease:
                assert lease.hardware.measured() == executor.hardware().measured()

    def test_every_node_is_shown_with_what_it_has(self, executor: Executor) -> None:
        assert executor.nodes()
        assert all(node.name and node.details for node in executor.nodes())

    # --- many -------------------------------------------------------------------------------------

    def test_what_keeps_failing_is_tried_again_as_often_as_allowed(
        self, executor: Executor
    ) -> None:
        done: set[str] = set()
        tried: list[str] = []

        def do(batch: Sequence[Item], lease: Lease) -> dict[str, str]:
            (item,) = batch
            tried.append(item.artifact_key)
            behaviour = "refuse" if item.artifact_key == "bad" else "finish"
            executor.run("compress", Work(behaviour=behaviour), Done, lease)
            done.add(item.artifact_key)
            return {}

        failed = settle(
            executor,
            [Item("bad"), Item("good")],
            do,
            is_done=lambda key: key in done,
            per_worker=1,
            max_attempts=3,
        )
        assert sorted(tried) == ["bad", "bad", "bad", "good"]
        assert "group_size 100" in failed.pop("bad")
        assert failed == {}
