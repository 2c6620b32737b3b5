"""From a bucket to a certificate, out to three places, and back by clients that are not ours.

``python -m benchmarks.round_trip [--write]`` starts an S3 server, an MLflow server with SQLite and
an OCI registry on loopback, puts the demo model and its calibration data into a bucket, and lets
`optikit optimize` make a bundle of it in a home of its own: fetched from ``s3://``, quantized,
evaluated, load-tested and certified. `optikit publish` pushes that to the bucket, to the bucket
with a registered model in MLflow, and to the registry. Then others fetch it (`demo.clients`), what
they got is compared with what was certified, file by file, and vLLM serves it with the bundle's
file, in which only the model's folder is another.

A bundle needs a certified rate, so the flow is ``quantize_and_benchmark``. The baseline's recipe
demands an accelerator that this machine has not, so the checkpoint is what ships.

What cannot be run here says so, and is no success: the exit code is 0 only if every step was run
and ended well. ``--write`` puts the table into ``docs/deploy.md``.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.tables import markdown, write_section
from demo import clients
from demo.mlflow import mlflow_server
from demo.registry import registry_server
from demo.s3 import BUCKET, s3_server
from optikit_assets.bucket import Bucket
from optikit_assets.environments.layout import CLIENTS, detect_accelerator, environment_path
from optikit_assets.errors import OptikitError
from optikit_assets.processes import OwnedProcess
from optikit_assets.settings import REPOSITORY, settings
from tests.integration.workspace import SLO as QUICK_SLO
from tests.pulled import differences, serve

NAME, VERSION, SLO, ALIAS = "demo-llama", "1", "trip", "current"
MODEL = REPOSITORY / "demo" / "models" / NAME / VERSION
RECIPE = "int_w8a8"
NOT_RUN = "not run"

_OPTIMIZE_LIMIT_S = 1500.0
_COMMAND_LIMIT_S = 300.0
_SLO = QUICK_SLO | {
    "name": SLO,
    "search_space": "demo",
    "budget": QUICK_SLO["budget"] | {"certification": {"max_rounds": 1}},
}
_JOB = {
    "name": SLO,
    "flow": "quantize_and_benchmark",
    "model": NAME,
    "slos": [SLO],
    "recipes": [RECIPE],
}


class DifferenceError(Exception):
    """What a client fetched is not what was certified; the message says in what."""


class NotRunError(Exception):
    """A server or a client is not here; the message says which, and how to get it."""


@dataclass
class Account:
    """What was done, by whom, how it ended and how long it took."""

    rows: list[dict[str, str]] = field(default_factory=list)

    @contextmanager
    def step(self, what: str, by: str) -> Iterator[list[str]]:
        """Time a step; what is put into the list is told beside ``ok``.

        An error of the step ends it, not what comes after.
        """
        told: list[str] = []
        began = time.monotonic()
        try:
            yield told
            outcome = "; ".join(["ok", *told])
        except NotRunError as error:
            outcome = f"{NOT_RUN}: {error}"
        except (DifferenceError, OptikitError, OSError, httpx.HTTPError, RuntimeError) as error:
            outcome = "**failed**: " + " ".join(str(error).split())[:300]
        row = {
            "step": what,
            "by": by,
            "outcome": outcome.replace("|", r"\|"),
            "seconds": f"{time.monotonic() - began:.1f}",
        }
        self.rows.append(row)
        print(" | ".join(row.values()), flush=True)

    @property
    def is_whole(self) -> bool:
        """Whether every step was run and ended well."""
        return all(row["outcome"].startswith("ok") for row in self.rows)


@dataclass
class Trip:
    """Where everything is; a server that is not here has no entry in `variables`."""

    folder: Path
    account: Account
    variables: dict[str, str] = field(default_factory=dict)
    registry: str | None = None

    @property
    def home(self) -> Path:
        """The trip's own OPTIKIT_HOME."""
        return self.folder / "home"

    @property
    def recipes(self) -> Path:
        """The trip's own spec files."""
        return self.folder / "recipes"

    @property
    def bundle(self) -> Path:
        """The bundle as it was certified."""
        return self.home / "deployments" / f"{NAME}@{VERSION}" / SLO

    def optikit(self, *arguments: str, limit_s: float = _COMMAND_LIMIT_S) -> str:
        """Run a command of ours, and return what it printed.

        Raises
        ------
        RuntimeError
            If it fails, or takes longer.
        """
        log = self.folder / "logs" / f"{arguments[0]}-{time.monotonic_ns()}.log"
        argv = [sys.executable, "-c", "from optikit_assets.cli import main; main()", *arguments]
        with OwnedProcess(
            argv, log_file=log, env={**os.environ, **self.variables}, cwd=REPOSITORY, name="optikit"
        ) as process:
            code = process.wait(limit_s)
        said = log.read_text(encoding="utf-8")
        if code != 0:
            ended = "took too long" if code is None else f"ended with {code}"
            raise RuntimeError(f"optikit {arguments[0]} {ended}: {said[-600:]}")
        return said


