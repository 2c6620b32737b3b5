"""A model hub on the loopback interface: one repository whose branches can be moved."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REPOSITORY = "org/name"


@dataclass
class Hub:
    """What is served: the files of every commit, and which commit a branch is at."""

    endpoint: str = ""
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def push(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Move a branch to a new commit with these files; return the commit."""
        content = b"".join(name.encode() + data for name, data in sorted(files.items()))
        commit = hashlib.sha1(content).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """Serve on a free port from a thread of its own, until the context is left."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, headers, body = _answer(hub, self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def _answer(hub: Hub, path: str) -> tuple[HTTPStatus, dict[str, str], bytes]:
    api, download = f"/api/models/{REPOSITORY}/", f"/{REPOSITORY}/resolve/"
    # What it tells of a data set is the same.
    path = path.partition("?")[0].replace("/api/datasets/", "/api/models/")
    if path.startswith(api):
        kind, _, revision = path.removeprefix(api).partition("/")
        commit = hub.branches.get(revision, revision)
        files = hub.commits.get(commit)
        if files is None:
            headers = {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "no such revision"}
            return HTTPStatus.NOT_FOUND, headers, b""
        if kind == "tree":
            listing = [
                {"type": "file", "path": name, "size": len(data), "oid": _etag(data)}
                for name, data in files.items()
            ]
            return HTTPStatus.OK, {"Content-Type": "application/json"}, json.dumps(listing).encode()
        siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
        info = {"id": REPOSITORY, "modelId": REPOSITORY, "sha": commit, "siblings": siblings}
        return HTTPStatus.OK, {"Content-Type": "application/json"}, json.dumps(info).encode()
    if path.startswith(download):
        revision, _, name = path.removeprefix(download).partition("/")
        commit = hub.branches.get(revision, revision)
        data = hub.commits.get(commit, {}).get(name)
        if data is not None:
            headers = {"ETag": f'"{_etag(data)}"', "X-Repo-Commit": commit}
            return HTTPStatus.OK, headers, data
    return HTTPStatus.NOT_FOUND, {"X-Error-Code": "EntryNotFound"}, b""


def _etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
