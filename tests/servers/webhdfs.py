"""A name node with one data node on the loopback interface: the part of WebHDFS that reads.

https://hadoop.apache.org/docs/stable/hadoop-project-dist/hadoop-hdfs/WebHDFS.html
"""

import contextlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote

from tests.servers.loopback import Answer, Asked, answering

_PREFIX = "/webhdfs/v1"


@dataclass
class ImitatedHdfs:
    """Files by their paths: content, time in milliseconds and id.

    ``token`` is what it wants to be shown, if anything; ``opened`` are path and offset of all reads
    at the data node; ``cut`` is how many bytes it sends before the connection breaks.
    """

    address: str = ""
    files: dict[str, tuple[bytes, int, int]] = field(default_factory=dict)
    token: str | None = None
    opened: list[tuple[str, int]] = field(default_factory=list)
    cut: int | None = None
    _clock: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def write(self, path: str, content: bytes, time_ms: int | None = None) -> None:
        """Put a file there, in the place of another perhaps."""
        tick = next(self._clock)
        self.files[path] = (content, tick if time_ms is None else time_ms, tick)


@contextlib.contextmanager
def hdfs() -> Iterator[ImitatedHdfs]:
    """Serve an empty one; the data node is another server."""
    served = ImitatedHdfs()
    with (
        answering(lambda asked: _data(served, asked)) as node,
        answering(lambda asked: _name(served, asked, node)) as served.address,
    ):
        yield served


def _name(served: ImitatedHdfs, asked: Asked, node: str) -> Answer:
    query = {name: values[0] for name, values in parse_qs(asked.query).items()}
    path = unquote(asked.path).removeprefix(_PREFIX).rstrip("/")
    if served.token is not None and query.get("delegation") != served.token:
        return _refusal(401, "SecurityException", "Failed to obtain user group information")
    below = {name for name in served.files if name.startswith(f"{path}/")}
    if path not in served.files and not below:
        return _refusal(404, "FileNotFoundException", f"File {path} does not exist.")
    if query["op"] == "OPEN":
        # As a name node does, which passes on the permission of whoever asks.
        return Answer(307, headers={"Location": f"http://{node}{asked.path}?{asked.query}&node=1"})
    if query["op"] == "GETFILESTATUS":
        return _json({"FileStatus": _status(served, path, "")})
    if path in served.files:
        return _json({"FileStatuses": {"FileStatus": [_status(served, path, "")]}})
    names = sorted({name.removeprefix(f"{path}/").partition("/")[0] for name in below})
    listed = [_status(served, f"{path}/{name}", name) for name in names]
    return _json({"FileStatuses": {"FileStatus": listed}})


def _data(served: ImitatedHdfs, asked: Asked) -> Answer:
    path = unquote(asked.path).removeprefix(_PREFIX)
    offset = int(parse_qs(asked.query).get("offset", ["0"])[0])
    served.opened.append((path, offset))
    return Answer(body=served.files[path][0][offset:], cut=served.cut)


def _status(served: ImitatedHdfs, path: str, suffix: str) -> dict[str, Any]:
    content, time_ms, number = served.files.get(path, (b"", 0, 0))
    kind = "FILE" if path in served.files else "DIRECTORY"
    return {
        "pathSuffix": suffix, "type": kind, "length": len(content), "modificationTime": time_ms,
        "fileId": number, "owner": "hdfs", "permission": "644", "replication": 3,
    }  # fmt: skip


def _json(content: dict[str, Any]) -> Answer:
    return Answer(body=json.dumps(content).encode(), headers={"Content-Type": "application/json"})


def _refusal(status: int, exception: str, message: str) -> Answer:
    told = {"RemoteException": {"exception": exception, "message": message}}
    return Answer(status, json.dumps(told).encode())
