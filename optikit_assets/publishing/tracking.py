"""Releases in MLflow: a run that says how one came about, and a version of a registered model.

The version's source is where the release lies: MLflow holds no weights. The run and the version
have the release's key as a tag, by which a push that was killed finds them again; the run is
finished, then the version is registered, and last the alias names it.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optikit_assets.bucket import Bucket
from optikit_assets.errors import StorageError
from optikit_assets.mlflow import MlflowServer, tags_of

RELEASE_TAG = "optikit.release"

_ARTIFACTS = "mlflow-artifacts"
_BUCKETS = ("s3", "gs", "az")
# More in one request are refused.
_BATCH = 100


@dataclass(frozen=True)
class Account:
    """What a run tells of a release; names of `files` are paths below its artifacts."""

    release: str
    title: str
    metrics: Mapping[str, float]
    parameters: Mapping[str, str]
    tags: Mapping[str, str]
    files: Mapping[str, Path]


class MlflowTracker:
    """One registered model, and the experiment of the same name."""

    def __init__(self, name: str, server: MlflowServer | None = None) -> None:
        self.name = name
        self._server = server or MlflowServer()

    def record(self, account: Account, uri: str, alias: str) -> str:
        """Keep an account of a release that is at `uri`; return the address of the run.

        Raises
        ------
        StorageError
            If the server cannot be reached or refuses; the alias names what it named before.
        """
        experiment = self._experiment()
        run = self._run(experiment, account)
        self._fill(run, account)
        self._point(alias, self._version(run, account, uri))
        return f"{self._server.url}/#/experiments/{experiment}/runs/{run['info']['run_id']}"

    def current(self, alias: str) -> str | None:
        """Return the key of the release that an alias names, None if it names none."""
        version = self._named(alias)
        if version is None:
            return None
        found = self._server.get("model-versions/get", name=self.name, version=version)
        return tags_of(found["model_version"]).get(RELEASE_TAG) if found else None

    def _experiment(self) -> str:
        for _ in range(2):
            found = self._server.get("experiments/get-by-name", experiment_name=self.name)
            if found is not None:
                return found["experiment"]["experiment_id"]
            self._server.post("experiments/create", name=self.name)
        raise StorageError(
            f"{self._server.url}: the experiment {self.name} was deleted; restore it, or name "
            "another model"
        )

    def _run(self, experiment: str, account: Account) -> dict[str, Any]:
        """Return the run of a release, begun if there is none."""
        found = self._server.post(
            "runs/search",
            experiment_ids=[experiment],
            filter=f"tags.`{RELEASE_TAG}` = '{account.release}'",
            order_by=["attributes.start_time ASC"],
            max_results=1,
        )
        if found and found.get("runs"):
            return found["runs"][0]
        made = self._told(
            "runs/create",
            experiment_id=experiment,
            run_name=account.title,
            start_time=_now_ms(),
            tags=_pairs({RELEASE_TAG: account.release}),
        )
        return made["run"]

    def _fill(self, run: dict[str, Any], account: Account) -> None:
        """Tell what there is to tell, unless that came to its end before."""
        info = run["info"]
        if info["status"] == "FINISHED":
            return
        now = _now_ms()
        metrics = [
            {"key": key, "value": value, "timestamp": now, "step": 0}
            for key, value in account.metrics.items()
        ]
        parameters, tags = _pairs(account.parameters), _pairs(account.tags)
        for begin in range(0, max(len(metrics), len(parameters), len(tags)), _BATCH):
            part = slice(begin, begin + _BATCH)
            self._told(
                "runs/log-batch",
                run_id=info["run_id"],
                metrics=metrics[part],
                params=parameters[part],
                tags=tags[part],
            )
        for name, file in account.files.items():
            self._keep(info["artifact_uri"], name, file)
        self._told("runs/update", run_id=info["run_id"], status="FINISHED", end_time=_now_ms())

    def _keep(self, folder: str, name: str, file: Path) -> None:
        """Put a file where the server wants those of a run: through itself, or into a bucket."""
        scheme, _, rest = folder.partition(":")
        if scheme == _ARTIFACTS:
            # Without a host the server itself is meant; with one it is that host.
            path = rest.removeprefix("//").partition("/")[2] if rest.startswith("//") else rest
            self._server.put_file(f"{path.strip('/')}/{name}", file)
        elif scheme in _BUCKETS:
            Bucket(folder).put_file(name, file)
        else:
            raise StorageError(
                f"{self._server.url} keeps files of runs in {folder}, which only its own machine "
                "reaches; start it with --serve-artifacts, or with a bucket"
            )

    def _version(self, run: dict[str, Any], account: Account, uri: str) -> str:
        run_id = run["info"]["run_id"]
        self._server.post("registered-models/create", name=self.name)
        found = self._server.get(
            "model-versions/search", filter=f"name='{self.name}' and run_id='{run_id}'"
        )
        versions = [
            item["version"]
            for item in (found or {}).get("model_versions", ())
            if item["source"] == uri
        ]
        if versions:
            return min(versions, key=int)
        made = self._told(
            "model-versions/create",
            name=self.name,
            source=uri,
            run_id=run_id,
            tags=_pairs({RELEASE_TAG: account.release}),
            description=account.title,
        )
        return made["model_version"]["version"]

    def _point(self, alias: str, version: str) -> None:
        if self._named(alias) != version:
            self._told("registered-models/alias", name=self.name, alias=alias, version=version)

    def _named(self, alias: str) -> str | None:
        """Return the number of the version that an alias names."""
        found = self._server.get("registered-models/get", name=self.name)
        named = (found or {}).get("registered_model", {}).get("aliases", ())
        return next((item["version"] for item in named if item["alias"] == alias), None)

    def _told(self, path: str, **body: Any) -> dict[str, Any]:
        found = self._server.post(path, **body)
        if found is None:
            raise StorageError(
                f"{self._server.url}: what {path} is about changed meanwhile; run again"
            )
        return found


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in values.items()]


def _now_ms() -> int:
    return int(time.time() * 1000)
