"""What edits made stale is requested upstream first, once, and again if it failed."""

import dagster as dg
import pytest

from optikit_assets import graph
from optikit_assets.graph import PIPELINE, Node
from optikit_assets.headless import present
from optikit_assets.headless import status as of_everything
from optikit_assets.headless.requesting import (
    REQUEST_TAG,
    RETRIES,
    RETRY_AFTER_S,
    Due,
    due_requests,
    stale_partitions,
)
from optikit_assets.headless.requests import Request, remember_request
from optikit_assets.headless.status import status
from tests.definitions.world import CHAT, HARDWARE, MODEL, World, pools_of

LONG_AFTER_S = 4e9


class Queue:
    """Dagster's queue: runs whatever is requested, and records what a body would record."""

    def __init__(self, world: World) -> None:
        self.world = world

    def tick(self, now_s: float = LONG_AFTER_S) -> Due:
        plan = status(self.world.catalog(), [MODEL], self.world.instance, pools_of(HARDWARE))
        return due_requests(plan, self.world.instance, now_s)

    def requested(self) -> set[str]:
        """Tick, run what is requested, and return it."""
        return {self.run(request) for request in self.tick().requests}

    def run(self, request: dg.RunRequest, *, fails: bool = False, status: str = "ok") -> str:
        asset = str(request.job_name).removeprefix("materialize_")
        node = Node.of(asset, request.partition_key)

        @dg.op
        def work() -> None:
            if fails:
                raise RuntimeError("no disk")
            self.world.materialize([node], status)

        @dg.job(name=str(request.job_name))
        def job() -> None:
            work()

        job.execute_in_process(
            instance=self.world.instance,
            tags={**request.tags, "dagster/partition": str(request.partition_key)},
            raise_on_error=False,
        )
        return str(node)


@pytest.fixture
def queue(world: World, monkeypatch: pytest.MonkeyPatch) -> Queue:
    """A world in which everything was asked for, made and published."""
    monkeypatch.setenv("OPTIKIT_RECIPES", str(world.recipes))
    monkeypatch.setattr(present, "_has_artifact", world.has)
    monkeypatch.setattr(of_everything, "unless_published", lambda versions, item: item)
    world.materialize(world.nodes())
    return Queue(world)


def of(recipe: str, *assets: str) -> set[str]:
    return {f"{asset}[{MODEL}|{recipe}]" for asset in assets}


def measured(asset: str, slo: str, *recipes: str) -> set[str]:
    return {f"{asset}[{MODEL}|{recipe}@{slo}]" for recipe in recipes}


EVERY = ("baseline", "fp8_dynamic", "int_w8a8")


def test_with_nothing_changed_nothing_is_requested(queue: Queue) -> None:
    assert queue.tick() == Due([], [])


@pytest.mark.slow
def test_an_edited_recipe_is_requested_in_order_and_the_decision_once_at_the_end(
    queue: Queue,
) -> None:
    queue.world.edit("quantization/int_w8a8.yaml", "samples: 256", "samples: 128")
    assert queue.requested() == of("int_w8a8", "quantized_model")
    assert queue.requested() == of("int_w8a8", "eval_scores")
    assert queue.requested() == {
        *measured("benchmark_sweep", "chat", "int_w8a8"),
        *measured("benchmark_sweep", "batch", "int_w8a8"),
    }
    assert queue.requested() == {
        *measured("tuned_config", "chat", "int_w8a8"),
        *measured("tuned_config", "batch", "int_w8a8"),
    }
    assert queue.requested() == {f"deployable_config[{MODEL}|{slo}]" for slo in ("chat", "batch")}
    assert queue.requested() == set()


TYPO = ("quantization/int_w8a8.yaml", "trials: 2", "trials: two")


@pytest.fixture
def broken(world: World) -> None:
    """A recipe is broken before anything is made."""
    world.edit(*TYPO)


