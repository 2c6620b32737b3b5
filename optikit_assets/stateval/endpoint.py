# pyright: standard, reportMissingImports=false
# The libraries behind this module have no types and live in another environment.
"""An OpenAI-compatible endpoint as the model behind lm-eval, and what lm-eval itself needs."""

import contextlib
import importlib.metadata
import os
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

from optikit_assets.errors import EndpointError, EnvironmentMissingError, EvaluationError
from optikit_assets.specs.endpoint_address import CREDENTIALS_VARIABLE, authorization
from optikit_assets.specs.suite import SuiteSpec

QUIET = {
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
OFFLINE = {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
_VERSIONED = ("lm-eval", "torch", "transformers", "datasets", "compressed-tensors")


def set_environment(*, online: bool) -> None:
    """Set what the libraries read when they are imported; call it before the first import."""
    for name, value in {**QUIET, **({} if online else OFFLINE)}.items():
        os.environ.setdefault(name, value)


def versions(engine: str, distributions: Iterable[str]) -> dict[str, str]:
    """Return the installed versions of what takes part in an evaluation.

    Parameters
    ----------
    engine
        Name of the engine that answers; "" if only its server is known.
    distributions
        Packages that it is installed as.
    """
    found = {"engine": engine} if engine else {}
    for name in (*_VERSIONED, *distributions):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@contextlib.contextmanager
def endpoint_model(
    base_url: str,
    name: str,
    suite: SuiteSpec,
    tokenizer: str | None,
    *,
    seed: int,
    timeout_s: float = 300.0,
) -> Generator[Any]:
    """Open an OpenAI-compatible endpoint as lm-eval model.

    Parameters
    ----------
    base_url
        Up to and including ``/v1``, without credentials: user and password come from
        OPTIKIT_ENDPOINT_CREDENTIALS, else a key from OPENAI_API_KEY.
    name
        Model name there.
    suite
        With ``apply_chat_template`` the chat endpoint is used, else the completions endpoint.
    tokenizer
        Folder with the tokenizer; only tasks that score given answers need it.
    seed
        Sent with every request.
    timeout_s
        Limit of one request.

    Raises
    ------
    EnvironmentMissingError
        If a library that lm-eval needs for endpoints is not installed.
    EndpointError
        From the model, if a reply holds no answer.
    """
    from lm_eval.api.registry import get_model

    chat = suite.apply_chat_template
    kind = refusing_silence(get_model("local-chat-completions" if chat else "local-completions"))
    limits = {} if suite.max_model_len is None else {"max_length": suite.max_model_len}
    settings: dict[str, Any] = {
        "base_url": f"{base_url.rstrip('/')}/{'chat/completions' if chat else 'completions'}",
        "model": name,
        "header": _authorization() or None,
        "tokenizer": None if chat else tokenizer,
        "tokenizer_backend": "huggingface" if tokenizer and not chat else None,
        # Text works with every server; token ids need one that shares the tokenizer.
        "tokenized_requests": False,
        "num_concurrent": 8,
        "max_retries": 3,
        "timeout": int(timeout_s),
        "seed": seed,
        "batch_size": 1,
    }
    try:
        model = kind(**settings, **limits)
    except ImportError as error:
        raise EnvironmentMissingError(f"the serve environment lacks a library: {error}") from error
    yield model


def refusing_silence(kind: type[Any]) -> type[Any]:
    """Return lm-eval's endpoint model with an error for every reply that holds no answer.

    lm-eval takes an error that comes with status 200 for an empty answer, and null for a text of
    its own, which are scored like any other. It asks again before it gives up, as after an error
    status.
    """

    class Refusing(kind):
        def parse_generations(self, outputs: Any, **options: Any) -> Any:
            _check_replies(self.base_url, outputs, _text)
            return super().parse_generations(outputs, **options)

        def parse_logprobs(self, outputs: Any, **options: Any) -> Any:
            _check_replies(self.base_url, outputs, lambda c: c["logprobs"]["token_logprobs"])
            return super().parse_logprobs(outputs, **options)

    return Refusing


def _check_replies(url: str, outputs: Any, answer: Callable[[Any], Any]) -> None:
    """Raise `EndpointError` unless every reply has choices and `answer` finds one in each."""
    for reply in outputs if isinstance(outputs, list) else [outputs]:
        try:
            complete = all(answer(choice) is not None for choice in reply["choices"] or [{}])
        except (LookupError, TypeError):
            complete = False
        if not complete:
            raise EndpointError(
                f"{url} replied without an answer: {str(reply)[:300]}; if it is the reasoning that "
                "takes all tokens, raise max_gen_toks in the suite"
            )


def _text(choice: Any) -> Any:
    return choice["message"]["content"] if "message" in choice else choice["text"]


def tokenizer_in(folder: str | None) -> str | None:
    """Return the folder if it holds a tokenizer."""
    return folder if folder and (Path(folder) / "tokenizer.json").exists() else None


def check_endpoint_tasks(tasks: list[Any], *, chat: bool, tokenizer: str | None) -> None:
    """Raise `EvaluationError` for a task that an endpoint cannot be asked.

    A task that scores given answers needs their log probabilities: a chat endpoint has none, and
    for the completions endpoint lm-eval has to know how many tokens a prompt has.
    """
    for task in tasks:
        kind = task.get_config("output_type")
        if kind == "generate_until":
            continue
        name = task.get_config("task")
        if chat:
            raise EvaluationError(
                f"task {name!r} scores given answers ({kind}), which a chat endpoint cannot do; "
                "evaluate it with the completions endpoint or offline"
            )
        if tokenizer is None:
            raise EvaluationError(
                f"task {name!r} scores given answers ({kind}) and needs the model's tokenizer: "
                "name a folder that holds tokenizer.json"
            )


def _authorization() -> dict[str, str]:
    """Return the header that the endpoint asks for, from the environment: it is stored nowhere."""
    return authorization(os.environ.get(CREDENTIALS_VARIABLE), os.environ.get("OPENAI_API_KEY"))


def served_model(base_url: str, wanted: str | None = None, *, timeout_s: float = 10.0) -> str:
    """Return the model that an endpoint serves: `wanted`, or the first one.

    It is asked with the key or the credentials of `endpoint_model`.

    Raises
    ------
    EndpointError
        If the endpoint does not answer, serves no model, or not the one that is wanted. One that
        does not list its models (404) is believed to serve it.
    """
    import httpx

    url = f"{base_url.rstrip('/')}/models"
    try:
        reply = httpx.get(url, timeout=timeout_s, headers=_authorization())
        if reply.status_code == httpx.codes.NOT_FOUND and wanted is not None:
            return wanted
        reply.raise_for_status()
        names = [str(entry["id"]) for entry in reply.json()["data"]]
        first = names[0]
    except (httpx.HTTPError, httpx.InvalidURL, LookupError, TypeError, ValueError) as error:
        raise EndpointError(
            f"{url} does not list a model ({type(error).__name__}: {error}); is the server up and "
            "OpenAI-compatible?"
        ) from error
    if wanted is not None and wanted not in names:
        raise EndpointError(f"{url} does not list {wanted!r}; it serves: {', '.join(names)}")
    return wanted or first
