"""How a study measures configurations: one worker for each, or for several that share a server."""

import threading
from collections.abc import Sequence

from optikit_assets.defs.benchmarking.recording import remember_probes
from optikit_assets.defs.benchmarking.serving import (
    Benchmarked,
    Measurement,
    benchmark,
    keep_probes,
    known_beforehand,
)
from optikit_assets.defs.body import Partition
from optikit_assets.defs.evaluation.candidates import Representative
from optikit_assets.engines import Flags
from optikit_assets.errors import StageError
from optikit_assets.execution import Lease, on_some_node
from optikit_assets.specs import SearchSpaceSpec, SloSpec, digest
from optikit_assets.tuner import (
    TrialResult,
    margin,
    result_of_benchmark,
    trials_at_once,
    worth_rps,
)
from optikit_assets.workers.messages import ExploreRequest, ExploreWorkerResult, Variant


class Measuring:
    """Measures the trials of one partition's study, in any thread; `stop` breaks off all of it."""

    def __init__(
        self, partition: Partition, slo: SloSpec, candidate: Representative, space: SearchSpaceSpec
    ) -> None:
        self._partition, self._slo, self._candidate, self._space = partition, slo, candidate, space
        self.stop = threading.Event()
        self._remembering = threading.Lock()

    @property
    def at_once(self) -> int:
        """How many servers are measured at a time; see `trials_at_once`.

        Cards are counted and not processor cores, which `startup_trials` has to spare as well.
        """
        partition = self._partition
        cards = partition.engine.accelerators(
            partition.model_spec.engine, {}, partition.runner.hardware
        )
        slots = partition.runner.executor.slots
        return trials_at_once(slots, cards, self._space.startup_trials)

    def evaluate(self, number: int, flags: Flags, best_rps: float | None) -> TrialResult:
        """Measure one configuration on a server of its own; see `run_study`."""
        done = self._measure(flags, best_rps)
        self._remember(number, done)
        return trial_result(done, self._slo)

    def explore(
        self, trials: Sequence[tuple[int, Flags]], best_rps: float | None
    ) -> dict[int, TrialResult]:
        """Measure configurations on one server; those that it cannot are left out."""
        partition, slo = self._partition, self._slo
        if any(known_beforehand(partition, slo, self._candidate, flags) for _, flags in trials):
            return {}
        keys = {number: digest(["explored", partition.key, flags]) for number, flags in trials}
        gpus = partition.engine.accelerators(
            partition.model_spec.engine, trials[0][1], partition.runner.hardware
        )

        def measure(lease: Lease) -> None:
            request = ExploreRequest(
                store=partition.artifacts.store.url,
                environment=partition.environment("serve"),
                model=self._candidate.model,
                served_model_name=partition.model_key,
                engine=partition.model_spec.engine,
                trust_remote_code=partition.model_spec.trust_remote_code,
                variants=tuple(Variant(artifact_key=keys[n], flags=flags) for n, flags in trials),
                hardware=lease.hardware,
                slo=slo,
                seed=partition.seed(),
                best_rps=best_rps,
                margin=margin(self._space, slo),
                provenance=partition.provenance,
            )
            try:
                partition.runner.run(
                    partition.context, "explore", request, ExploreWorkerResult, lease,
                    keep_probes(partition, []),
                )  # fmt: skip
            except StageError as error:
                partition.context.log.info(f"the rest needs servers of its own: {error}")

        if any(partition.artifacts.store.find(key) is None for key in keys.values()):
            on_some_node(partition.runner.executor, gpus, measure, self.stop)
        found: dict[int, TrialResult] = {}
        for number, key in keys.items():
            artifact = partition.artifacts.store.find(key)
            if artifact is not None:
                done = Benchmarked.of(artifact)
                self._remember(number, done)
                found[number] = trial_result(done, slo)
        return found

    def _measure(self, flags: Flags, best_rps: float | None) -> Benchmarked:
        partition, slo = self._partition, self._slo
        certain = known_beforehand(partition, slo, self._candidate, flags)
        if certain is not None:
            return Benchmarked(certain)
        asked = Measurement(
            partition,
            slo,
            self._candidate,
            artifact_key=digest(["tuning", partition.key, flags]),
            flags=flags,
            # The same arrivals for every trial: configurations are compared, not luck.
            seed=partition.seed(),
            initial_rate_rps=best_rps,
            worth_rps=worth_rps(self._space, slo, best_rps),
        )
        return benchmark(asked, self.stop)

    def _remember(self, number: int, done: Benchmarked) -> None:
        recipe = self._partition.recipe
        with self._remembering:
            remember_probes(self._partition, recipe, self._slo, done, part="tuning", trial=number)


def trial_result(done: Benchmarked, slo: SloSpec) -> TrialResult:
    """Return a trial's outcome; what a worker that broke off did not load, it booted."""
    boot = done.making.server_start_s
    if boot is None and done.outcome.kind == "failed":
        boot = max(0.0, done.worker_s - done.outcome.load_seconds)
    return result_of_benchmark(
        done.outcome,
        slo,
        artifact_key=done.artifact.key if done.artifact else None,
        boot_seconds=boot,
        retuned=done.making.retuned,
    )
