"""Releases in MLflow, and models from it: an imitation, and a real one (``make setup-clients``)."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import obstore
import pytest
from obstore.store import S3Store

from demo.mlflow import LACKING, mlflow_server, program
from demo.s3 import BUCKET, S3Server
from optikit_assets.errors import ModelError, StorageError
from optikit_assets.mlflow import MlflowServer
from optikit_assets.publishing import Account, MlflowTracker
from optikit_assets.sources import source_of
from optikit_assets.specs import digest
from tests.contract.model_source import ModelSourceContract
from tests.contract.release_target import Killed
from tests.servers.mlflow import Imitation, imitated
from tests.tiny_model import write_model

REAL = pytest.param("real", marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=["imitated", REAL])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "real":
        if program() is None:
            pytest.skip(LACKING)
        with mlflow_server(tmp_path_factory.mktemp("mlflow")) as address:
            yield address
    else:
        with imitated(Imitation()) as address:
            yield address


class Mortal(httpx.HTTPTransport):
    """Kills before some request that writes; lets all through without a number of steps."""

    steps: int | None = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        reads = request.method == "GET" or request.url.path.endswith("/search")
        if not reads and Mortal.steps is not None:
            if Mortal.steps == 0:
                raise Killed
            Mortal.steps -= 1
        return super().handle_request(request)


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    """A registered model that no other test has."""
    return f"m-{digest(request.node.nodeid)[:10]}"


@pytest.fixture
def tracker(url: str, model: str) -> MlflowTracker:
    Mortal.steps = None

    def connect(**how: Any) -> httpx.Client:
        return httpx.Client(transport=Mortal(verify=False), **how)

    return MlflowTracker(model, MlflowServer(url, connect=connect))


def account(folder: Path, letter: str) -> Account:
    report = folder / f"{letter}.html"
    report.write_text(f"<p>{letter}</p>")
    return Account(
        release=letter * 64,
        title=f"release {letter}",
        metrics={"certified_rate_rps": 7.5, "recovery/math": 0.99},
        parameters={"recipe": "int_w8a8", **{f"flag.{n}": str(n) for n in range(120)}},
        tags={"slo": "chat"},
        files={"report.html": report, "deploy/a b.yaml": report},
    )


def runs(url: str, model: str) -> list[dict[str, Any]]:
    server = MlflowServer(url)
    found = server.get("experiments/get-by-name", experiment_name=model)
    number = found["experiment"]["experiment_id"]
    told = server.post("runs/search", experiment_ids=[number])
    return told.get("runs", [])


def versions(url: str, model: str) -> list[dict[str, Any]]:
    found = MlflowServer(url).get("model-versions/search", filter=f"name='{model}'")
    return found.get("model_versions", [])


def test_a_release_is_a_run_and_a_version_that_lies_in_the_store(
    tracker: MlflowTracker, url: str, model: str, tmp_path: Path
) -> None:
    assert tracker.current("current") is None
    link = tracker.record(account(tmp_path, "a"), "s3://bucket/releases/a/model", "current")
    (run,) = runs(url, model)
    assert run["info"]["status"] == "FINISHED"
    assert link.endswith(run["info"]["run_id"])
    (version,) = versions(url, model)
    assert version["source"] == "s3://bucket/releases/a/model"
    assert version["run_id"] == run["info"]["run_id"]
    assert tracker.current("current") == 64 * "a"


def test_once_more_adds_nothing_and_an_alias_goes_back(
    tracker: MlflowTracker, url: str, model: str, tmp_path: Path
) -> None:
    for letter in "aba":
        tracker.record(account(tmp_path, letter), f"s3://bucket/releases/{letter}", "current")
    assert len(runs(url, model)) == len(versions(url, model)) == 2
    assert tracker.current("current") == 64 * "a"


@pytest.mark.slow
def test_killed_anywhere_there_is_one_run_and_one_version_after_the_next_time(
    tracker: MlflowTracker, url: str, model: str, tmp_path: Path
) -> None:
    step = 0
    while True:
        name = f"{model}-{step}"
        tracker.name = name
        Mortal.steps = None
        tracker.record(account(tmp_path, "a"), "s3://bucket/a", "current")
        Mortal.steps = step
        try:
            tracker.record(account(tmp_path, "b"), "s3://bucket/b", "current")
            ended = True
        except Killed:
            ended = False
        Mortal.steps = None
        assert tracker.current("current") == 64 * ("b" if ended else "a")
        tracker.record(account(tmp_path, "b"), "s3://bucket/b", "current")
        assert tracker.current("current") == 64 * "b"
        assert len(runs(url, name)) == len(versions(url, name)) == 2
        assert {run["info"]["status"] for run in runs(url, name)} == {"FINISHED"}
        if ended:
            break
        step += 1
    assert step > 6


def test_what_a_run_tells_is_what_was_certified(
    tracker: MlflowTracker, url: str, model: str, tmp_path: Path
) -> None:
    tracker.record(account(tmp_path, "a"), "s3://bucket/a", "current")
    (run,) = runs(url, model)
    told = {
        kind: {i["key"]: i["value"] for i in run["data"][kind]} for kind in ("metrics", "params")
    }
    assert told["metrics"] == {"certified_rate_rps": 7.5, "recovery/math": 0.99}
    assert len(told["params"]) == 121
    folder = run["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/")
    place = f"{url}/api/2.0/mlflow-artifacts/artifacts/{folder}"
    assert httpx.get(f"{place}/deploy/a b.yaml").text == "<p>a</p>"


def test_a_server_that_is_down_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match="no answer to GET mlflow/experiments") as refused:
        MlflowTracker("m").record(account(tmp_path, "a"), "s3://bucket/a", "current")
    assert "\n" not in str(refused.value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(StorageError, match="MLFLOW_TRACKING_URI is '': set it"):
        MlflowTracker("m")


def test_credentials_are_not_sent_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["Authorization"])
        return httpx.Response(403)

    def connect(**how: Any) -> httpx.Client:
        return httpx.Client(transport=httpx.MockTransport(answer), **how)

    with pytest.raises(StorageError, match="not sent without TLS"):
        MlflowServer("http://mlflow.example.com", connect=connect).get("registered-models/get")
    with pytest.raises(StorageError, match="no permission for GET mlflow/registered-models/get"):
        MlflowServer("https://mlflow.example.com", connect=connect).get("registered-models/get")
    assert seen == ["Bearer secret"]


@pytest.mark.slow
class TestRegistered(ModelSourceContract):
    """Versions of a registered model, whose files lie on a real S3 server."""

    malformed = ("models:/qwen", "models:/qwen/one", "models:qwen/1", "models:/qwen@a/b")

    @pytest.fixture(autouse=True)
    def place(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        server: S3Server,
        url: str,
        model: str,
    ) -> str:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        self.folder, self.monkeypatch, self.model = tmp_path / "uploads", monkeypatch, model
        self.mlflow = MlflowServer(url)
        self.mlflow.post("registered-models/create", name=model)
        self.objects = S3Store(BUCKET, client_options={"allow_http": True})
        return f"models:/{model}"

    def register(self, fill: int) -> str:
        where = f"{self.model}/{fill}/model"
        for file in write_model(self.folder / str(fill), fill).iterdir():
            obstore.put(self.objects, f"{where}/{file.name}", file)
        made = self.mlflow.post(
            "model-versions/create", name=self.model, source=f"s3://{BUCKET}/{where}"
        )
        return made["model_version"]["version"]

    def publish(self, fill: int) -> str:
        number = self.register(fill)
        self.mlflow.post(
            "registered-models/alias", name=self.model, alias="champion", version=number
        )
        return f"models:/{self.model}@champion"

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        with self.monkeypatch.context() as away:
            away.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
            yield

    def test_what_was_published_is_listed(self, place: str, tmp_path: Path) -> None:
        self.publish(1)
        self.register(2)
        listed = source_of(place).versions(place, tmp_path)
        assert [item.reference for item in listed] == [f"{place}/1", f"{place}/2"]

    def test_an_alias_that_moved_does_not_move_what_was_added(self, home: Path, place: str) -> None:
        reference = self.publish(1)
        models = self.registry(home, place)
        added = models.add(reference, "added", "1")
        first = models.fetch(added).digest
        assert json.loads(added.commit or "")[0] == "1"
        self.publish(2)
        assert models.fetch(models.resolve("added")).digest == first
        assert models.fetch(models.add(reference, "added", "1")).digest != first

    def test_what_is_not_registered_or_cannot_be_fetched_is_one_line(
        self, home: Path, place: str
    ) -> None:
        for lacking in (f"{place}/9", f"{place}@nobody", "models:/nothing/1"):
            with pytest.raises(ModelError, match="is not in the registry at http"):
                source_of(lacking).revision(lacking, home)
        for lies_at, told in {
            "dbfs:/models/m": "only models at s3://, gs://, az://",
            "oci://registry.example.com/m": "cannot be read: .* is not of the form oci://",
        }.items():
            made = self.mlflow.post("model-versions/create", name=self.model, source=lies_at)
            reference = f"{place}/{made['model_version']['version']}"
            with pytest.raises(ModelError, match=told):
                source_of(reference).revision(reference, home)
