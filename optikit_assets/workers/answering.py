"""What answers an evaluation: the engine in this process, or a server that already runs."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from optikit_assets.engines import get_engine
from optikit_assets.stateval import endpoint
from optikit_assets.workers.inputs import local
from optikit_assets.workers.messages import Candidate, EvaluateRequest

Opened = tuple[AbstractContextManager[Any], dict[str, Any]]
"""lm-eval's model as a context manager, and the settings that decide what it answers."""


@contextmanager
def answering(request: EvaluateRequest) -> Iterator[Callable[[Candidate], Opened]]:
    """Prepare this process before lm-eval is imported; yield what opens a candidate."""
    if request.backend == "endpoint":
        yield lambda candidate: _running_server(request, candidate)
        return
    offline = get_engine(request.engine.name).offline
    with offline.prepared(deterministic=request.deterministic) as mode:
        yield lambda candidate: _in_this_process(request, candidate, mode)


def versions(request: EvaluateRequest) -> dict[str, str]:
    """Return the versions of what takes part; of a running server nothing is known."""
    if request.backend == "endpoint":
        return endpoint.versions("", ())
    engine = get_engine(request.engine.name)
    return endpoint.versions(engine.name, engine.distributions)


def model_folder(request: EvaluateRequest, candidate: Candidate) -> str:
    """Return the folder of a candidate's checkpoint on this machine, empty if it has none."""
    return "" if candidate.model is None else str(local(request, candidate.model))


def _in_this_process(
    request: EvaluateRequest, candidate: Candidate, mode: dict[str, str]
) -> Opened:
    engine = get_engine(request.engine.name)
    arguments = engine.offline.arguments(
        request.suite,
        request.engine,
        model_folder(request, candidate),
        seed=request.seed,
        trust_remote_code=request.trust_remote_code,
    )
    return engine.offline.opened(arguments), {
        "backend": engine.name,
        **{k: v for k, v in arguments.items() if k != "pretrained"},
        "apply_chat_template": request.suite.apply_chat_template,
        "deterministic": request.deterministic,
        **mode,
    }


def _running_server(request: EvaluateRequest, candidate: Candidate) -> Opened:
    base_url, chat = request.base_url or "", request.suite.apply_chat_template
    name = endpoint.served_model(base_url, request.endpoint_model)
    tokenizer = endpoint.tokenizer_in(model_folder(request, candidate))
    opened = endpoint.endpoint_model(base_url, name, request.suite, tokenizer, seed=request.seed)
    served = {"backend": "endpoint", "base_url": base_url, "model": name, "chat": chat}
    return opened, {**served, "seed": request.seed}
