"""Worker of the serve environment: one server under load.

``python -m optikit_assets.workers.benchmark``
"""

import contextlib
import dataclasses
import importlib.metadata
import os
import platform
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from optikit_assets.artifacts import ArtifactDraft, ArtifactStore
from optikit_assets.benchmarker import (
    append_requests,
    confirm_rate,
    read_requests,
    run_benchmark,
)
from optikit_assets.engines import Engine, EngineServer, Flags, ModelFacts, get_engine
from optikit_assets.environments.variables import effective_variables
from optikit_assets.errors import EndpointError, MachineError, OptikitError, ServerStartError
from optikit_assets.schemas import BENCHMARK_FILE, CompletedBenchmark, ProbeResult
from optikit_assets.workers.channel import Emit, worker_main
from optikit_assets.workers.inputs import check_inputs, home, local, store_of
from optikit_assets.workers.manifests import BenchmarkMaking
from optikit_assets.workers.messages import (
    BenchmarkRequest,
    BenchmarkWorkerResult,
    ExploreRequest,
)
from optikit_assets.workers.records import ProbeFinished, Progress, Record, ServerStarted, Told
from optikit_assets.workers.turns import NobodyElse, SideBySide, Turns

BENCHMARK = "benchmark"
LEFT_REQUESTS = "left_requests"
"""Artifact kinds: of a benchmark, and of the timelines of one that broke off."""

REQUESTS_FILE = "requests.jsonl.gz"
LOG_FILE = "server.log"

# What a measurement depends on, beside the engine's own distribution.
_LIBRARIES = ("torch", "transformers", "compressed-tensors")
_NO_CURVES = {"arrivals_s": (), "completions_s": ()}


def handle(
    request: BenchmarkRequest, emit: Emit, *, python: Path | str = sys.executable
) -> BenchmarkWorkerResult:
    """Serve the checkpoint and measure it; the result becomes an artifact.

    Its manifest holds a `BenchmarkMaking` and the request's ``provenance``. A finished artifact is
    returned as it is.

    Parameters
    ----------
    request
        What to serve and what to measure.
    emit
        Receives `ServerStarted`, `Progress` and `ProbeFinished`.
    python
        Interpreter that has the engine.

    Raises
    ------
    ServerStartError
        If the server does not come up.
    EndpointError
        If it dies or cannot be used. The server's log stays in ``logs/servers`` below OPTIKIT_HOME;
        the timelines of requests are in the store under the request's ``left_key``, and finished
        probes went to `emit`.
    MachineError
        If what the server's log says of its end is no fault of the configuration.
    """
    store = store_of(request)
    with store.turn(request.artifact_key):
        if store.find(request.artifact_key) is None:
            _make(request, _saying_of(emit, request.of), store, python)
    return BenchmarkWorkerResult(artifact_key=request.artifact_key)


def _saying_of(emit: Emit, of: str) -> Emit:
    """Return what says of every record which of several benchmarks it is of."""

    def say(record: Record) -> None:
        emit(record.model_copy(update={"of": of}) if isinstance(record, Told) else record)

    return say


def _turns(request: BenchmarkRequest) -> Turns:
    if not request.beside:
        return NobodyElse()
    # All that the others may do before a turn comes.
    return SideBySide(home() / "leases" / "turns", timeout_s=request.longest_s)


