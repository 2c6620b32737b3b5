"""A model hub on the loopback interface: one repository whose branches can be moved and written."""

import base64
import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus

from tests.servers.loopback import Answer, Asked, answering

REPOSITORY = "org/name"
# Of the repository, as one that was made has it.
FIRST = {".gitattributes": b"*.safetensors filter=lfs"}


@dataclass
class Hub:
    """What is served: the files of every commit, and which commit a branch is at.

    ``private`` is how the repository was made; ``blobs`` are large files by their digest;
    ``before_write`` is called before whatever changes something.
    """

    endpoint: str = ""
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool | None = None
    blobs: dict[str, bytes] = field(default_factory=dict)
    token: str | None = None
    before_write: Callable[[Asked], None] = lambda asked: None

    def push(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Move a branch to a new commit with these files; return the commit."""
        content = b"".join(name.encode() + data for name, data in sorted(files.items()))
        commit = hashlib.sha1(content).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """Serve on a free port from threads of its own, until the context is left."""
    hub = Hub()
    with answering(lambda asked: _answer(hub, asked)) as address:
        hub.endpoint = f"http://{address}"
        yield hub


def _answer(hub: Hub, asked: Asked) -> Answer:
    # An address that large files are sent to has its permission in it.
    shown = asked.path.startswith("/lfs/") or asked.headers.get("authorization")
    if hub.token is not None and shown not in (True, f"Bearer {hub.token}"):
        return Answer(HTTPStatus.UNAUTHORIZED)
    if asked.method in ("POST", "PUT", "DELETE"):
        return _write(hub, asked)
    return _read(hub, asked.path)


def _json(content: object, status: int = HTTPStatus.OK) -> Answer:
    return Answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})


def _write(hub: Hub, asked: Asked) -> Answer:
    """Answer what a push asks for; https://huggingface.co/docs/hub/api and Git LFS's batches."""
    api = f"/api/models/{REPOSITORY}/"
    kind, _, named = asked.path.removeprefix(api).partition("/")
    if asked.path == "/api/validate-yaml":
        return _json({"errors": [], "warnings": []})
    if kind == "preupload":
        files = [item["path"] for item in json.loads(asked.body)["files"]]
        modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in files}
        told = [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()]
        return _json({"files": told})
    if asked.path == f"/{REPOSITORY}.git/info/lfs/objects/batch":
        wanted = json.loads(asked.body)["objects"]
        return _json({"transfer": "basic", "objects": [_place(hub, item) for item in wanted]})
    hub.before_write(asked)
    if asked.path.startswith("/lfs/"):
        digest = hashlib.sha256(asked.body).hexdigest()
        hub.blobs[digest] = asked.body
        return Answer(HTTPStatus.OK if asked.path.endswith(digest) else HTTPStatus.BAD_REQUEST)
    if asked.path == "/api/repos/create":
        if hub.branches:
            return _json({"url": f"{hub.endpoint}/{REPOSITORY}"}, HTTPStatus.CONFLICT)
        hub.private = json.loads(asked.body).get("visibility") == "private"
        hub.push(dict(FIRST))
        return _json({"url": f"{hub.endpoint}/{REPOSITORY}"})
    if asked.method == "DELETE":
        del hub.branches[named]
        return _json({})
    if kind == "branch":
        if named in hub.branches:
            return _json({}, HTTPStatus.CONFLICT)
        start = str(json.loads(asked.body or b"{}").get("startingPoint", "main"))
        hub.branches[named] = hub.branches.get(start, start)
        return _json({})
    assert kind == "commit", asked.path
    return _commit(hub, named, [json.loads(line) for line in asked.body.splitlines()])


def _place(hub: Hub, item: dict) -> dict:
    known = {"oid": item["oid"], "size": item["size"]}
    if item["oid"] in hub.blobs:
        return known
    return {**known, "actions": {"upload": {"href": f"{hub.endpoint}/lfs/{item['oid']}"}}}


def _commit(hub: Hub, branch: str, lines: list[dict]) -> Answer:
    files = dict(hub.commits[hub.branches[branch]])
    for line in lines:
        value = line["value"]
        if line["key"] == "header":
            if value.get("parentCommit") not in (None, hub.branches[branch]):
                return _json({"error": "the branch moved"}, HTTPStatus.PRECONDITION_FAILED)
        elif line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = hub.blobs[value["oid"]]
        elif line["key"] == "deletedFile":
            del files[value["path"]]
    commit = hub.push(files, branch)
    return _json({"commitUrl": f"{hub.endpoint}/{REPOSITORY}/commit/{commit}", "commitOid": commit})


def _read(hub: Hub, path: str) -> Answer:
    api, download = f"/api/models/{REPOSITORY}/", f"/{REPOSITORY}/resolve/"
    # What it tells of a data set is the same.
    path = path.replace("/api/datasets/", "/api/models/").removeprefix("/datasets")
    if path.startswith(api):
        kind, _, revision = path.removeprefix(api).partition("/")
        if kind == "tree" and "/" in revision:
            # All files are in the repository's own folder.
            return Answer(HTTPStatus.NOT_FOUND, headers={"X-Error-Code": "EntryNotFound"})
        commit = hub.branches.get(revision, revision)
        files = hub.commits.get(commit)
        if files is None:
            headers = {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "no such revision"}
            return Answer(HTTPStatus.NOT_FOUND, headers=headers)
        if kind == "tree":
            listing = [
                {"type": "file", "path": name, "size": len(data), "oid": _etag(data)}
                for name, data in files.items()
            ]
            return _json(listing)
        siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
        info = {"id": REPOSITORY, "modelId": REPOSITORY, "sha": commit, "siblings": siblings}
        return _json(info)
    if path.startswith(download):
        revision, _, name = path.removeprefix(download).partition("/")
        commit = hub.branches.get(revision, revision)
        data = hub.commits.get(commit, {}).get(name)
        if data is not None:
            headers = {"ETag": f'"{_etag(data)}"', "X-Repo-Commit": commit}
            return Answer(HTTPStatus.OK, data, headers)
    return Answer(HTTPStatus.NOT_FOUND, headers={"X-Error-Code": "EntryNotFound"})


def _etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
