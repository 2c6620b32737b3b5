"""Models in OCI registries and HDFS, behind imitations of both on the loopback interface."""

import gzip
import io
import json
import logging
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from optikit_assets.errors import ChangedInputError, ModelError, StorageError
from optikit_assets.oci import Registry
from optikit_assets.settings import settings
from optikit_assets.sources import images, source_of
from optikit_assets.sources.data_files import fetched_file, is_far_file
from optikit_assets.webhdfs import WebHdfs
from tests.contract.model_source import ModelSourceContract
from tests.servers.loopback import Answer, Asked, answering
from tests.servers.registry import NAME, registry
from tests.servers.webhdfs import hdfs
from tests.tiny_model import write_model

TAR = "application/vnd.oci.image.layer.v1.tar"


def tar_of(files: dict[str, bytes], packed: bool = False) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return gzip.compress(out.getvalue()) if packed else out.getvalue()


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".")}


class OciContract(ModelSourceContract):
    malformed = ("oci://", "oci://host", "oci://host/name", "oci://host/name:", "oci:host/name:1")

    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        for name in ("OCI_USERNAME", "OCI_PASSWORD", "OCI_REGISTRY"):
            monkeypatch.delenv(name, raising=False)
        self.folder, self.monkeypatch = tmp_path, monkeypatch
        with registry() as self.server:
            yield f"oci://{self.server.address}/models/qwen"

    def model(self, fill: int) -> dict[str, bytes]:
        return files_of(write_model(self.folder / f"model{fill}", fill))

    def publish(self, fill: int) -> str:
        self.server.push("v1", self.layers(self.model(fill)))
        return f"oci://{self.server.address}/models/qwen:v1"

    def layers(self, files: dict[str, bytes]) -> list[tuple[bytes, str, dict[str, str]]]:
        raise NotImplementedError

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        address = self.server.address
        with self.monkeypatch.context() as away:
            init = Registry.__init__

            def elsewhere(registry: Registry, url: str, *args: Any, **how: Any) -> None:
                init(registry, url.replace(address, "127.0.0.1:9"), *args, **how)

            away.setattr(Registry, "__init__", elsewhere)
            yield


