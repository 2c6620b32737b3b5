"""The servers of certification: one worker for every arm and round, remembered by its key."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optikit_assets.benchmarker import ProbeResult, near_search, read_probes
from optikit_assets.defs.benchmarking import Benchmarked, benchmark, remember_probes
from optikit_assets.defs.candidates import ServedCandidate, served_candidate
from optikit_assets.defs.stage import Stage
from optikit_assets.deployment import ArmMeasurement, Held, Served
from optikit_assets.engines import Flags, ModelFacts
from optikit_assets.specs import SloSpec, digest


def all_flags(stage: Stage, slo: SloSpec, candidate: ServedCandidate, tuned: Flags) -> Flags:
    """Return every engine flag of a configuration."""
    return stage.engine.flags(
        stage.model_spec.engine,
        slo,
        tuned,
        hardware=stage.runner.accelerators.hardware,
        facts=ModelFacts.read(candidate.path),
        trust_remote_code=stage.model_spec.trust_remote_code,
    )


def config_text(stage: Stage, slo: SloSpec, candidate: ServedCandidate, tuned: Flags) -> str:
    """Return the file of a configuration: what is certified is what is shipped."""
    flags = all_flags(stage, slo, candidate, tuned)
    return stage.engine.config_text(
        flags, model=str(candidate.path), served_model_name=stage.model_key
    )


@dataclass
class StageServers:
    """Fresh servers for the arms of one model and SLO, each served from the text it ships with.

    Every result is an artifact, so a certification that was killed goes on where it was. Probes go
    into the history as ``certification``, one ``trial`` for each server.
    """

    stage: Stage
    slo: SloSpec
    trial: int = 0
    latest: Benchmarked | None = None

    def search(self, arm: ArmMeasurement, start_rps: float, seed: int) -> Served:
        """Look for the arm's limit near `start_rps`."""
        slo = near_search(self.slo)
        done = self._run(arm, slo, seed, initial_rate_rps=start_rps)
        if done.artifact is None:
            return _failed(done)
        probes = _open_probes(done)
        reading = read_probes(probes, slo)
        return Served(
            tuple(probes), reading.limit_rps, reading.log_sd, done.outcome["load_seconds"]
        )

    def confirm(self, arm: ArmMeasurement, rates_rps: tuple[float, ...], seed: int) -> Served:
        """Probe these rates."""
        done = self._run(arm, self.slo, seed, rates_rps=rates_rps)
        if done.artifact is None:
            return _failed(done)
        return Served(tuple(_open_probes(done)), load_seconds=done.outcome["load_seconds"])

    def pool(self, probes: Sequence[object]) -> Held | None:
        """Read probes of one arm together."""
        found = read_probes([p for p in probes if isinstance(p, ProbeResult)], self.slo)
        if found.held is None or found.held_rps is None:
            return None
        return Held(found.held_rps, found.held)

    def _run(self, arm: ArmMeasurement, slo: SloSpec, seed: int, **how: Any) -> Benchmarked:
        stage = self.stage
        candidate = served_candidate(stage, arm.recipe)
        config = config_text(stage, self.slo, candidate, arm.flags)
        budget = slo.budget.model_dump(mode="json")
        key = digest(
            [
                "certification",
                stage.key,
                candidate.digest,
                config,
                budget,
                sorted(how.items()),
                seed,
            ]
        )
        folder = Path(stage.runner.home) / "tmp"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{key[:16]}-{stage.engine.config_file}"
        file.write_text(config, encoding="utf-8")
        try:
            done = benchmark(
                stage,
                slo,
                candidate,
                artifact_key=key,
                flags=arm.flags,
                seed=seed,
                config_file=file,
                **how,
            )
        finally:
            file.unlink(missing_ok=True)
        name = f"{arm.recipe}{'+tuned' if arm.tuned else ''}"
        remember_probes(
            stage, arm.recipe, slo, done, part="certification", arm=name, trial=self.trial
        )
        self.trial += 1
        self.latest = done
        return done


def _open_probes(done: Benchmarked) -> list[ProbeResult]:
    found = [ProbeResult.model_validate(probe) for probe in done.outcome["probes"]]
    return [probe for probe in found if probe.kind == "open"]


def _failed(done: Benchmarked) -> Served:
    return Served(load_seconds=done.outcome["load_seconds"], failure=done.outcome["reason"])
