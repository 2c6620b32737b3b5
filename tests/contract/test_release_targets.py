"""The targets that ship: a bucket in memory, and a registry, a real one where it is installed."""

import errno
import io
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import obstore
import pytest
from obstore.store import MemoryStore

from demo.registry import program, registry_server
from optikit_assets.bucket import Bucket
from optikit_assets.errors import SpecError, StorageError
from optikit_assets.publishing import (
    FolderTarget,
    ObjectTarget,
    RegistryTarget,
    Release,
    Target,
    open_target,
)
from optikit_assets.sources import source_of
from tests.contract.release_target import Killed, TargetContract, make_release
from tests.servers.registry import registry as imitated_registry


class MortalBucket(Bucket):
    """A bucket in memory whose user is killed before some write."""

    steps = -1

    def _step(self) -> None:
        if self.steps == 0:
            raise Killed
        self.steps -= 1

    def put_file(self, name: str, path: Path) -> None:
        self._step()
        super().put_file(name, path)

    def _put(self, name: str, content: bytes, mode: Any) -> str | None:
        self._step()
        return super()._put(name, content, mode)


class TestObjects(TargetContract):
    def open(self, folder: Path) -> Target:
        self.memory = MemoryStore()
        self.bucket = MortalBucket("s3://bucket/prefix", self.memory)
        self.now = datetime.now(UTC)
        return ObjectTarget(self.bucket.url, self.bucket, lambda: self.now)

    def kill_after(self, steps: int) -> None:
        self.bucket.steps = steps

    def releases(self) -> list[str]:
        return [name.split("/")[1] for name in self._names() if name.endswith("release.json")]

    def pulled(self, key: str) -> dict[str, bytes]:
        place = f"releases/{key}/model/"
        return {
            name.removeprefix(place): bytes(obstore.get(self.memory, name).bytes())
            for name in self._names()
            if name.startswith(place)
        }

    def _names(self) -> list[str]:
        return sorted(item["path"] for page in obstore.list(self.memory) for item in page)

    def test_what_was_given_up_is_swept_a_day_later(self, target: Target, tmp_path: Path) -> None:
        given_up, later = (make_release(tmp_path, letter) for letter in "ab")
        self.kill_after(2)
        with pytest.raises(Killed):
            target.push(given_up, "current")
        self.kill_after(-1)
        target.push(later, "current")
        assert any(given_up.key in name for name in self._names())
        self.now += timedelta(days=2)
        target.push(later, "current")
        assert not any(given_up.key in name for name in self._names())

    def test_what_others_sweep_from_a_push_is_sent_again(
        self, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        release = make_release(tmp_path, "a")
        self.kill_after(3)
        with pytest.raises(Killed):
            target.push(release, "current")
        self.kill_after(-1)
        left = [name for name in self._names() if "model/" in name]
        assert left
        put = self.bucket.put_file

        def while_they_sweep(name: str, path: Path) -> None:
            self.bucket.delete(*left)
            left.clear()
            put(name, path)

        monkeypatch.setattr(self.bucket, "put_file", while_they_sweep)
        target.push(release, "current")
        assert self.pulled(release.key) == {
            name: path.read_bytes() for name, path in release.model.items()
        }

    def test_what_is_swept_is_not_pushed_and_what_is_pushed_is_not_swept(
        self, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given_up, other = (make_release(tmp_path, letter) for letter in "ab")
        self.kill_after(4)
        with pytest.raises(Killed):
            target.push(given_up, "current")
        self.kill_after(-1)
        later = ObjectTarget(self.bucket.url, self.bucket, lambda: self.now + timedelta(days=2))
        listed, delete = self.bucket.list, self.bucket.delete

        def list_then_push(prefix: str, after: str | None = None) -> Any:
            found = list(listed(prefix, after))
            if prefix == f"releases/{given_up.key}/":
                with monkeypatch.context() as inside:
                    inside.setattr(self.bucket, "list", listed)
                    target.push(given_up, "current")
            return iter(found)

        def push_then_delete(*names: str) -> None:
            with pytest.raises(StorageError, match="is being swept"):
                target.push(given_up, "current")
            delete(*names)

        # A sweep goes on from an old release; another push comes before each of its deletions.
        monkeypatch.setattr(self.bucket, "delete", push_then_delete)
        later.push(other, "other")
        monkeypatch.undo()
        assert not any(given_up.key in name for name in self._names())
        # And the other way round: the push comes after it has looked.
        self.kill_after(4)
        with pytest.raises(Killed):
            target.push(given_up, "current")
        self.kill_after(-1)
        monkeypatch.setattr(self.bucket, "list", list_then_push)
        later.push(other, "other")
        monkeypatch.undo()
        assert self.releases() == sorted([given_up.key, other.key])
        assert self.pulled(given_up.key) == {
            name: path.read_bytes() for name, path in given_up.model.items()
        }

    def test_a_sweep_that_died_keeps_a_push_for_an_hour_at_most(
        self, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given_up, other = (make_release(tmp_path, letter) for letter in "ab")
        self.kill_after(3)
        with pytest.raises(Killed):
            target.push(given_up, "current")
        self.kill_after(-1)
        self.now += timedelta(days=2)

        def die(*names: str) -> None:
            raise Killed

        monkeypatch.setattr(self.bucket, "delete", die)
        with pytest.raises(Killed):
            target.push(other, "other")
        monkeypatch.undo()
        self.now = datetime.now(UTC)
        with pytest.raises(StorageError, match="is being swept"):
            target.push(given_up, "current")
        self.now += timedelta(hours=2)
        target.push(given_up, "current")
        assert given_up.key in self.releases()

    def test_a_push_that_is_resumed_is_young_again_and_its_bundle_new(
        self, target: Target, tmp_path: Path
    ) -> None:
        release = make_release(tmp_path, "a")
        self.kill_after(4)
        with pytest.raises(Killed):
            target.push(release, "current")
        readme = f"releases/{release.key}/bundle/README.md"
        assert readme in self._names()
        readme_file = release.bundle["README.md"]
        readme_file.write_bytes(readme_file.read_bytes()[::-1])
        self.kill_after(-1)
        begun = f"releases/{release.key}/begun"
        before = self.bucket.read(begun)
        target.push(release, "current")
        assert self.bucket.read(begun) != before
        assert bytes(obstore.get(self.memory, readme).bytes()) == readme_file.read_bytes()

    def test_who_may_not_delete_may_push(
        self, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.kill_after(2)
        with pytest.raises(Killed):
            target.push(make_release(tmp_path, "a"), "current")
        self.kill_after(-1)
        self.now += timedelta(days=2)

        def denied(*names: str) -> None:
            raise StorageError("no permission to delete") from PermissionError()

        monkeypatch.setattr(self.bucket, "delete", denied)
        target.push(make_release(tmp_path, "b"), "current")
        assert target.current("current") == 64 * "b"
        # Nor does what it could not sweep wait for anybody.
        self.now = datetime.now(UTC)
        target.push(make_release(tmp_path, "a"), "current")
        assert target.current("current") == 64 * "a"


class MortalFolder(FolderTarget):
    """A folder whose user is killed before some write."""

    steps = -1

    def _step(self) -> None:
        if self.steps == 0:
            raise Killed
        self.steps -= 1

    def _copy(self, source: Path, to: Path) -> None:
        self._step()
        super()._copy(source, to)

    def _rename(self, draft: Path, to: Path) -> None:
        self._step()
        super()._rename(draft, to)


class TestFolder(TargetContract):
    def open(self, folder: Path) -> Target:
        self.now_s = time.time()
        self.place = MortalFolder((folder / "target").as_uri(), lambda: self.now_s)
        return self.place

    def kill_after(self, steps: int) -> None:
        self.place.steps = steps

    def releases(self) -> list[str]:
        return sorted(file.parent.name for file in self.place.root.glob("releases/[!.]*/*.json"))

    def pulled(self, key: str) -> dict[str, bytes]:
        place = Path(self.place.uri(key).removeprefix("file://"))
        return {file.name: file.read_bytes() for file in place.iterdir()}

    def test_what_was_given_up_is_swept_a_day_later(self, target: Target, tmp_path: Path) -> None:
        given_up, later = (make_release(tmp_path, letter) for letter in "ab")
        self.kill_after(2)
        with pytest.raises(Killed):
            target.push(given_up, "current")
        self.kill_after(-1)
        target.push(later, "current")
        (part,) = self.place.root.glob("releases/.*.part")
        # An alias that was not renamed to what it is for.
        unnamed = self.place.root / "aliases" / ".current.0a1b2c3d"
        unnamed.symlink_to("nowhere")
        target.push(later, "current")
        assert unnamed.is_symlink()
        self.now_s += 2 * 24 * 3600
        target.push(later, "current")
        assert not part.exists()
        assert not unnamed.is_symlink()

    def test_all_of_a_release_is_on_the_disk_before_it_is_seen(
        self, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: list[str] = []
        fsync = os.fsync

        def watch(descriptor: int) -> None:
            synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
            fsync(descriptor)

        rename = self.place._rename
        before: list[str] = []

        def renamed(draft: Path, to: Path) -> None:
            if draft.suffix == ".part":
                before.extend(synced)
                synced.clear()
            rename(draft, to)

        monkeypatch.setattr(os, "fsync", watch)
        monkeypatch.setattr(self.place, "_rename", renamed)
        target.push(make_release(tmp_path, "a"), "current")
        part = self.place.root / "releases" / f".{'a' * 64}.part"
        assert {str(part), f"{part}/release.json", f"{part}/model"} <= set(before)
        assert synced[0] == str(part.parent)

    def test_a_full_disk_is_one_line_and_nothing_is_seen(
        self, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(source: Path, to: Path) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(to))

        monkeypatch.setattr(target, "_copy", full)
        with pytest.raises(StorageError, match="disk full while writing a release"):
            target.push(make_release(tmp_path, "a"), "current")
        assert self.releases() == []
        assert target.current("current") is None


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if program() is not None:
        with registry_server(tmp_path_factory.mktemp("registry")) as address:
            yield address
        return
    with imitated_registry() as served:
        yield served.address


def unpacked(layer: io.BytesIO) -> dict[str, bytes]:
    with tarfile.open(fileobj=layer) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar.getmembers()}


class MortalTransport(httpx.HTTPTransport):
    """Kills before some request that writes, of all connections together."""

    def __init__(self, counter: "TestRegistry") -> None:
        super().__init__(verify=False)
        self.counter = counter

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.method in ("POST", "PUT"):
            if self.counter.steps == 0:
                raise Killed
            self.counter.steps -= 1
        return super().handle_request(request)


@pytest.mark.slow
class TestRegistry(TargetContract):
    steps = -1

    @pytest.fixture(autouse=True)
    def running(self, registry: str) -> None:
        self.address = registry

    def open(self, folder: Path) -> Target:
        self.repository = f"models/{folder.parent.name.lower()}-{folder.name.lower()}"
        return RegistryTarget(f"oci://{self.address}/{self.repository}", self.connect)

    def connect(self) -> httpx.Client:
        return httpx.Client(transport=MortalTransport(self))

    def kill_after(self, steps: int) -> None:
        self.steps = steps

    def releases(self) -> list[str]:
        found = httpx.get(f"http://{self.address}/v2/{self.repository}/tags/list").json()["tags"]
        return sorted(2 * tag for tag in found if tag != "current")

    def pulled(self, key: str) -> dict[str, bytes]:
        """Pull blob by blob."""
        base = f"http://{self.address}/v2/{self.repository}"
        accept = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
        manifest = httpx.get(f"{base}/manifests/{key[:32]}", headers=accept).json()
        files: dict[str, bytes] = {}
        for layer in manifest["layers"]:
            files |= unpacked(io.BytesIO(httpx.get(f"{base}/blobs/{layer['digest']}").content))
        return {
            name.removeprefix("models/"): content
            for name, content in files.items()
            if name.startswith("models/")
        }

    def test_what_was_pushed_is_a_version_of_a_model(self, target: Target, tmp_path: Path) -> None:
        release = make_release(tmp_path, "a")
        target.push(release, "current")
        reference = f"oci://{self.address}/{self.repository}:current"
        source = source_of(reference)
        listed = source.versions(reference.removesuffix(":current"), tmp_path)
        assert [item.version for item in listed] == ["a" * 32, "current"]
        folder = source.fetch(reference, source.revision(reference, tmp_path), tmp_path / "home")
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
            name: path.read_bytes() for name, path in release.model.items()
        }

    def test_skopeo_pulls_it_bit_for_bit(self, target: Target, tmp_path: Path) -> None:
        program = os.environ.get("SKOPEO") or shutil.which("skopeo")
        if program is None:
            pytest.skip("skopeo is not installed")
        release = make_release(tmp_path, "a")
        target.push(release, "current")
        there = tmp_path / "pulled"
        source = f"docker://{self.address}/{self.repository}:current"
        argv = [
            program,
            "copy",
            "--insecure-policy",
            "--src-tls-verify=false",
            source,
            f"dir:{there}",
        ]
        subprocess.run(argv, check=True, capture_output=True, timeout=60)
        files: dict[str, bytes] = {}
        for blob in there.iterdir():
            if tarfile.is_tarfile(blob):
                files |= unpacked(io.BytesIO(blob.read_bytes()))
        assert files == {
            **{f"models/{name}": path.read_bytes() for name, path in release.model.items()},
            "bundle/README.md": release.bundle["README.md"].read_bytes(),
        }


def mocked(answer: Callable[[httpx.Request], httpx.Response]) -> Callable[[], httpx.Client]:
    return lambda: httpx.Client(transport=httpx.MockTransport(answer))


def test_a_registry_that_is_down_is_one_line(tmp_path: Path) -> None:
    target = open_target("oci://127.0.0.1:9/models/m")
    with pytest.raises(StorageError, match=r"oci://127\.0\.0\.1:9/models/m: cannot read the tag"):
        target.push(make_release(tmp_path, "a"), "current")


@pytest.mark.parametrize("text", ["<p>log in</p>", "[]", '{"annotations": "none"}'])
def test_what_answers_and_is_no_registry_is_one_line(text: str, tmp_path: Path) -> None:
    page = mocked(lambda request: httpx.Response(200, text=text))
    target = RegistryTarget("oci://registry.example.com/models/m", page)
    with pytest.raises(StorageError, match="asked to read the tag current is no registry"):
        target.current("current")


@pytest.mark.parametrize("headers", [{}, {"Location": "http://[::1"}])
def test_a_registry_that_names_no_place_for_a_blob_is_one_line(
    headers: dict[str, str], tmp_path: Path
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        begun = request.method == "POST"
        return httpx.Response(202, headers=headers) if begun else httpx.Response(404)

    target = RegistryTarget("oci://registry.example.com/models/m", mocked(answer))
    with pytest.raises(StorageError, match=r"asked to send sha256.* is no registry"):
        target.push(make_release(tmp_path, "a"), "current")


def test_a_place_that_nobody_opens_is_one_line() -> None:
    with pytest.raises(SpecError, match="begins with none of"):
        open_target("ftp://host/place")


def test_a_registry_that_wants_a_token_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCI_USERNAME", "me")
    monkeypatch.setenv("OCI_PASSWORD", "secret")
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(f"{request.url.host} {request.headers.get('Authorization', '-')[:6]}")
        if request.url.host == "auth.example.com":
            assert dict(request.url.params) == {
                "service": "registry",
                "scope": "repository:models/m:pull,push",
            }
            return httpx.Response(200, json={"token": "word"})
        if request.headers.get("Authorization") != "Bearer word":
            challenge = 'Bearer realm="https://auth.example.com/token",service="registry"'
            return httpx.Response(401, headers={"WWW-Authenticate": challenge})
        return httpx.Response(404)

    target = RegistryTarget("oci://registry.example.com/models/m", mocked(answer))
    assert target.current("current") is None
    assert asked == [
        "registry.example.com -", "auth.example.com Basic ", "registry.example.com Bearer"
    ]  # fmt: skip


def test_a_push_without_permission_is_one_line(tmp_path: Path) -> None:
    refuse = mocked(lambda request: httpx.Response(401))
    target = RegistryTarget("oci://registry.example.com/models/m", refuse)
    with pytest.raises(StorageError, match="set OCI_USERNAME and OCI_PASSWORD"):
        target.push(Release("a" * 64, {}, {}), "current")


def test_credentials_go_to_the_registry_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCI_USERNAME", "me")
    monkeypatch.setenv("OCI_PASSWORD", "secret")
    told: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "blobs.example.com":
            told.append(request.headers.get("Authorization", "-"))
            return httpx.Response(401, headers={"WWW-Authenticate": "Basic"})
        if "Authorization" not in request.headers:
            return httpx.Response(401, headers={"WWW-Authenticate": "Basic"})
        if request.method == "POST":
            return httpx.Response(202, headers={"Location": "https://blobs.example.com/here?s=1"})
        return httpx.Response(404)

    target = RegistryTarget("oci://registry.example.com/models/m", mocked(answer))
    with pytest.raises(StorageError, match="no permission to send"):
        target.push(make_release(tmp_path, "a"), "current")
    assert told == ["-"]


def test_credentials_are_not_sent_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCI_USERNAME", "me")
    monkeypatch.setenv("OCI_PASSWORD", "secret")
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        challenge = 'Bearer realm="http://auth.example.com/token",service="registry"'
        return httpx.Response(401, headers={"WWW-Authenticate": challenge})

    target = RegistryTarget("oci://registry.example.com/models/m", mocked(answer))
    with pytest.raises(StorageError, match=r"without TLS, to auth\.example\.com"):
        target.current("current")
    assert asked == ["registry.example.com"]
