"""The executor as assets see it: it knows which asset asks, and tells whoever listens."""

from pathlib import Path

import dagster as dg
import pytest

from optikit_assets.errors import AcceleratorError
from optikit_assets.execution import Lease, Pools
from optikit_assets.execution.pace import Pace
from optikit_assets.headless.driver import describe_record
from optikit_assets.specs import PoolSpec
from optikit_assets.workers.records import Progress, Record
from resources import StageRunnerResource
from tests.unit.execution.devices import TWO_GPUS, executor_on, install_environment
from tests.unit.execution.test_local_executor import ledger, trials
from tests.unit.execution.worker import Done, Work


@pytest.mark.slow
def test_a_worker_is_known_by_its_asset_and_heard_by_the_stage_and_a_listener(
    tmp_path: Path,
) -> None:
    install_environment(tmp_path)
    heard: list[tuple[str, Record]] = []
    records: list[Record] = []

    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["tiny@1"]))
    def work(context: dg.AssetExecutionContext, runner: StageRunnerResource) -> None:
        here = runner.on(None)
        assert here.hardware.name == "Test CPU"
        with here.executor.lease() as lease:
            request = Work(behaviour="finish")
            done = here.run(context, "compress", request, Done, lease, records.append)
        assert done.home == str(tmp_path)

    runner = StageRunnerResource.over(
        lambda: pools(tmp_path),
        lambda worker, record: heard.append((worker, record)),
    )
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [work], resources={"runner": runner}, partition_key="tiny@1", instance=instance
        )
    (entry,) = ledger(tmp_path)
    known = (entry["worker"], entry["asset"], entry["partition"], entry["run_id"])
    assert known == ("compress", "work", "tiny@1", result.run_id)
    assert heard == [("compress", record) for record in records]
    assert trials(records) == [1, 2]


def test_progress_is_told_with_an_estimate(tmp_path: Path) -> None:
    heard: list[Record] = []

    @dg.asset
    def work(context: dg.AssetExecutionContext, runner: StageRunnerResource) -> None:
        seconds = iter((0.0, 60.0))
        pace = Pace(lambda: next(seconds))
        here = runner.on(None)
        here.say(context, pace, "trial 0 begins", 0, 3)
        here.say(context, pace, "trial 1 begins", 1, 3, "compress")

    runner = StageRunnerResource.over(
        lambda: pools(tmp_path), lambda worker, record: heard.append(record)
    )
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([work], resources={"runner": runner}, instance=instance)
        logged = [entry.user_message for entry in instance.all_logs(result.run_id)]
    said = ["trial 0 begins", "trial 1 begins; about 2 min left"]
    assert [describe_record(record) for record in heard] == said
    assert [text for text in logged if text.startswith("trial ")] == said
    assert heard[1] == Progress(done=1, total=3, text=said[1])


def pools(home: Path) -> Pools:
    """Return the pool of a machine without a GPU."""
    return Pools(lambda name: PoolSpec(name=name), lambda pool: executor_on(home))


def test_nothing_runs_on_other_hardware_than_was_planned_for(tmp_path: Path) -> None:
    refused: list[str] = []

    @dg.asset
    def work(context: dg.AssetExecutionContext, runner: StageRunnerResource) -> None:
        request, lease = Work(behaviour="finish"), Lease(TWO_GPUS, ("0",))
        with pytest.raises(AcceleratorError) as caught:
            runner.on(None).run(context, "compress", request, Done, lease)
        refused.append(str(caught.value))

    runner = StageRunnerResource.over(lambda: pools(tmp_path))
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([work], resources={"runner": runner}, instance=instance)
    assert refused[0].startswith("a lease on 2 x Test GPU was granted where Test CPU (1 cores) was")
    assert ledger(tmp_path) == []