class TestModelcar(OciContract):
    """A layer for each file, as `optikit publish` pushes them, and one of a base image."""

    def layers(self, files: dict[str, bytes]) -> list[tuple[bytes, str, dict[str, str]]]:
        pickle = {"models/weights.pth": b"pickle", "models/../escape.json": b"{}", "bin/sh": b"#!"}
        return [
            (tar_of(pickle, packed=True), f"{TAR}+gzip", {}),
            *((tar_of({f"models/{name}": data}), TAR, {}) for name, data in files.items()),
        ]

    def test_a_fetch_that_broke_off_goes_on_with_the_layers_that_are_missing(
        self, home: Path
    ) -> None:
        reference = self.publish(1)
        source = source_of(reference)
        revision = source.revision(reference, home)
        named = next(k for k, v in self.server.blobs.items() if b"models/model.safetensors" in v)
        content = self.server.blobs[named]
        self.server.blobs[named] = content[:-600]
        with pytest.raises(ModelError, match="another content than its digest says"):
            source.fetch(reference, revision, home)
        self.server.blobs[named] = content
        before = list(self.server.fetched)
        folder = source.fetch(reference, revision, home)
        assert files_of(folder) == self.model(1)
        again = self.server.fetched[len(before) :]
        assert named[1] in again
        assert not set(again) & set(before[: before.index(named[1])])

    def test_a_later_layer_covers_an_earlier_one(self, home: Path) -> None:
        files = self.model(3)
        old = tar_of({"models/config.json": b"{}", "./models/tokenizer.json": b"[]"})
        self.server.push("v2", [(old, TAR, {}), *self.layers(files)])
        reference = f"oci://{self.server.address}/models/qwen:v2"
        source = source_of(reference)
        assert files_of(source.fetch(reference, source.revision(reference, home), home)) == files

    def test_what_a_later_layer_deletes_does_not_come_back(self, home: Path) -> None:
        old = {"models/model.safetensors": b"old", "models/config.json": b"{}"}
        new = {"models/.wh.model.safetensors": b"", "models/model-1.safetensors": b"new"}
        for tag, gone in {
            "v1": new,
            "v2": {"models/.wh..wh..opq": b"", "models/a.json": b"{}"},
        }.items():
            revision = self.server.push(tag, [(tar_of(old), TAR, {}), (tar_of(gone), TAR, {})])
            reference = f"oci://{self.server.address}/models/qwen:{tag}"
            folder = source_of(reference).fetch(reference, revision, home)
            wanted = ["config.json", "model-1.safetensors"] if tag == "v1" else ["a.json"]
            assert sorted(file.name for file in folder.iterdir()) == wanted

    def test_killed_anywhere_while_layers_become_one_folder_it_goes_on_rightly(
        self, home: Path
    ) -> None:
        layers: list[dict[str, bytes]] = [
            {"config.json": b"OLD", "gone.json": b"1", "a.json": b"1"},
            {"config.json": b"NEW", ".wh.gone.json": b"", "z.json": b"2"},
        ]
        packed = [(tar_of({f"models/{n}": c for n, c in one.items()}), TAR, {}) for one in layers]
        revision = self.server.push("v2", packed)
        reference = f"oci://{self.server.address}/models/qwen:v2"
        source, steps, left, number = source_of(reference), -1, 0, 0

        def stepping(real: Any) -> Any:
            def step(*args: Any, **how: Any) -> Any:
                nonlocal steps
                if steps == 0:
                    raise KeyboardInterrupt
                steps -= 1
                return real(*args, **how)

            return step

        for owner, name in ((Path, "replace"), (Path, "rename"), (os, "unlink"), (os, "rmdir")):
            self.monkeypatch.setattr(owner, name, stepping(getattr(owner, name)))
        for number in range(30):
            steps, at = number, home / str(number)
            with suppress(KeyboardInterrupt):
                source.fetch(reference, revision, at)
            left, steps = steps, -1
            assert files_of(source.fetch(reference, revision, at)) == {
                "config.json": b"NEW", "a.json": b"1", "z.json": b"2"
            }  # fmt: skip
            if left > 0:
                break
        assert left > 0
        assert number > 8

    def test_more_bytes_than_are_told_links_and_manifests_that_are_none_are_one_line(
        self, home: Path
    ) -> None:
        link = tarfile.TarInfo("models/config.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            tar.addfile(link)
        good = {
            "mediaType": TAR,
            "digest": self.server.add(out.getvalue()),
            "size": len(out.getvalue()),
        }
        for layer, message in (
            (good, "is a link"),
            ({**good, "size": 9}, "more bytes than its manifest says"),
            ({**good, "size": "9"}, "a manifest that is none"),
            ({**good, "digest": 7}, "a manifest that is none"),
            ({**good, "annotations": {"org.opencontainers.image.title": 7}}, "that is none"),
            ({**good, "annotations": {"org.opencontainers.image.title": "a\0.json"}}, "no name of"),
            (7, "a manifest that is none"),
        ):
            revision = self.server.put(
                "v3", json.dumps({"mediaType": "m", "layers": [layer]}).encode()
            )
            reference = f"oci://{self.server.address}/models/qwen:v3"
            with pytest.raises(ModelError, match=message):
                source_of(reference).fetch(reference, revision, home)

    def test_a_connection_that_breaks_is_one_line_and_leaves_nothing(self, home: Path) -> None:
        reference = self.publish(1)
        source = source_of(reference)
        revision = source.revision(reference, home)
        self.server.cut = 700
        with pytest.raises(ModelError, match="what was finished is kept"):
            source.fetch(reference, revision, home)
        assert not [p for p in (home / "sources").glob("*") if p.suffix not in (".lock", ".part")]
        self.server.cut = None
        assert files_of(source.fetch(reference, revision, home)) == self.model(1)

    def test_a_registry_that_hands_out_tokens_is_read(self, home: Path, place: str) -> None:
        reference = self.publish(1)
        self.server.guarded = True
        source = source_of(reference)
        assert [item.version for item in source.versions(place, home)] == ["v1"]
        folder = source.fetch(reference, source.revision(reference, home), home)
        assert files_of(folder) == self.model(1)

    def test_of_an_index_the_image_of_this_kind_of_machine_is_taken(self, home: Path) -> None:
        kinds = {"arm64": 4, "amd64": 5}
        manifests = [
            {"digest": self.server.push(kind, self.layers(self.model(fill))), "mediaType": "m",
             "platform": {"architecture": kind, "os": "linux"}}
            for kind, fill in kinds.items()
        ]  # fmt: skip
        index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json"}
        digest = self.server.put("both", json.dumps({**index, "manifests": manifests}).encode())
        reference = f"oci://{self.server.address}/models/qwen@{digest}"
        source = source_of(reference)
        assert source.revision(reference, home) == digest
        assert files_of(source.fetch(reference, digest, home)) == self.model(5)

    def test_what_is_no_model_and_what_is_not_there_are_one_line(self, home: Path) -> None:
        reference = f"oci://{self.server.address}/models/qwen:v9"
        source = source_of(reference)
        with pytest.raises(ModelError, match="check name and tag"):
            source.revision(reference, home)
        revision = self.server.push("v9", [(tar_of({"bin/sh": b""}), TAR, {})])
        with pytest.raises(ModelError, match="has no files of a model"):
            source.fetch(reference, revision, home)
        revision = self.server.push("v9", [(b"no tar file at all" * 99, TAR, {})])
        with pytest.raises(ModelError, match="is no tar file"):
            source.fetch(reference, revision, home)
        del self.server.manifests[NAME, revision]
        with pytest.raises(ModelError, match="gone from the registry"):
            source.fetch(reference, revision, home)


class TestOras(OciContract):
    """Files as `oras push` puts them there, beside one that is none of a model."""

    def layers(self, files: dict[str, bytes]) -> list[tuple[bytes, str, dict[str, str]]]:
        kind, title = "application/octet-stream", "org.opencontainers.image.title"
        every = {**files, "weights.pth": b"pickle", "sub/config.json": b"[]"}
        return [(data, kind, {title: name}) for name, data in every.items()]

    def test_a_folder_that_was_packed_is_unpacked(self, home: Path) -> None:
        files = self.model(6)
        told = {
            "org.opencontainers.image.title": "qwen", "io.deis.oras.content.unpack": "true"
        }  # fmt: skip
        packed = tar_of({f"qwen/{name}": data for name, data in files.items()}, packed=True)
        revision = self.server.push("v6", [(packed, f"{TAR}+gzip", told)])
        reference = f"oci://{self.server.address}/models/qwen:v6"
        assert files_of(source_of(reference).fetch(reference, revision, home)) == files

    def test_a_small_layer_that_would_fill_the_disk_is_refused_before_it_is_written(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(images, "_ANY_LAYER", 2**20)
        told = {
            "org.opencontainers.image.title": "qwen", "io.deis.oras.content.unpack": "true"
        }  # fmt: skip
        files = {"config.json": b"{}", "model.safetensors": bytes(3 * 2**20)}
        packed = tar_of({f"qwen/{name}": data for name, data in files.items()}, packed=True)
        # A thousand times as much, as no weights are.
        assert 500 * len(packed) < 3 * 2**20
        revision = self.server.push("v7", [(packed, f"{TAR}+gzip", told)])
        reference = f"oci://{self.server.address}/models/qwen:v7"
        with pytest.raises(ModelError) as caught:
            source_of(reference).fetch(reference, revision, home)
        assert f"{reference}: the layer sha256:" in str(caught.value)
        assert "with qwen/model.safetensors of 3.0 MiB" in str(caught.value)
        assert not list(home.rglob("*.safetensors"))
        monkeypatch.setenv("OPTIKIT_UNPACK_RATIO", "2000")
        settings.cache_clear()
        assert files_of(source_of(reference).fetch(reference, revision, home)) == files


class TestHdfs(ModelSourceContract):
    malformed = ("webhdfs://", "webhdfs://host:9870", "webhdfs:host/name")
    keeps_what_was_replaced = False

    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        for name in ("HADOOP_USER_NAME", "WEBHDFS_TOKEN", "WEBHDFS_HOST"):
            monkeypatch.delenv(name, raising=False)
        self.folder, self.monkeypatch = tmp_path, monkeypatch
        with hdfs() as self.server:
            yield f"webhdfs://{self.server.address}/models/my qwen"

    def publish(self, fill: int) -> str:
        for name, content in files_of(write_model(self.folder / str(fill), fill)).items():
            self.server.write(f"/models/my qwen/v1/{name}", content)
        self.server.write("/models/my qwen/v1/old/model.safetensors", b"another")
        self.server.write("/models/my qwen/_temporary/part-0", b"")
        return f"webhdfs://{self.server.address}/models/my qwen/v1"

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        real = WebHdfs._client

        def away(folder: WebHdfs) -> httpx.Client:
            folder._base = "http://127.0.0.1:9/webhdfs/v1/x"
            return real(folder)

        with self.monkeypatch.context() as gone:
            gone.setattr(WebHdfs, "_client", away)
            yield

    def test_a_connection_that_breaks_is_resumed_where_it_broke(self, home: Path) -> None:
        reference = self.publish(1)
        source = source_of(reference)
        revision = source.revision(reference, home)
        self.server.cut = 5000
        folder = source.fetch(reference, revision, home)
        assert files_of(folder) == files_of(self.folder / "1")
        path = "/models/my qwen/v1/model.safetensors"
        assert [at for name, at in self.server.opened if name == path] == [0, 5000, 10000]

    def test_a_file_in_the_place_of_another_is_noticed_though_it_keeps_size_and_time(
        self, home: Path
    ) -> None:
        reference = self.publish(1)
        source = source_of(reference)
        first = source.revision(reference, home)
        path = "/models/my qwen/v1/config.json"
        content, time_ms, _ = self.server.files[path]
        self.server.write(path, content, time_ms)
        assert source.revision(reference, home) != first

    def test_a_token_is_shown_to_name_and_data_node_and_what_lacks_it_is_refused(
        self, home: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        reference = self.publish(1)
        self.server.token = "secret"
        source = source_of(reference)
        with pytest.raises(ModelError, match="set HADOOP_USER_NAME, or WEBHDFS_TOKEN"):
            source.revision(reference, home)
        self.monkeypatch.setenv("WEBHDFS_TOKEN", "secret")
        self.monkeypatch.setenv("WEBHDFS_HOST", "another.example.com:9870")
        with pytest.raises(ModelError, match=f"WEBHDFS_HOST={self.server.address}"):
            source.revision(reference, home)
        self.monkeypatch.setenv("WEBHDFS_HOST", self.server.address)
        caplog.set_level(logging.INFO)
        folder = source.fetch(reference, source.revision(reference, home), home)
        assert files_of(folder) == files_of(self.folder / "1")
        assert "secret" not in caplog.text

    def test_more_than_was_listed_is_not_written(self, home: Path, tmp_path: Path) -> None:
        status = {"pathSuffix": "a", "type": "FILE", "length": 9, "modificationTime": 5}

        def answer(asked: Asked) -> Answer:
            if "op=OPEN" in asked.query:
                assert "length=9" in asked.query
                return Answer(body=b"x" * 2**20)
            return Answer(body=json.dumps({"FileStatus": status}).encode())

        with answering(answer) as address, pytest.raises(ChangedInputError, match="more than 9"):
            WebHdfs(f"webhdfs://{address}/m").fetch("a", 9, tmp_path / "a")
        assert (tmp_path / "a").stat().st_size == 0

    def test_a_way_from_tls_to_none_is_refused(self, tmp_path: Path) -> None:
        def lead(request: httpx.Request) -> httpx.Response:
            assert request.url.scheme == "https"
            return httpx.Response(307, headers={"Location": "http://node.example.com/x"})

        def connect(**how: Any) -> httpx.Client:
            return httpx.Client(transport=httpx.MockTransport(lead))

        folder = WebHdfs("swebhdfs://gateway.example.com:9871/m", connect=connect)
        with pytest.raises(StorageError, match=r"leads to node\.example\.com without TLS"):
            folder.fetch("a", 9, tmp_path / "a")

    def test_a_token_goes_nowhere_without_tls(self, home: Path) -> None:
        self.monkeypatch.setenv("WEBHDFS_TOKEN", "secret")
        self.monkeypatch.setenv("WEBHDFS_HOST", "namenode.example.com:9870")
        reference = "webhdfs://namenode.example.com:9870/models/qwen/v1"
        with pytest.raises(ModelError, match=r"not sent to .* without TLS"):
            source_of(reference).revision(reference, home)

    def test_the_sensor_waits_until_nothing_arrives_any_more(self, home: Path, place: str) -> None:
        self.publish(1)
        models = self.registry(home, place)
        (declared,) = models.versions()
        reason = models.why_not_arrived(declared, quiet_s=1e6, now_s=0.0)
        assert "it changed a moment ago" in (reason or "")

    def test_a_data_file_is_fetched_once_and_anew_when_it_changed(self, home: Path) -> None:
        reference = f"webhdfs://{self.server.address}/data/rows.jsonl"
        assert is_far_file(reference)
        with pytest.raises(ModelError, match="is not there"):
            fetched_file(reference, home)
        self.server.write("/data/rows.jsonl", b"one")
        first = fetched_file(reference, home)
        assert (first.name, first.read_bytes()) == ("rows.jsonl", b"one")
        assert fetched_file(reference, home) == first
        assert len(self.server.opened) == 1
        self.server.write("/data/rows.jsonl", b"two")
        second = fetched_file(reference, home)
        assert (second.read_bytes(), first.read_bytes()) == (b"two", b"one")
        with self.unreachable():
            assert fetched_file(reference, home) == second
            with pytest.raises(ModelError, match="no answer to"):
                fetched_file(reference, home / "elsewhere")


def test_credentials_are_shown_to_the_registry_that_they_are_of_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str | None] = []

    def answer(asked: Asked) -> Answer:
        shown.append(asked.headers.get("Authorization"))
        return Answer(401, headers={"WWW-Authenticate": 'Basic realm="x"'})

    monkeypatch.setenv("OCI_USERNAME", "me")
    monkeypatch.setenv("OCI_PASSWORD", "secret")
    with answering(answer) as address:
        reference = f"oci://{address}/public/model:1"
        for named in ("", "registry.example.com"):
            monkeypatch.setenv("OCI_REGISTRY", named)
            with pytest.raises(ModelError, match=f"and OCI_REGISTRY={address}"):
                source_of(reference).revision(reference, home)
        with pytest.raises(StorageError, match=f"and OCI_REGISTRY={address}"):
            Registry(reference, "pull,push").manifest("1")
        assert shown == [None] * 3
        monkeypatch.setenv("OCI_REGISTRY", address)
        with pytest.raises(ModelError, match=r"of somebody who may$"):
            source_of(reference).revision(reference, home)
        assert (shown[-1] or "").startswith("Basic ")


@pytest.mark.parametrize(
    ("body", "more", "message"),
    [
        (b"<html>", "", "is no registry"),
        (b'{"errors": []}', "", "is no registry"),
        (b'{"tags": [7]}', "", "is no registry"),
        (b'{"tags": ["a"]}', "/v2/m/q/tags/list?n=1000", "more than 20 pages"),
        (b'{"tags": ["a"]}', "https://other.example.com/v2/m/q/tags/list", "is no registry"),
    ],
)
def test_an_answer_of_no_registry_is_one_line(
    home: Path, body: bytes, more: str, message: str
) -> None:
    headers = {"Link": f'<{more}>; rel="next"'} if more else {}
    with answering(lambda asked: Answer(body=body, headers=headers)) as address:
        place = f"oci://{address}/m/q"
        with pytest.raises(ModelError, match=message) as refused:
            source_of(place).versions(place, home)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("place", ["oci://127.0.0.1:99999/m/q", "webhdfs://127.0.0.1:99999/m/q"])
def test_an_address_that_is_none_is_one_line(home: Path, place: str) -> None:
    with pytest.raises(ModelError, match="check"):
        source_of(place).versions(place, home)
