"""What others read published models with: nothing here is OptiKIT's own.

KServe's storage client, MLflow's and boto3 are in an environment of their own (``make
setup-clients``), skopeo is the distribution's (Debian: ``apt-get install skopeo``).
"""

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

from optikit_assets.environments.layout import CLIENTS
from optikit_assets.environments.status import inspect_environment
from optikit_assets.errors import OptikitError
from optikit_assets.settings import settings

NO_CLIENTS = "no clients (make setup-clients)"
NO_SKOPEO = "no skopeo (Debian: apt-get install skopeo; SKOPEO names one)"

_LIMIT_S = 180.0

_KSERVE = """
import sys
from kserve_storage import Storage
Storage.download(sys.argv[1], sys.argv[2])
"""
_BOTO3 = """
import sys
from pathlib import Path
import boto3
uri, folder = sys.argv[1:]
bucket, _, prefix = uri.removeprefix("s3://").partition("/")
client = boto3.client("s3")
for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix + "/"):
    for item in page.get("Contents", ()):
        file = Path(folder, item["Key"].removeprefix(prefix + "/"))
        file.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(bucket, item["Key"], str(file))
"""
_MLFLOW = """
import sys
import mlflow
name, alias, folder = sys.argv[1:]
version = mlflow.MlflowClient().get_model_version_by_alias(name, alias)
found = mlflow.artifacts.download_artifacts
found(artifact_uri=f"models:/{name}@{alias}", dst_path=f"{folder}/model")
found(run_id=version.run_id, dst_path=f"{folder}/bundle")
"""


class ClientError(OptikitError):
    """A client ended with an error; the message has its last words."""


def lacking_clients() -> str | None:
    """Return why the clients of the environment cannot be asked, None if they can."""
    found = inspect_environment(settings().envs_home, CLIENTS.name)
    return None if found.usable else NO_CLIENTS


def skopeo() -> str | None:
    """Return skopeo's program, None if there is none."""
    return os.environ.get("SKOPEO") or shutil.which("skopeo")


def pull_by_kserve(uri: str, folder: Path, variables: Mapping[str, str]) -> None:
    """Let KServe's storage client put what is at ``s3://…`` or ``oci://…`` into a folder."""
    # A registry on loopback has no TLS.
    _in_clients(_KSERVE, [uri, str(folder)], {**variables, "KSERVE_OCI_INSECURE_REGISTRY": "true"})


def pull_by_boto3(uri: str, folder: Path, variables: Mapping[str, str]) -> None:
    """Let boto3 put all objects below ``s3://BUCKET/PREFIX`` into a folder."""
    _in_clients(_BOTO3, [uri, str(folder)], variables)


def pull_by_mlflow(name: str, alias: str, folder: Path, variables: Mapping[str, str]) -> None:
    """Let MLflow's client put a registered model into ``model/``, its run's into ``bundle/``."""
    for part in ("model", "bundle"):
        (folder / part).mkdir(parents=True)
    _in_clients(_MLFLOW, [name, alias, str(folder)], variables)


def pull_by_skopeo(image: str, folder: Path) -> None:
    """Let skopeo copy ``HOST:PORT/NAME:TAG``, and unpack its layers one over another.

    Raises
    ------
    ClientError
        If there is no skopeo, or it does not find the image.
    """
    program = skopeo()
    if program is None:
        raise ClientError(NO_SKOPEO)
    blobs = folder / "blobs"
    _ended_well(
        [
            *(program, "copy", "--insecure-policy", "--src-tls-verify=false"),
            *(f"docker://{image}", f"dir:{blobs}"),
        ],
        dict(os.environ),
    )
    manifest = json.loads((blobs / "manifest.json").read_text(encoding="utf-8"))
    for layer in manifest["layers"]:
        with tarfile.open(blobs / layer["digest"].removeprefix("sha256:")) as tar:
            tar.extractall(folder, filter="data")


def _in_clients(script: str, arguments: list[str], variables: Mapping[str, str]) -> None:
    environment = inspect_environment(settings().envs_home, CLIENTS.name)
    argv = [str(environment.python), "-I", "-c", script, *arguments]
    # boto3 wants its region under another name than other clients.
    region = {"AWS_DEFAULT_REGION": variables.get("AWS_REGION", "us-east-1")}
    _ended_well(argv, {**os.environ, **region, **variables})


def _ended_well(argv: list[str], environment: Mapping[str, str]) -> None:
    try:
        done = subprocess.run(
            argv, env=dict(environment), capture_output=True, text=True, timeout=_LIMIT_S,
            check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClientError(f"{Path(argv[0]).name}: {error}") from error
    if done.returncode != 0:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise ClientError(said[-1] if said else f"ended with {done.returncode}")