def start_servers(trip: Trip, stack: ExitStack) -> None:
    """Start what is here; `stack` ends it."""
    own = environment_path(settings().envs_home, CLIENTS.name) / "bin" / "mlflow"
    if own.exists():
        os.environ.setdefault("MLFLOW", str(own))
    with trip.account.step("S3 server", "SeaweedFS"):
        trip.variables |= stack.enter_context(s3_server(trip.folder / "s3")).environment
        os.environ.update(trip.variables)
    with trip.account.step("MLflow server on SQLite", "MLflow"), absent_is_not_run():
        url = stack.enter_context(mlflow_server(trip.folder / "mlflow"))
        trip.variables["MLFLOW_TRACKING_URI"] = url
    with trip.account.step("OCI registry", "Debian's docker-registry"), absent_is_not_run():
        trip.registry = stack.enter_context(registry_server(trip.folder / "registry"))


@contextmanager
def absent_is_not_run() -> Iterator[None]:
    """Tell a program that is not here from one that fails."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotRunError(error) from error


def write_recipes(trip: Trip) -> None:
    """Write what the trip is about: what ships with the repository, with other places."""
    shipped = REPOSITORY / "recipes"
    for place in ("quantization", "evaluations", "search_spaces"):
        shutil.copytree(shipped / place, trip.recipes / place)
    model = _read(shipped / "models" / f"{NAME}.yaml")
    model |= {
        "source": f"s3://{BUCKET}/models/{NAME}",
        "calibration_data": f"s3://{BUCKET}/data/calibration.jsonl",
        "slos": [SLO],
        "recipes": [RECIPE],
    }
    suite = _read(shipped / "evaluations" / "demo.yaml")
    suite["tasks"] = [{**task, "limit": 20} for task in suite["tasks"]]
    # Few items prove nothing, and the gate is not what is shown here.
    suite["gate"] = {"margin": 0.95}
    recipe = _read(shipped / "quantization" / f"{RECIPE}.yaml")
    recipe |= {"trials": 1, "calibration": {"samples": 16, "max_sequence_length": 128}}
    baseline = _read(shipped / "quantization" / "baseline.yaml")
    baseline["requires"] = {"accelerator": "cuda" if detect_accelerator() == "cpu" else "cpu"}
    for place, spec in (
        ("models", model),
        ("evaluations", suite),
        ("quantization", recipe),
        ("quantization", baseline),
        ("slos", _SLO),
        ("jobs", _JOB),
        *(("publish", target) for target in targets(trip)),
    ):
        file = trip.recipes / place / f"{spec['name']}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(spec), encoding="utf-8")


def targets(trip: Trip) -> Iterator[dict[str, Any]]:
    """Yield the three places; a registry that is not here has an address where none answers."""
    yield {"name": "bucket", "to": f"s3://{BUCKET}/published/{{model}}"}
    yield {
        "name": "tracked",
        "to": f"s3://{BUCKET}/tracked/{{model}}",
        "mlflow": "{model}-{slo}",
    }
    yield {"name": "registry", "to": f"oci://{trip.registry or '127.0.0.1:9'}/models/{{model}}"}


def upload(trip: Trip) -> None:
    """Put the model and its calibration data into the bucket."""
    bucket = Bucket(f"s3://{BUCKET}")
    files = [file for file in sorted(MODEL.iterdir()) if file.is_file()]
    for file in files:
        bucket.put_file(f"models/{NAME}/{VERSION}/{file.name}", file)
    bucket.put_file("data/calibration.jsonl", REPOSITORY / "demo" / "calibration.jsonl")


def published(trip: Trip) -> dict[str, str]:
    """Return where each target has the weights."""
    told = trip.optikit("sql", "SELECT target, uri FROM publications", "--format", "json")
    return {row["target"]: row["uri"] for row in json.loads(told)}


def publish(trip: Trip) -> None:
    """Push to every target that there is a server for."""
    needs = {"bucket": True, "tracked": "MLFLOW_TRACKING_URI" in trip.variables}
    for target in targets(trip):
        name = target["name"]
        with trip.account.step(f"publish to {name}", "`optikit publish`") as told:
            if not needs.get(name, trip.registry is not None):
                raise NotRunError("its server is not here")
            said = trip.optikit("publish", "--model", NAME, "--slo", SLO, "--to", name)
            told.append(said.partition("alias ")[2].partition(";")[2].strip().partition(";")[0])


def pulls(trip: Trip, uris: Mapping[str, str]) -> Iterator[tuple[str, str, Callable[[Path], bool]]]:
    """Yield target, client and what pulls into a folder and says whether it has the bundle too."""
    variables = trip.variables

    def by_boto3(folder: Path) -> bool:
        for part in ("model", "bundle"):
            uri = uris["bucket"].removesuffix("model") + part
            clients.pull_by_boto3(uri, folder / part, variables)
        return True

    def by_kserve(target: str, folder: Path) -> bool:
        clients.pull_by_kserve(uris[target], folder / "model", variables)
        return False

    def by_mlflow(folder: Path) -> bool:
        clients.pull_by_mlflow(f"{NAME}-{SLO}", ALIAS, folder, variables)
        return True

    def by_skopeo(folder: Path) -> bool:
        clients.pull_by_skopeo(uris["registry"].removeprefix("oci://"), folder)
        (folder / "models").rename(folder / "model")
        return True

    yield "bucket", "boto3", by_boto3
    yield "bucket", "KServe's storage client", partial(by_kserve, "bucket")
    yield "tracked", "MLflow's client", by_mlflow
    yield "registry", "KServe's storage client", partial(by_kserve, "registry")
    yield "registry", "skopeo", by_skopeo


def lacking(trip: Trip, client: str) -> str | None:
    """Return why a client cannot be asked, None if it can."""
    if client == "skopeo":
        return None if clients.skopeo() else clients.NO_SKOPEO
    return clients.lacking_clients()


def travel(trip: Trip, stack: ExitStack) -> None:
    """Make the whole trip, step by step."""
    account = trip.account
    start_servers(trip, stack)
    trip.variables |= {
        "OPTIKIT_HOME": str(trip.home),
        "OPTIKIT_RECIPES": str(trip.recipes),
        "OPTIKIT_ENVIRONMENTS_HOME": str(settings().envs_home),
    }
    write_recipes(trip)
    with account.step("the demo model into a bucket", "obstore"):
        upload(trip)
    with account.step(f"`s3://` to a bundle, flow {_JOB['flow']}", "`optikit optimize`") as told:
        trip.optikit("optimize", "--job", SLO, limit_s=_OPTIMIZE_LIMIT_S)
        record = json.loads((trip.bundle / "deployment.json").read_text(encoding="utf-8"))
        rate = record["certified_rate_rps"]
        told.append(f"{record['recipe']} certified at {rate:.3g} requests/s")
    if not account.rows[-1]["outcome"].startswith("ok"):
        return
    publish(trip)
    uris = published(trip)
    for target, client, pull in pulls(trip, uris):
        folder = trip.folder / "pulled" / f"{target}-{client.split()[0]}"
        has_bundle = False
        with account.step(f"pulled from {target}", client) as told:
            if target not in uris:
                raise NotRunError("nothing was published there")
            if why := lacking(trip, client):
                raise NotRunError(why)
            folder.mkdir(parents=True)
            has_bundle = pull(folder)
            if differ := differences(folder, trip.bundle, has_bundle):
                raise DifferenceError("; ".join(differ))
            told.append("every file as certified")
        if has_bundle:
            with account.step(f"served as pulled from {target}", "vLLM") as told:
                told.append(f"`{serve(folder)}`")


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the trip, print the table; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.round_trip")
    parser.add_argument("--write", action="store_true", help="put the table into docs/deploy.md")
    chosen = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    account = Account()
    try:
        with tempfile.TemporaryDirectory(prefix="optikit-trip-") as name, ExitStack() as stack:
            travel(Trip(Path(name), account), stack)
    except KeyboardInterrupt:
        return 130
    table = markdown(account.rows)
    print(table)
    if chosen.write:
        write_section(REPOSITORY / "docs" / "deploy.md", "round-trip", table)
    return int(not account.is_whole)


def _read(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(main())
