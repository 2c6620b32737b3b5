"""Models in a bucket, on a real S3 server."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from demo.s3 import BUCKET, S3Server
from optikit_assets.bucket import Bucket
from optikit_assets.errors import ModelError
from optikit_assets.sources import source_of
from tests.contract.model_source import ModelSourceContract
from tests.tiny_model import write_model

pytestmark = pytest.mark.slow


class TestObjects(ModelSourceContract):
    malformed = ("s3://", "s3://bucket", "s3:bucket/name")
    keeps_what_was_replaced = False

    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: S3Server) -> str:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        self.folder, self.monkeypatch = tmp_path / "uploads", monkeypatch
        self.where = f"{tmp_path.name}/qwen"
        self.objects = S3Store(BUCKET, client_options={"allow_http": True})
        return f"s3://{BUCKET}/{self.where}"

    def publish(self, fill: int) -> str:
        folder = write_model(self.folder / str(fill), fill)
        for file in folder.iterdir():
            obstore.put(self.objects, f"{self.where}/v1/{file.name}", file)
        # Neither a second copy of the weights nor a pickle is any of ours.
        obstore.put(self.objects, f"{self.where}/v1/original/weights.pth", b"pickle")
        return f"s3://{BUCKET}/{self.where}/v1"

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        endpoint = os.environ["AWS_ENDPOINT_URL"]
        self.monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        yield
        self.monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)

    def test_a_fetch_that_broke_off_goes_on_with_what_is_missing(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reference = self.publish(1)
        source = source_of(reference)
        revision = source.revision(reference, home)
        fetched: list[str] = []
        fetch = Bucket.fetch

        def break_off(bucket: Bucket, name: str, size: int, to: Path, tag: str) -> str:
            if len(fetched) == 1:
                raise KeyboardInterrupt
            fetched.append(name)
            return fetch(bucket, name, size, to, tag)

        monkeypatch.setattr(Bucket, "fetch", break_off)
        with pytest.raises(KeyboardInterrupt):
            source.fetch(reference, revision, home)
        monkeypatch.setattr(
            Bucket,
            "fetch",
            lambda b, n, s, to, tag: (fetched.append(n), fetch(b, n, s, to, tag))[1],
        )
        folder = source.fetch(reference, revision, home)
        assert sorted(fetched) == ["config.json", "model.safetensors", "tokenizer.json"]
        assert sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) == fetched

    def test_the_sensor_waits_until_nothing_arrives_any_more(self, home: Path, place: str) -> None:
        self.publish(1)
        models = self.registry(home, place)
        (declared,) = models.versions()
        reason = models.why_not_arrived(declared, quiet_s=1e6, now_s=0.0)
        assert reason is not None
        assert "it changed a moment ago" in reason

    def test_missing_credentials_are_one_line(self, home: Path) -> None:
        reference = self.publish(1)
        self.monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        with pytest.raises(ModelError, match="check the credentials in the environment"):
            source_of(reference).revision(reference, home)

    def test_a_folder_without_a_model_is_one_line(self, home: Path, place: str) -> None:
        with pytest.raises(ModelError, match="has no files of a model"):
            source_of(place).revision(f"{place}/v9", home)
