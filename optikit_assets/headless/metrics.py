"""What Prometheus is told: counted anew, at each scrape, from where the facts are kept anyway.

Nothing is counted a second time: stages, probes, trials and accelerator time are rows of the
history, runs are those of Dagster, and a lease is a lock. Labels are names of assets, outcomes,
pools and devices; nothing of a model, a path, a person or a message is among them.
"""

import logging
from collections.abc import Callable, Iterator

import dagster as dg
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from optikit_assets.execution import held_devices, waiting_for_devices
from optikit_assets.headless.materialize import open_instance
from optikit_assets.history import History
from optikit_assets.settings import Settings
from resources.history import open_history

log = logging.getLogger("optikit.metrics")

_QUERY_S = 5.0

_MADE = """
SELECT asset, CASE WHEN cached THEN 'found' ELSE 'made' END AS how, count(*) AS value
FROM materializations GROUP BY ALL ORDER BY ALL
"""
_SECONDS = """
SELECT asset, median(seconds) AS median, max(seconds) AS longest
FROM partition_seconds GROUP BY asset ORDER BY asset
"""
_CARD_SECONDS = """
SELECT asset, pool, sum(cards * epoch(held_to - held_from)) AS value
FROM leases WHERE asset IS NOT NULL GROUP BY ALL ORDER BY ALL
"""
_PROBES = """
SELECT stage, kind, coalesce(verdict, 'none') AS verdict, count(*) AS value
FROM probes GROUP BY ALL ORDER BY ALL
"""
_TRIALS = "SELECT status, count(*) AS value FROM tuning_trials GROUP BY ALL ORDER BY ALL"
_DECISIONS = "SELECT status, count(*) AS value FROM deployments GROUP BY ALL ORDER BY ALL"

_ENDED = (
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
)


class PipelineMetrics(Collector):
    """The metrics of one ``OPTIKIT_HOME``.

    A part that cannot be read is left out of a scrape, and ``optikit_source_up`` says so.
    """

    def __init__(self, here: Settings) -> None:
        self._here = here
        # What `optikit gc` removes has ended all the same: a counter that falls is one that began
        # anew, and all that is left would count as if it had ended just now.
        self._ended: dict[str, int] = {}
        self._there: dict[str, int] = {}

    def describe(self) -> Iterator[Metric]:
        """Yield nothing: what there is, is known at a scrape."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """Yield all that is known now."""
        up = GaugeMetricFamily(
            "optikit_source_up", "Whether this part of a scrape could be read.", labels=["source"]
        )
        sources: dict[str, Callable[[], list[Metric]]] = {
            "history": self._of_history,
            "runs": self._of_runs,
            "leases": self._of_leases,
        }
        for name, read in sources.items():
            try:
                found = read()
            except Exception as error:  # whatever it is, the other parts are told
                log.warning("metrics of %s cannot be read: %r", name, error)
                up.add_metric([name], 0)
                continue
            up.add_metric([name], 1)
            yield from found
        yield up

    def _of_history(self) -> list[Metric]:
        history = open_history(self._here)
        waiting_files = GaugeMetricFamily(
            "optikit_history_waiting_files", "Appends that are not loaded into the history yet."
        )
        waiting_files.add_metric([], history.waiting_files)
        if not history.published_path.exists():
            return [waiting_files]
        seconds = GaugeMetricFamily(
            "optikit_stage_duration_seconds",
            "How long partitions of a stage took when they were last made.",
            labels=["asset", "stat"],
        )
        for row in history.query(_SECONDS, timeout_s=_QUERY_S).to_dict("records"):
            for stat in ("median", "longest"):
                seconds.add_metric([row["asset"], stat], row[stat])
        return [
            waiting_files,
            seconds,
            _counter(
                history, "optikit_materializations", _MADE, ["asset", "how"],
                "Partitions that were materialized, made or found in the store.",
            ),
            _counter(
                history, "optikit_accelerator_seconds", _CARD_SECONDS, ["asset", "pool"],
                "Accelerators times the seconds that stages held them.",
            ),
            _counter(
                history, "optikit_probes", _PROBES, ["stage", "kind", "verdict"],
                "Load probes by the stage that sent them and what came out.",
            ),
            _counter(
                history, "optikit_tuning_trials", _TRIALS, ["status"],
                "Trials of studies by their outcome.",
            ),
            _counter(
                history, "optikit_deployments", _DECISIONS, ["status"],
                "Decisions about what to deploy.",
            ),
        ]  # fmt: skip

    def _of_runs(self) -> list[Metric]:
        active = GaugeMetricFamily(
            "optikit_runs", "Dagster runs that have not ended.", labels=["status"]
        )
        ended = CounterMetricFamily(
            "optikit_runs_ended", "Dagster runs that have ended.", labels=["status"]
        )
        with open_instance() as instance:
            for status in dg.DagsterRunStatus:
                count = instance.get_runs_count(dg.RunsFilter(statuses=[status]))
                name = status.value.lower()
                if status in _ENDED:
                    ended.add_metric([name], self._ever(name, count))
                else:
                    active.add_metric([name], count)
        return [active, ended]

    def _ever(self, status: str, there: int) -> int:
        """Return how many runs ended so, those among them that are gone since the first scrape."""
        more = max(0, there - self._there.get(status, 0))
        self._there[status] = there
        self._ended[status] = self._ended.get(status, 0) + more
        return self._ended[status]

    def _of_leases(self) -> list[Metric]:
        root = self._here.home / "leases"
        held = GaugeMetricFamily(
            "optikit_device_held", "Whether somebody holds a device here.", labels=["device"]
        )
        for device, taken in held_devices(root).items():
            held.add_metric([device], taken)
        queue = GaugeMetricFamily("optikit_lease_waiters", "Who waits for devices of this machine.")
        queue.add_metric([], waiting_for_devices(root))
        return [held, queue]


def _counter(history: History, name: str, query: str, labels: list[str], what: str) -> Metric:
    family = CounterMetricFamily(name, what, labels=labels)
    for row in history.query(query, timeout_s=_QUERY_S).to_dict("records"):
        family.add_metric([str(row[label]) for label in labels], float(row["value"] or 0))
    return family
