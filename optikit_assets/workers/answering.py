"""What answers an evaluation: the engine in this process, a server of its own, or a running one."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from optikit_assets.engines import EngineServer, ModelFacts, Offline, detect, get_engine
from optikit_assets.stateval import endpoint
from optikit_assets.workers.messages import Candidate, EvaluateRequest

Settings = dict[str, Any]
"""What decides what a model answers, for the record."""
Opened = tuple[AbstractContextManager[Any], Settings]
"""lm-eval's model as a context manager."""


@contextmanager
def answering(request: EvaluateRequest) -> Iterator[Callable[[Candidate], Opened]]:
    """Prepare this process before lm-eval is imported; yield what opens a candidate."""
    if request.backend == "endpoint":
        yield lambda candidate: _running_server(request, candidate)
        return
    offline = get_engine(request.engine.name).offline
    if offline is None:
        yield lambda candidate: _own_server(request, candidate)
        return
    with offline.prepared(deterministic=request.deterministic) as mode:
        yield lambda candidate: _in_this_process(request, candidate, offline, mode)


def versions(request: EvaluateRequest) -> dict[str, str]:
    """Return the versions of what takes part; of a running server nothing is known."""
    if request.backend == "endpoint":
        return endpoint.versions("", ())
    engine = get_engine(request.engine.name)
    return endpoint.versions(engine.name, engine.distributions)


def asks_endpoint(request: EvaluateRequest) -> bool:
    """Whether answers come from a server, a running one or one that is started for it."""
    return request.backend == "endpoint" or get_engine(request.engine.name).offline is None


def _in_this_process(
    request: EvaluateRequest, candidate: Candidate, offline: Offline, mode: dict[str, str]
) -> Opened:
    arguments = offline.arguments(
        request.suite,
        request.engine,
        candidate.model_path,
        seed=request.seed,
        trust_remote_code=request.trust_remote_code,
    )
    return offline.opened(arguments), {
        "backend": request.engine.name,
        **{k: v for k, v in arguments.items() if k != "pretrained"},
        "apply_chat_template": request.suite.apply_chat_template,
        "deterministic": request.deterministic,
        **mode,
    }


def _running_server(request: EvaluateRequest, candidate: Candidate) -> Opened:
    base_url = request.base_url or ""
    name = endpoint.served_model(base_url, request.endpoint_model)
    settings = {"backend": "endpoint", "base_url": base_url, "model": name}
    return _asked(request, candidate, base_url, name), {
        **settings,
        "chat": request.suite.apply_chat_template,
        "seed": request.seed,
    }


def _own_server(request: EvaluateRequest, candidate: Candidate) -> Opened:
    """Serve the candidate for as long as it is evaluated, with the flags of the model's spec."""
    engine = get_engine(request.engine.name)
    flags = engine.flags(
        request.engine,
        None,
        hardware=detect(),
        facts=ModelFacts.read(Path(candidate.model_path)),
        trust_remote_code=request.trust_remote_code,
    )

    @contextmanager
    def served() -> Iterator[Any]:
        state = Path(request.store_root).absolute().parent
        with TemporaryDirectory(prefix="optikit-evaluate-") as folder:
            config = Path(folder) / engine.config_file
            text = engine.config_text(flags, model=candidate.model_path, served_model_name="m")
            config.write_text(text, encoding="utf-8")
            log_file = state / "logs" / "servers" / f"{candidate.artifact_key[:16]}.log"
            log_file.parent.mkdir(parents=True, exist_ok=True)
            with EngineServer(
                engine,
                config,
                log_file=log_file,
                cache_dir=state / "cache" / "serving",
                timeout_s=request.engine.start_timeout_s,
            ) as server:
                name = engine.request_name(candidate.model_path, "m")
                with _asked(request, candidate, server.base_url, name) as model:
                    yield model
                    server.check_alive()

    return served(), {
        "backend": request.engine.name,
        "flags": flags,
        "chat": request.suite.apply_chat_template,
        "seed": request.seed,
    }


def _asked(
    request: EvaluateRequest, candidate: Candidate, base_url: str, name: str
) -> AbstractContextManager[Any]:
    tokenizer = endpoint.tokenizer_in(candidate.model_path)
    return endpoint.endpoint_model(base_url, name, request.suite, tokenizer, seed=request.seed)