def _make(request: BenchmarkRequest, emit: Emit, store: ArtifactStore, python: Path | str) -> None:
    turns = _turns(request)
    with turns.quiet():
        check_inputs(request)
    engine = get_engine(request.engine.name)
    model = local(request, request.model)
    text = _config(request, engine, model)
    flags = engine.config_flags(text)
    with store.create(request.artifact_key, BENCHMARK) as draft:
        config = draft.file(engine.config_file)
        config.write_text(text, encoding="utf-8")
        # An earlier attempt, or one that is ending elsewhere on this node, has another one.
        attempt = f"{request.artifact_key[:16]}-{secrets.token_hex(3)}"
        log_file = home() / "logs" / "servers" / f"{attempt}.log"
        server = EngineServer(
            engine,
            # The very file that is kept, so that what is deployed is what was measured.
            config,
            log_file=log_file,
            python=python,
            cache_dir=home() / "cache" / "serving",
            timeout_s=request.engine.start_timeout_s,
        )
        try:
            benchmark = _serve_and_measure(request, server, flags, draft, emit, turns)
        except BaseException:
            _leave_requests(request, store, draft.file(REQUESTS_FILE))
            raise
        with turns.quiet():
            check_inputs(request)
            graphs = engine.graphs(log_file.read_text(encoding="utf-8", errors="replace"))
            shutil.move(log_file, draft.file(LOG_FILE))
            BENCHMARK_FILE.write(draft, benchmark)
        made = making(request, engine, server.start_s, flags, graphs=graphs, mode=request.mode)
        draft.manifest.update(made.as_notes(), provenance=request.provenance)


def making(
    request: BenchmarkRequest | ExploreRequest,
    engine: Engine,
    start_s: float,
    flags: Flags,
    *,
    graphs: tuple[int, int] | None = None,
    mode: Literal["search", "confirm"] = "search",
    retuned: bool = False,
) -> BenchmarkMaking:
    """Return how a benchmark was made in this process."""
    return BenchmarkMaking(
        versions=_versions(engine),
        environment=effective_variables(os.environ, engine.variables),
        accelerator=request.hardware.label,
        hardware=request.hardware,
        server_start_s=round(start_s, 2),
        graphs=graphs,
        flags=flags,
        mode=mode,
        retuned=retuned,
    )


def _serve_and_measure(
    request: BenchmarkRequest,
    server: EngineServer,
    flags: Flags,
    draft: ArtifactDraft,
    emit: Emit,
    turns: Turns,
) -> CompletedBenchmark:
    engine = server.engine
    progress(emit, f"starting {engine.title}")
    try:
        with _up(server, turns):
            announce_start(emit, server)
            try:
                benchmark = _measure(request, server, engine.devices(flags), draft, emit, turns)
            except EndpointError:
                # The cause in the server's log says more than a refused connection.
                server.check_alive()
                raise
            server.check_alive()
            return benchmark
    except (ServerStartError, EndpointError, MachineError):
        sys.stderr.write(f"end of {server.log_file}:\n{server.log_tail(40)}\n")
        raise


@contextlib.contextmanager
def _up(server: EngineServer, turns: Turns) -> Iterator[None]:
    """Start a server and stop it while nobody measures another one."""
    with contextlib.ExitStack() as held:
        with turns.quiet():
            held.enter_context(server)
        try:
            yield
        finally:
            with turns.quiet():
                held.close()


def _measure(
    request: BenchmarkRequest,
    server: EngineServer,
    gpus: int,
    draft: ArtifactDraft,
    emit: Emit,
    turns: Turns,
) -> CompletedBenchmark:
    requests_file = draft.file(REQUESTS_FILE)
    model = str(local(request, request.model))
    name = server.engine.request_name(model, request.served_model_name)
    if request.mode == "search":
        progress(emit, "searching the highest rate")
        found = run_benchmark(
            base_url=server.base_url,
            model=name,
            slo=request.slo,
            seed=request.seed,
            gpus=gpus,
            initial_rate_rps=request.initial_rate_rps,
            worth_rps=request.worth_rps,
            requests_file=requests_file,
            on_probe=lambda probe: announce(emit, probe),
            requests=server.engine.requests,
            turn=turns.probe,
            fresh=True,
        )
        return found.model_copy(update={"model": request.served_model_name})
    probes: list[ProbeResult] = []
    for number, rate in enumerate(request.rates_rps):
        progress(emit, f"confirming {rate:.3g} requests/s", number, len(request.rates_rps))
        part = draft.file(f"probe-{number}.jsonl")
        probe = confirm_rate(
            base_url=server.base_url,
            model=name,
            slo=request.slo,
            rate_rps=rate,
            # Each probe has its own arrivals and prompts.
            seed=request.seed + number,
            requests_file=part,
            requests=server.engine.requests,
            fresh=True,
        )
        if part.exists():
            # A confirmation numbers its only probe 0.
            records = [dataclasses.replace(r, probe=number) for r in read_requests(part)]
            append_requests(requests_file, records)
            part.unlink()
        probes.append(probe)
        announce(emit, probe)
    return confirmation(request, probes, gpus)