@pytest.mark.slow
def test_a_recipe_that_was_broken_when_all_were_asked_for_is_requested_once_it_is_corrected(
    broken: None, queue: Queue
) -> None:
    others = ("baseline", "fp8_dynamic")
    request = Request(graph.STAGES, ("chat",), others, left_out=("int_w8a8",))
    remember_request(queue.world.instance, MODEL, PIPELINE, request)
    assert queue.tick() == Due([], [])
    queue.world.edit(TYPO[0], TYPO[2], TYPO[1])
    assert queue.requested() == of("int_w8a8", "quantized_model")
    assert queue.requested() == of("int_w8a8", "eval_scores")
    assert queue.requested() == measured("benchmark_sweep", "chat", "int_w8a8")
    assert queue.requested() == measured("tuned_config", "chat", "int_w8a8")
    assert queue.requested() == {f"deployable_config[{MODEL}|chat]"}
    assert queue.requested() == set()


@pytest.mark.slow
def test_an_edited_slo_is_requested_for_itself_alone(queue: Queue) -> None:
    queue.world.edit("slos/chat.yaml", "max_ms: 100", "max_ms: 120")
    assert queue.requested() == measured("benchmark_sweep", "chat", *EVERY)
    assert queue.requested() == measured("tuned_config", "chat", *EVERY)
    assert queue.requested() == {f"deployable_config[{MODEL}|chat]"}
    assert queue.requested() == set()


def test_a_request_is_known_by_what_it_is_for_so_that_it_is_made_once(queue: Queue) -> None:
    queue.world.edit("quantization/int_w8a8.yaml", "samples: 256", "samples: 128")
    (first,) = queue.tick().requests
    (again,) = queue.tick().requests
    # The daemon makes no second run of a key.
    assert first.run_key == again.run_key
    queue.world.edit("quantization/int_w8a8.yaml", "samples: 128", "samples: 64")
    (other,) = queue.tick().requests
    assert other.run_key != first.run_key


def test_what_is_being_made_is_not_requested(queue: Queue) -> None:
    queue.world.edit("quantization/int_w8a8.yaml", "samples: 256", "samples: 128")
    (request,) = queue.tick().requests
    queue.world.instance.create_run_for_job(
        _job(),
        # Whoever asked for it, by a click for example.
        tags={"dagster/partition": str(request.partition_key)},
        status=dg.DagsterRunStatus.STARTED,
    )
    due = queue.tick()
    assert not due.requests
    assert "quantized_model[tiny@1|int_w8a8] is being made" in due.told


def _job(name: str = "made") -> dg.JobDefinition:
    @dg.job(name=name)
    def made() -> None:
        pass

    return made


@pytest.mark.slow
def test_a_failed_request_is_made_again_after_a_while_so_often_and_then_told(queue: Queue) -> None:
    queue.world.edit("quantization/int_w8a8.yaml", "samples: 256", "samples: 128")
    keys = set()
    for _ in range(1 + RETRIES):
        (request,) = queue.tick().requests
        keys.add(request.run_key)
        queue.run(request, fails=True)
        assert queue.tick(now_s=0.0).requests == []
    assert len(keys) == 1 + RETRIES
    due = queue.tick()
    assert not due.requests
    assert f"quantized_model[{MODEL}|int_w8a8] failed {1 + RETRIES} times" in due.told[0]
    assert due.told[1] == "7 wait for what is upstream of them"
    # Another edit is another request.
    queue.world.edit("quantization/int_w8a8.yaml", "samples: 128", "samples: 64")
    (request,) = queue.tick().requests
    assert request.run_key not in keys


@pytest.mark.slow
def test_the_second_failure_is_waited_after_twice_as_long(queue: Queue) -> None:
    queue.world.edit("quantization/int_w8a8.yaml", "samples: 256", "samples: 128")
    waits = []
    for _ in range(RETRIES):
        (request,) = queue.tick().requests
        queue.run(request, fails=True)
        tags = {REQUEST_TAG: request.tags[REQUEST_TAG]}
        ended = queue.world.instance.get_run_records(dg.RunsFilter(tags=tags))[0].end_time
        assert ended is not None
        waits.append(ended)
        wait_s = RETRY_AFTER_S * 2 ** (len(waits) - 1)
        assert not queue.tick(ended + wait_s - 1).requests
        assert queue.tick(ended + wait_s + 1).requests


