"""Worker of the serve environment: one server, several configurations of it under load.

``python -m optikit_assets.workers.explore``
"""

import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from optikit_assets.artifacts import ArtifactStore
from optikit_assets.benchmarker import near_search, run_benchmark
from optikit_assets.engines import (
    EngineServer,
    Flags,
    HotReconfiguration,
    ModelFacts,
    get_engine,
    hot_flags,
)
from optikit_assets.errors import EndpointError, MachineError, ServerStartError
from optikit_assets.schemas import BENCHMARK_FILE, CompletedBenchmark
from optikit_assets.scratch import scratch
from optikit_assets.specs.search_space import Scalar
from optikit_assets.workers.benchmark import (
    BENCHMARK,
    REQUESTS_FILE,
    announce,
    announce_start,
    making,
    progress,
)
from optikit_assets.workers.channel import Emit, worker_main
from optikit_assets.workers.inputs import check_inputs, home, local, store_of
from optikit_assets.workers.messages import ExploreRequest, ExploreWorkerResult, Variant


def handle(
    request: ExploreRequest, emit: Emit, *, python: Path | str = sys.executable
) -> ExploreWorkerResult:
    """Measure every variant that is not in the store yet, on one server.

    Parameters
    ----------
    request
        What to serve, and as what.
    emit
        Receives `ServerStarted`, `Progress` and `ProbeFinished`.
    python
        Interpreter that has the engine.

    Raises
    ------
    ServerStartError
        If the server does not come up, or the engine cannot change flags of a running one.
    EndpointError
        If it dies, or does not take a variant's flags. Variants measured by then are kept.
    MachineError
        If what the server's log says of its end is no fault of the configuration.
    """
    store = store_of(request)
    missing = [v for v in request.variants if store.find(v.artifact_key) is None]
    if missing:
        check_inputs(request)
        _Exploration(request, emit, store, python).measure(missing)
    return ExploreWorkerResult(artifact_keys=tuple(v.artifact_key for v in request.variants))


class _Exploration:
    def __init__(
        self, request: ExploreRequest, emit: Emit, store: ArtifactStore, python: Path | str
    ) -> None:
        self._request, self._emit, self._store, self._python = request, emit, store, python
        self._engine = get_engine(request.engine.name)
        self._best_rps = request.best_rps
        self._model = local(request, request.model)

    def measure(self, variants: list[Variant]) -> None:
        """Serve with room for all of them, then measure one after the other."""
        engine, request = self._engine, self._request
        if not isinstance(engine, HotReconfiguration):
            raise ServerStartError(
                f"{engine.title} takes no other flags while it runs: start it anew for each",
                reason="exited",
            )
        attempt = f"{variants[0].artifact_key[:16]}-{secrets.token_hex(3)}"
        log_file = home() / "logs" / "servers" / f"{attempt}.log"
        start = self._flags(engine.retunable([self._set(v.flags) for v in request.variants]))
        with scratch("explore") as folder:
            config = folder / engine.config_file
            config.write_text(self._config(start), encoding="utf-8")
            server = EngineServer(
                engine,
                config,
                log_file=log_file,
                python=self._python,
                cache_dir=home() / "cache" / "serving",
                timeout_s=request.engine.start_timeout_s,
            )
            progress(self._emit, f"starting {engine.title} for {len(variants)} configurations")
            try:
                with server:
                    self._measure_on(server, engine, variants)
            except (ServerStartError, EndpointError, MachineError):
                sys.stderr.write(f"end of {log_file}:\n{server.log_tail(40)}\n")
                raise

    def _measure_on(
        self, server: EngineServer, engine: HotReconfiguration, variants: list[Variant]
    ) -> None:
        announce_start(self._emit, server)
        start_s = server.start_s
        name = self._request.served_model_name
        for number, variant in enumerate(variants):
            progress(self._emit, "exploring", number, len(variants))
            assert server.place is not None
            with self._store.create(variant.artifact_key, BENCHMARK) as draft:
                try:
                    engine.reconfigure(
                        server.place, self._set(variant.flags), served_model_name=name
                    )
                    benchmark = self._search(server, variant, draft.file(REQUESTS_FILE))
                except EndpointError:
                    # The cause in the server's log says more than a refused connection.
                    server.check_alive()
                    raise
                server.check_alive()
                check_inputs(self._request)
                BENCHMARK_FILE.write(draft, benchmark)
                made = making(
                    self._request,
                    self._engine,
                    # The start is the first one's cost.
                    start_s if number == 0 else 0.0,
                    self._flags(variant.flags),
                    retuned=True,
                )
                draft.manifest.update(made.as_notes(), provenance=self._request.provenance)

    def _search(
        self, server: EngineServer, variant: Variant, requests_file: Path
    ) -> CompletedBenchmark:
        request, best = self._request, self._best_rps
        drop = best is not None and request.margin is not None
        found = run_benchmark(
            base_url=server.base_url,
            model=self._engine.request_name(str(self._model), request.served_model_name),
            # What is explored is never shipped.
            slo=near_search(request.slo),
            seed=request.seed,
            gpus=self._engine.devices(self._flags(variant.flags)),
            initial_rate_rps=best,
            worth_rps=(best or 0.0) * (1.0 + (request.margin or 0.0)) if drop else 0.0,
            requests_file=requests_file,
            on_probe=lambda probe: announce(self._emit, probe),
            requests=self._engine.requests,
        )
        self._best_rps = max(best or 0.0, found.certified_rate_rps) or None
        return found.model_copy(update={"model": request.served_model_name})

    def _set(self, flags: Mapping[str, Scalar]) -> Flags:
        """Fill in what a running server can change: as the model fixes it, else the default."""
        known = {**self._engine.defaults(self._request.hardware), **self._flags(flags)}
        hot = hot_flags(self._engine)
        return {**flags, **{name: value for name, value in known.items() if name in hot}}

    def _flags(self, tuned: Mapping[str, Scalar]) -> Flags:
        request = self._request
        return self._engine.flags(
            request.engine,
            request.slo,
            tuned,
            hardware=request.hardware,
            facts=ModelFacts.read(self._model),
            trust_remote_code=request.trust_remote_code,
        )

    def _config(self, flags: Flags) -> str:
        name = self._request.served_model_name
        return self._engine.config_text(flags, model=str(self._model), served_model_name=name)


if __name__ == "__main__":
    worker_main(ExploreRequest, handle)
