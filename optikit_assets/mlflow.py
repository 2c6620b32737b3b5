"""The MLflow server that ``MLFLOW_TRACKING_URI`` names, by its own HTTP interface.

``MLFLOW_TRACKING_TOKEN``, or ``MLFLOW_TRACKING_USERNAME`` and ``MLFLOW_TRACKING_PASSWORD``, are the
credentials, as for MLflow's own client; without TLS they are sent to loopback alone.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from optikit_assets.errors import PermissionDeniedError, StorageError, reason_of
from optikit_assets.hosts import is_loopback

_MISSING, _EXISTS = "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"


class MlflowServer:
    """Asks and tells the server.

    Parameters
    ----------
    url
        Of the server; by default what the environment says.
    timeout_s
        Of a connection, and of an answer to a question.
    connect
        Makes a client; for tests.
    """

    def __init__(
        self,
        url: str | None = None,
        timeout_s: float = 30.0,
        connect: Callable[..., httpx.Client] = httpx.Client,
    ) -> None:
        self.url = (url or _named()).rstrip("/")
        self._timeout_s = timeout_s
        self._connect = connect

    def get(self, path: str, **query: Any) -> dict[str, Any] | None:
        """Return what a GET below ``/api/2.0/mlflow/`` answers; None for what does not exist."""
        return self._json("GET", path, params=query)

    def post(self, path: str, **body: Any) -> dict[str, Any] | None:
        """Return what a POST answers; None for what exists already, or does not exist."""
        return self._json("POST", path, json=body)

    def put_file(self, path: str, file: Path) -> None:
        """Send a file through the server to ``mlflow-artifacts:/PATH``."""
        with file.open("rb") as stream:
            self._ask("PUT", f"api/2.0/mlflow-artifacts/artifacts/{quote(path)}", content=stream)

    def _json(self, method: str, path: str, **how: Any) -> dict[str, Any] | None:
        answer = self._ask(method, f"api/2.0/mlflow/{path}", **how)
        return None if answer is None else answer.json()

    def _ask(self, method: str, path: str, **how: Any) -> httpx.Response | None:
        what = f"{method} {path.removeprefix('api/2.0/')}"
        try:
            with self._connect(**self._how()) as client:
                answer = client.request(method, f"{self.url}/{path}", **how)
        except httpx.HTTPError as error:
            reason = reason_of(error)
            raise StorageError(
                f"{self.url}: no answer to {what} ({reason}); check MLFLOW_TRACKING_URI and that "
                "the server can be reached, and run again"
            ) from error
        if answer.is_success:
            return answer
        code, text = _told(answer)
        if code in (_MISSING, _EXISTS):
            return None
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise PermissionDeniedError(
                f"{self.url}: no permission for {what}; set MLFLOW_TRACKING_TOKEN, or "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        raise StorageError(f"{self.url}: {what} was refused: {answer.status_code} {text}")

    def _how(self) -> dict[str, Any]:
        # Without TLS nothing is read of what a machine trusts, which takes a while.
        tls = self.url.startswith("https://")
        return {"timeout": self._timeout_s, "auth": self._auth(), "verify": tls}

    def _auth(self) -> httpx.Auth | None:
        token = os.environ.get("MLFLOW_TRACKING_TOKEN")
        user = os.environ.get("MLFLOW_TRACKING_USERNAME")
        password = os.environ.get("MLFLOW_TRACKING_PASSWORD")
        if not token and not (user and password):
            return None
        url = httpx.URL(self.url)
        if url.scheme != "https" and not is_loopback(url.netloc.decode()):
            raise StorageError(
                f"{self.url}: credentials are not sent without TLS; give MLFLOW_TRACKING_URI an "
                "address with https://, or unset them"
            )
        return _Bearer(token) if token else httpx.BasicAuth(user or "", password or "")


class _Bearer(httpx.Auth):
    def __init__(self, token: str) -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Any:
        request.headers["Authorization"] = f"Bearer {self._token}"
        yield request


def tags_of(described: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of a run's data or of a model version."""
    return {tag["key"]: tag["value"] for tag in described.get("tags", ())}


def _named() -> str:
    url = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not url.startswith(("http://", "https://")):
        raise StorageError(
            f"MLFLOW_TRACKING_URI is {url!r}: set it to the address of the MLflow server, "
            "http://HOST:PORT or https://HOST"
        )
    return url


def _told(answer: httpx.Response) -> tuple[str, str]:
    try:
        said = answer.json()
        return str(said.get("error_code", "")), " ".join(str(said.get("message", "")).split())[:200]
    except (ValueError, AttributeError):
        return "", " ".join(answer.text.split())[:200]