def test_a_typo_requests_nothing_and_is_told(queue: Queue) -> None:
    queue.world.edit("quantization/int_w8a8.yaml", "trials: 2", "trials: two")
    queue.world.write("slos/chat.yaml", CHAT.replace("percentile: 95", "percentile: 195"))
    due = queue.tick()
    assert not due.requests
    assert any("recipes/slos/chat.yaml: objectives.0.percentile: " in told for told in due.told)
    # What somebody else edits goes on.
    text = queue.world.recipe_text("fp8_dynamic")
    queue.world.write("quantization/fp8_dynamic.yaml", text + "ignore: [lm_head, router]\n")
    assert queue.requested() == of("fp8_dynamic", "quantized_model")


def test_what_nobody_asked_for_is_not_requested(queue: Queue) -> None:
    text = queue.world.recipe_text("int_w8a8").replace("name: int_w8a8", "name: new")
    queue.world.write("quantization/new.yaml", text)
    assert queue.requested() == set()


def test_the_sensor_says_that_there_is_nothing_to_do(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dg.build_sensor_context(instance=queue.world.instance) as context:
        result = stale_partitions(context)
    assert isinstance(result, dg.SensorResult)
    assert "everything that was asked for is fresh" in str(result.skip_reason)


def test_a_request_names_the_job_of_its_stage(queue: Queue) -> None:
    queue.world.edit("slos/chat.yaml", "max_ms: 100", "max_ms: 120")
    jobs = {request.job_name for request in queue.tick().requests}
    assert jobs == {f"materialize_{graph.BENCHMARK_SWEEP}"}


@pytest.mark.slow
def test_what_is_put_back_again_and_again_is_requested_each_time(queue: Queue) -> None:
    keys: set[str | None] = set()
    for old, new in [("256", "128"), ("128", "256")] * (RETRIES + 2):
        queue.world.edit("quantization/int_w8a8.yaml", f"samples: {old}", f"samples: {new}")
        (request,) = queue.tick(now_s=0.0).requests
        keys.add(request.run_key)
        queue.run(request)
    assert len(keys) == 2 * (RETRIES + 2)


@pytest.mark.slow
def test_what_a_click_made_of_something_else_is_no_failure_of_a_request(queue: Queue) -> None:
    asked: list[str | None] = []
    for _ in range(RETRIES + 2):
        queue.world.edit("quantization/int_w8a8.yaml", "samples: 256", "samples: 128")
        due = queue.tick(now_s=0.0)
        asked += [request.job_name for request in due.requests]
        queue.run(due.requests[0])
        queue.world.edit("quantization/int_w8a8.yaml", "samples: 128", "samples: 256")
        queue.world.materialize([Node.of("quantized_model", f"{MODEL}|int_w8a8")])
    assert asked == ["materialize_quantized_model"] * (RETRIES + 2)


def test_a_canceled_request_is_not_made_again(queue: Queue) -> None:
    queue.world.edit("quantization/int_w8a8.yaml", "samples: 256", "samples: 128")
    (request,) = queue.tick().requests
    queue.world.instance.create_run_for_job(
        _job("materialize_quantized_model"),
        tags={**request.tags, "dagster/partition": str(request.partition_key)},
        status=dg.DagsterRunStatus.CANCELED,
    )
    due = queue.tick()
    assert not due.requests
    assert (
        f"quantized_model[{MODEL}|int_w8a8] was canceled and is not requested again" in due.told[0]
    )


@pytest.mark.slow
def test_a_recipe_that_fails_for_good_is_given_up_and_decided_without(queue: Queue) -> None:
    queue.world.edit("quantization/int_w8a8.yaml", "samples: 256", "samples: 128")
    queue.world.edit("quantization/fp8_dynamic.yaml", "FP8_DYNAMIC}]", "FP8_DYNAMIC}]\nignore: [a]")
    seen: list[str] = []
    for _ in range(20):
        due = queue.tick()
        for request in due.requests:
            fails = "|int_w8a8" in str(request.partition_key)
            seen.append(queue.run(request, status=graph.FAILED if fails else "ok"))
        if not due.requests:
            break
    assert not queue.tick().requests
    often = {name: seen.count(name) for name in seen}
    assert often.pop(f"quantized_model[{MODEL}|int_w8a8]") == 1 + RETRIES
    # All the rest once: what follows from a failure is no failure of its own.
    assert set(often.values()) == {1}
    assert f"tuned_config[{MODEL}|int_w8a8@chat]" in often
    assert seen[-2:] == [f"deployable_config[{MODEL}|{slo}]" for slo in sorted(("chat", "batch"))]
