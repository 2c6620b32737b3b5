"""An OCI registry on the loopback interface: what clients of the distribution interface ask for.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md
"""

import contextlib
import hashlib
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from tests.servers.loopback import Answer, Asked, answering

TOKEN = "word"
NAME = "models/qwen"


@dataclass
class ImitatedRegistry:
    """Blobs and manifests, by repository and digest or tag.

    ``fetched`` are the blobs that were asked for; ``cut`` is how many bytes of each are sent before
    the connection breaks. With ``guarded`` a token is wanted, which is handed out to anybody.
    """

    address: str = ""
    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    manifests: dict[tuple[str, str], bytes] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)
    cut: int | None = None
    guarded: bool = False

    def push(self, tag: str, layers: list[tuple[bytes, str, dict[str, str]]]) -> str:
        """Put content, media type and annotations of layers there; return the manifest's digest."""
        listed = [
            {"mediaType": kind, "digest": self.add(content), "size": len(content), "annotations": a}
            for content, kind, a in layers
        ]
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.empty.v1+json",
                "digest": self.add(b"{}"),
                "size": 2,
            },
            "layers": listed,
        }
        return self.put(tag, json.dumps(manifest).encode())

    def add(self, content: bytes, name: str = NAME) -> str:
        """Keep a blob and return its digest."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.blobs[name, digest] = content
        return digest

    def put(self, tag: str, manifest: bytes, name: str = NAME) -> str:
        """Let a tag name a manifest; return its digest."""
        digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
        self.manifests[name, digest] = self.manifests[name, tag] = manifest
        return digest


@contextlib.contextmanager
def registry() -> Iterator[ImitatedRegistry]:
    """Serve one that is empty."""
    served = ImitatedRegistry()
    with answering(lambda asked: _answer(served, asked)) as served.address:
        yield served


def _answer(served: ImitatedRegistry, asked: Asked) -> Answer:
    if asked.path == "/token":
        return Answer(body=json.dumps({"token": TOKEN}).encode())
    if served.guarded and asked.headers.get("Authorization") != f"Bearer {TOKEN}":
        realm = f'Bearer realm="http://{served.address}/token",service="imitated"'
        return Answer(401, headers={"WWW-Authenticate": realm})
    base, _, named = asked.path.rpartition("/")
    base, _, kind = base.rpartition("/")
    name = base.removeprefix("/v2/").removesuffix("/blobs")
    if asked.method == "POST":
        return Answer(202, headers={"Location": f"{asked.path}{secrets.token_hex(4)}"})
    if asked.method == "PUT" and kind == "uploads":
        (digest,) = parse_qs(asked.query)["digest"]
        return Answer(201 if served.add(asked.body, name) == digest else 400)
    if asked.method == "PUT":
        served.put(named, asked.body, name)
        return Answer(201)
    if kind == "tags":
        tags = sorted(tag for where, tag in served.manifests if where == name and ":" not in tag)
        return Answer(body=json.dumps({"name": name, "tags": tags}).encode())
    if kind == "manifests":
        return _content(served.manifests.get((name, named)), None)
    if asked.method == "GET":
        served.fetched.append(named)
    return _content(served.blobs.get((name, named)), served.cut)


def _content(found: bytes | None, cut: int | None) -> Answer:
    if found is None:
        return Answer(404, b'{"errors": []}')
    # A reader wants the type of a manifest, which is said in it too.
    kind = (
        json.loads(found)["mediaType"] if found.startswith(b'{"') and b"mediaType" in found else ""
    )
    headers = {"Content-Type": kind} if kind else {}
    return Answer(body=found, headers=headers, cut=cut)
