"""An imitation on loopback of what is asked of an MLflow server.

It answers as MLflow 3.17 does, which the tests hold it against where that is installed.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit


class RefusalError(Exception):
    """An answer with an error."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status, self.body = status, {"error_code": code, "message": message}


class Imitation:
    """Experiments, runs and registered models in memory."""

    def __init__(self) -> None:
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.models: dict[str, dict[str, str]] = {}
        self.versions: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}

    def answer(self, path: str, told: dict[str, Any]) -> dict[str, Any]:
        by_path: dict[str, Callable[..., dict[str, Any]]] = {
            "experiments/get-by-name": self._experiment,
            "experiments/create": self._create_experiment,
            "runs/search": self._search_runs,
            "runs/create": self._create_run,
            "runs/log-batch": self._log,
            "runs/update": self._update_run,
            "registered-models/create": self._create_model,
            "registered-models/get": self._model,
            "registered-models/alias": self._alias,
            "model-versions/search": self._search_versions,
            "model-versions/create": self._create_version,
            "model-versions/get": self._version,
        }
        return by_path[path](**told)

    def _experiment(self, experiment_name: str) -> dict[str, Any]:
        if experiment_name not in self.experiments:
            raise RefusalError("RESOURCE_DOES_NOT_EXIST", f"No experiment {experiment_name}", 404)
        return {"experiment": {"experiment_id": self.experiments[experiment_name]}}

    def _create_experiment(self, name: str) -> dict[str, Any]:
        if name in self.experiments:
            raise RefusalError("RESOURCE_ALREADY_EXISTS", f"Experiment {name} exists")
        self.experiments[name] = str(len(self.experiments) + 1)
        return {"experiment_id": self.experiments[name]}

    def _search_runs(
        self,
        experiment_ids: list[str],
        filter: str = "",  # noqa: A002 (its name)
        **_: Any,
    ) -> dict[str, Any]:
        wanted = re.fullmatch(r"tags\.`(.+)` = '(.+)'", filter)
        inside = [run for run in self.runs.values() if run["experiment_id"] in experiment_ids]
        found = [r for r in inside if not wanted or r["tags"].get(wanted[1]) == wanted[2]]
        return {"runs": [_run(run) for run in found]} if found else {}

    def _create_run(
        self, experiment_id: str, tags: list[dict[str, str]], **_: Any
    ) -> dict[str, Any]:
        run_id = f"run{len(self.runs)}"
        self.runs[run_id] = {
            "run_id": run_id,
            "experiment_id": experiment_id,
            "status": "RUNNING",
            "artifact_uri": f"mlflow-artifacts:/{experiment_id}/{run_id}/artifacts",
            "tags": _values(tags),
            "metrics": {},
            "params": {},
        }
        return {"run": _run(self.runs[run_id])}

    def _log(self, run_id: str, **told: list[dict[str, Any]]) -> dict[str, Any]:
        for kind, items in told.items():
            self.runs[run_id][kind] |= _values(items)
        return {}

    def _update_run(self, run_id: str, status: str, **_: Any) -> dict[str, Any]:
        self.runs[run_id]["status"] = status
        return {}

    def _create_model(self, name: str) -> dict[str, Any]:
        if name in self.models:
            raise RefusalError("RESOURCE_ALREADY_EXISTS", f"Registered Model (name={name}) exists")
        self.models[name] = {}
        return {}

    def _model(self, name: str) -> dict[str, Any]:
        if name not in self.models:
            raise RefusalError("RESOURCE_DOES_NOT_EXIST", f"no model {name}", 404)
        aliases = [{"alias": k, "version": v} for k, v in self.models[name].items()]
        return {"registered_model": {"name": name, **({"aliases": aliases} if aliases else {})}}

    def _alias(self, name: str, alias: str, version: str) -> dict[str, Any]:
        self.models[name][alias] = version
        return {}

    def _search_versions(self, filter: str, **_: Any) -> dict[str, Any]:  # noqa: A002
        wanted = dict(re.findall(r"(\w+)='([^']*)'", filter))
        found = [v for v in self.versions if all(v[k] == text for k, text in wanted.items())]
        return {"model_versions": found} if found else {}

    def _create_version(self, name: str, **told: Any) -> dict[str, Any]:
        number = str(1 + sum(version["name"] == name for version in self.versions))
        self.versions.append({"run_id": "", **told, "name": name, "version": number})
        return {"model_version": self.versions[-1]}

    def _version(self, name: str, version: str) -> dict[str, Any]:
        for found in self.versions:
            if (found["name"], found["version"]) == (name, version):
                return {"model_version": found}
        raise RefusalError("RESOURCE_DOES_NOT_EXIST", f"no version {version} of {name}", 404)


def _values(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {item["key"]: item["value"] for item in items}


def _run(run: dict[str, Any]) -> dict[str, Any]:
    data = {
        kind: [{"key": key, "value": value} for key, value in run[kind].items()]
        for kind in ("metrics", "params", "tags")
    }
    return {"info": {n: run[n] for n in ("run_id", "status", "artifact_uri")}, "data": data}


@contextmanager
def imitated(state: Imitation) -> Iterator[str]:
    """Yield the address of a server over `state`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            file = unquote(self.path).partition("/mlflow-artifacts/artifacts/")[2]
            if file in state.files:
                self._send(200, state.files[file])
                return
            self._reply(lambda path: state.answer(path, dict(parse_qsl(urlsplit(self.path).query))))

        def do_POST(self) -> None:
            body = json.loads(self._body())
            self._reply(lambda path: state.answer(path, body))

        def do_PUT(self) -> None:
            body = self._body()
            self._reply(lambda path: state.files.update({path: body}) or {})

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers["Content-Length"]))
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        def _reply(self, answer: Callable[[str], dict[str, Any]]) -> None:
            path = unquote(urlsplit(self.path).path)
            prefix = re.match(r"/api/2\.0/mlflow(-artifacts/artifacts)?/", path)
            try:
                status, body = 200, answer(path.removeprefix(prefix[0]))
            except RefusalError as refusal:
                status, body = refusal.status, refusal.body
            self._send(status, json.dumps(body).encode())

        def _send(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
