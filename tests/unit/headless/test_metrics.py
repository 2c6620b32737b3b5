"""What Prometheus reads: scraped over a socket, from a real history, instance and lease."""

import json
import re
import socket
import threading
import urllib.error
import urllib.request
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from optikit_assets.cli import metrics
from optikit_assets.cli.metrics import serving
from optikit_assets.engines import Hardware
from optikit_assets.errors import OptikitError, SpecError
from optikit_assets.execution.leases import MachineLeases
from optikit_assets.headless.materialize import open_instance
from optikit_assets.headless.metrics import PipelineMetrics
from optikit_assets.settings import REPOSITORY, settings
from resources.history import open_history

CARDS = Hardware(kind="cuda", name="NVIDIA L4", count=2, memory_bytes=2**34, devices=("0", "1"))
BEGUN = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def on(with_instance: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIKIT_METRICS", "0")
    settings.cache_clear()


def scrape() -> dict[tuple[str, ...], float]:
    """Return ``(name, *labels in order of their names) -> value``."""
    with serving(settings()) as address:
        assert address.startswith("127.0.0.1:")
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
            text = answer.read().decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def fill_history() -> None:
    history = open_history(settings())
    rows = [("eval_scores", False), ("eval_scores", True), ("eval_scores", True)]
    history.append(
        "materializations",
        [
            {"asset": asset, "partition": "m@1|r", "content_key": "k", "cached": cached,
             "model": "secret-model@1", "run_id": "run",
             "materialized_at": BEGUN + timedelta(minutes=number)}
            for number, (asset, cached) in enumerate(rows)
        ],
    )  # fmt: skip
    history.append(
        "leases",
        [
            {"lease": "l", "pool": "local", "cards": 2, "asset": "eval_scores",
             "partition": "m@1|r", "run_id": "run", "held_from": BEGUN,
             "held_to": BEGUN + timedelta(seconds=30), "returned": True}
        ],
    )  # fmt: skip
    common = {"model": "secret-model@1", "content_key": "k", "stage": "sweep", "kind": "open"}
    history.append(
        "probes",
        [{**common, "probe": n, "verdict": verdict} for n, verdict in enumerate(["pass", "fail"])],
    )
    history.drain()


@pytest.mark.slow
def test_a_scrape_tells_what_history_instance_and_locks_say(on: None) -> None:
    fill_history()
    with open_instance() as instance:
        instance.create_run_for_job(dg.JobDefinition(name="job", graph_def=_nothing))
    root = settings().home / "leases"
    leases = MachineLeases(root, timeout_s=60, clear=lambda: ())
    stop = threading.Event()
    begun = threading.Event()

    def wait() -> None:
        with pytest.raises(OptikitError), leases.lease(CARDS, 2, stop):
            pass

    def pause(seconds: float) -> None:
        begun.set()
        stop.wait(seconds)

    leases._pause = pause
    with MachineLeases(root, timeout_s=60, clear=lambda: ()).lease(CARDS, 1):
        waiter = threading.Thread(target=wait)
        waiter.start()
        assert begun.wait(30)
        found = scrape()
        stop.set()
        waiter.join(30)
    assert found["optikit_materializations_total", "eval_scores", "found"] == 2
    assert found["optikit_materializations_total", "eval_scores", "made"] == 1
    assert found["optikit_stage_duration_seconds", "eval_scores", "median"] == 30
    assert found["optikit_accelerator_seconds_total", "eval_scores", "local"] == 60
    assert found["optikit_probes_total", "open", "sweep", "fail"] == 1
    assert found["optikit_runs", "not_started"] == 1
    assert found["optikit_runs_ended_total", "success"] == 0
    # Who waits for two has taken the free one already.
    assert found["optikit_device_held", "cuda-0"] == found["optikit_device_held", "cuda-1"] == 1
    assert found["optikit_lease_waiters",] == 1
    assert {found["optikit_source_up", name] for name in ("history", "leases", "runs")} == {1}
    assert not any("secret" in part for key in found for part in key)
    after = scrape()
    assert after["optikit_device_held", "cuda-0"] == after["optikit_lease_waiters",] == 0


@pytest.mark.slow
def test_runs_that_were_removed_stay_counted(on: None) -> None:
    collector = PipelineMetrics(settings())

    def ended() -> float:
        found = {metric.name: metric for metric in collector.collect()}["optikit_runs_ended"]
        return next(s.value for s in found.samples if s.labels["status"] == "success")

    def ran(instance: dg.DagsterInstance) -> str:
        job = dg.JobDefinition(name="job", graph_def=_nothing)
        return instance.create_run_for_job(job, status=dg.DagsterRunStatus.SUCCESS).run_id

    with open_instance() as instance:
        runs = [ran(instance) for _ in range(3)]
        assert ended() == 3
        for run in runs[:2]:
            instance.delete_run(run)
        assert ended() == 3
        ran(instance)
        assert ended() == 4


@dg.graph(name="job")
def _nothing() -> None:
    pass


def test_a_part_that_cannot_be_read_is_left_out_and_told(on: None) -> None:
    published = open_history(settings()).published_path
    published.parent.mkdir(parents=True)
    published.write_text("no database")
    found = scrape()
    assert found["optikit_source_up", "history"] == 0
    assert found["optikit_source_up", "runs"] == 1
    assert ("optikit_runs", "queued") in found


def test_an_error_that_nobody_thought_of_takes_no_other_part(
    on: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(metrics: PipelineMetrics) -> list[Metric]:
        raise RuntimeError("a damaged database")

    monkeypatch.setattr(PipelineMetrics, "_of_runs", broken)
    found = scrape()
    assert found["optikit_source_up", "runs"] == 0
    assert found["optikit_source_up", "history"] == found["optikit_source_up", "leases"] == 1


def test_who_says_nothing_or_names_another_host_is_sent_away(
    on: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics._Handler, "timeout", 0.2)
    with serving(settings()) as address, ExitStack() as silent:
        evil = urllib.request.Request(f"http://{address}/metrics", headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(evil, timeout=30)
        host, _, port = address.rpartition(":")
        connections = [
            silent.enter_context(socket.create_connection((host, int(port)), timeout=10))
            for _ in range(3 * metrics._AT_ONCE)
        ]
        assert {one.recv(1) for one in connections} == {b""}


def test_an_empty_home_has_metrics_as_well(on: None) -> None:
    assert scrape()["optikit_source_up", "history"] == 1


def test_nothing_is_served_where_no_address_is_set(home: Path) -> None:
    with pytest.raises(SpecError, match="OPTIKIT_METRICS is not set"), serving(settings()):
        pass


@pytest.mark.parametrize("address", ["here", "1.2.3.4:", "a b:1", "0.0.0.0:123456"])
def test_an_address_that_is_none_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("OPTIKIT_METRICS", address)
    settings.cache_clear()
    with pytest.raises(SpecError, match="OPTIKIT_METRICS"):
        settings()


def test_a_port_that_is_taken_is_told_in_a_line(on: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(settings()) as address:
        monkeypatch.setenv("OPTIKIT_METRICS", address)
        settings.cache_clear()
        with pytest.raises(OptikitError, match="cannot be had"), serving(settings()):
            pass


@pytest.mark.slow
def test_the_dashboard_asks_for_what_is_exported(on: None) -> None:
    fill_history()
    open_history(settings()).append(
        "tuning_trials",
        [{"model": "m", "content_key": "k", "study": "s", "trial": 0, "status": "feasible",
          "flags": {}, "is_default": True, "is_best": True}],
    )  # fmt: skip
    open_history(settings()).append(
        "deployments", [{"model": "m", "slo": "s", "content_key": "k", "status": "feasible"}]
    )
    open_history(settings()).drain()
    with MachineLeases(settings().home / "leases", timeout_s=60, clear=lambda: ()).lease(CARDS):
        exported = {key[0] for key in scrape()}
    board = json.loads((REPOSITORY / "deploy" / "grafana" / "optikit.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked = {name for query in queries for name in re.findall(r"optikit_\w+", query)}
    assert asked == exported