def confirmation(
    request: BenchmarkRequest, probes: list[ProbeResult], gpus: int
) -> CompletedBenchmark:
    """Sum up fresh probes at given rates as a benchmark: certified is the highest that passed."""
    passed = [i for i, probe in enumerate(probes) if probe.verdict == "pass"]
    best = max(passed, key=lambda i: probes[i].rate_rps, default=None)
    rate = 0.0 if best is None else probes[best].rate_rps
    failed = [probe.rate_rps for probe in probes if probe.verdict == "fail"]
    above = [failed_rate for failed_rate in failed if failed_rate > rate]
    refuted = "infeasible" if failed else "unresolved"
    told = "; ".join(f"{p.rate_rps:.3g} requests/s: {p.verdict}, {p.reason}" for p in probes)
    return CompletedBenchmark(
        status="feasible" if best is not None else refuted,
        certified_rate_rps=rate,
        rate_ci_rps=(rate, min(above, default=None)),
        load_seconds=sum(probe.duration_s for probe in probes),
        reason=told,
        closest="" if best is not None else told,
        certified_probe=best,
        model=request.served_model_name,
        slo=request.slo.name,
        seed=request.seed,
        gpus=gpus,
        probes=tuple(probes),
    )


def _leave_requests(request: BenchmarkRequest, store: ArtifactStore, requests_file: Path) -> None:
    """Keep the timelines of a benchmark that broke off, for whoever asked for it."""
    if not (request.left_key and requests_file.exists()):
        return
    try:
        with store.create(request.left_key, LEFT_REQUESTS) as left:
            shutil.move(requests_file, left.file(REQUESTS_FILE))
    except (OptikitError, OSError) as error:
        # Why it broke off is what has to be told.
        sys.stderr.write(f"the timelines of its requests are lost: {error}\n")


def _config(request: BenchmarkRequest, engine: Engine, model: Path) -> str:
    if request.config is not None:
        # The same text but for the folder, which each machine has elsewhere.
        flags = engine.config_flags(request.config)
    else:
        flags = engine.flags(
            request.engine,
            request.slo,
            request.flags,
            hardware=request.hardware,
            facts=ModelFacts.read(model),
            trust_remote_code=request.trust_remote_code,
        )
    return engine.config_text(flags, model=str(model), served_model_name=request.served_model_name)


def announce_start(emit: Emit, server: EngineServer) -> None:
    """Tell of a server that is up."""
    start_s = round(server.start_s, 2)
    emit(
        ServerStarted(engine=server.engine.title, server_start_s=start_s, base_url=server.base_url)
    )


def announce(emit: Emit, probe: ProbeResult) -> None:
    """Tell of a probe that is finished, without its curves."""
    emit(ProbeFinished(probe=probe.model_copy(update=_NO_CURVES)))


def progress(emit: Emit, text: str, done: int = 0, total: int = 1) -> None:
    """Tell what is being done."""
    emit(Progress(done=done, total=total, text=text))


def _versions(engine: Engine) -> dict[str, str]:
    found = {"engine": engine.name, "python": platform.python_version()}
    for name in (*engine.distributions, *_LIBRARIES):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


if __name__ == "__main__":
    worker_main(BenchmarkRequest, handle)
