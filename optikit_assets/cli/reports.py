"""`optikit reports`: the reports of deployments for a browser on this machine.

A browser opens no ``file://`` link of a page that came over http, so what the asset links to has to
be served: the files of a bundle that a person reads, of any deployment, by its content key.
"""

import html
import re
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from optikit_assets.artifacts import ArtifactStore, open_store
from optikit_assets.deployment.bundle import REPORT_FILE
from optikit_assets.errors import HistoryError, OptikitError
from optikit_assets.graph import DEPLOYABLE_CONFIG
from optikit_assets.history import History
from optikit_assets.hosts import is_loopback
from optikit_assets.schemas import DEPLOYMENT_FILE
from optikit_assets.settings import Settings, settings
from resources.history import open_history

_TYPES = {REPORT_FILE: "text/html; charset=utf-8", DEPLOYMENT_FILE.file: "application/json"}
_PLACE = re.compile(rf"/([0-9a-f]{{64}})/({'|'.join(map(re.escape, _TYPES))})")
_LATEST = """\
SELECT model, slo, status, chosen_recipe AS recipe, certified_rate_rps AS rate, gain,
       ended_at AS made, artifact_key
FROM deployments WHERE artifact_key IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY artifact_key ORDER BY ended_at DESC) = 1
ORDER BY made DESC LIMIT 500
"""


def run_reports(port: int | None) -> None:
    """Serve until somebody interrupts."""
    with serving(settings(), port) as server:
        print(f"reports at http://127.0.0.1:{server.server_port}/ (Ctrl-C ends)", flush=True)
        server.serve_forever()


@contextmanager
def serving(here: Settings, port: int | None = None) -> Iterator[ThreadingHTTPServer]:
    """Yield a server on loopback, which is closed on leaving.

    Raises
    ------
    OptikitError
        If the port is taken.
    """
    wanted = here.reports_port if port is None else port
    handler = partial(_Reports, open_store(here.store, here.home), open_history(here))
    try:
        server = ThreadingHTTPServer(("127.0.0.1", wanted), handler)
    except OSError as error:
        raise OptikitError(
            f"port {wanted} of 127.0.0.1 cannot be had ({error.strerror}): end what uses it, or "
            "set OPTIKIT_REPORTS_PORT, which the links of assets follow"
        ) from error
    with server:
        yield server


class _Reports(BaseHTTPRequestHandler):
    """Answers one request."""

    def __init__(self, store: ArtifactStore, history: History, *args: Any) -> None:
        self._store = store
        self._history = history
        super().__init__(*args)

    def do_GET(self) -> None:
        if not is_loopback(self.headers.get("Host", "")):
            # Of a page elsewhere that had its name resolved to this machine.
            self.send_error(HTTPStatus.FORBIDDEN)
        elif self.path == "/":
            self._answer("text/html; charset=utf-8", self._index().encode())
        elif found := _PLACE.fullmatch(self.path):
            self._send_file(found[1], found[2])
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _send_file(self, key: str, name: str) -> None:
        try:
            artifact = self._store.look(key)
            content = (
                artifact.file(name).read_bytes()
                if artifact is not None and artifact.kind == DEPLOYABLE_CONFIG
                else None
            )
        except (OptikitError, OSError):
            content = None
        if content is None:
            self.send_error(HTTPStatus.NOT_FOUND, "no deployment of this key is in the store")
        else:
            self._answer(_TYPES[name], content)

    def _index(self) -> str:
        try:
            rows = self._history.query(_LATEST).to_dict("records")
        except HistoryError:
            # There is none yet.
            rows = []
        lines = "".join(map(_row, rows)) or "<tr><td>nothing was deployed yet</td></tr>"
        return (
            "<!doctype html><meta charset=utf-8><title>OptiKIT reports</title>"
            "<style>body{font:15px sans-serif;margin:2em}td,th{padding:.3em 1em;text-align:left}"
            "</style><h1>Deployments</h1><table>"
            "<tr><th>model<th>SLO<th>status<th>recipe<th>req/s<th>gain<th>made<th></tr>"
            f"{lines}</table>"
        )

    def _answer(self, kind: str, content: bytes) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its name there)
        """Say nothing: the terminal shows the address."""


def _row(row: Mapping[Hashable, Any]) -> str:
    link = f'<a href="/{row["artifact_key"]}/{REPORT_FILE}">report</a>'
    told = [row["model"], row["slo"], row["status"], row["recipe"]]
    numbers = ["–" if _unknown(row[name]) else f"{row[name]:.3g}" for name in ("rate", "gain")]
    shown = [str(value or "–") for value in told] + numbers + [f"{row['made']:%Y-%m-%d %H:%M}"]
    return "<tr>" + "".join(f"<td>{html.escape(text)}" for text in shown) + f"<td>{link}</tr>"


def _unknown(value: Any) -> bool:
    import pandas as pd

    return bool(pd.isna(value))
