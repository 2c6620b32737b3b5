"""The sources that ship, and one of a package that is installed beside OptiKIT."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub.constants
import pytest

from optikit_assets.errors import ModelError
from optikit_assets.specs import plugins
from tests.contract.model_source import ModelSourceContract
from tests.servers.hub import Hub, serving
from tests.tiny_model import write_model


class TestFolder(ModelSourceContract):
    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> str:
        self.folder = tmp_path / "weights"
        return "weights"

    def publish(self, fill: int) -> str:
        version = self.folder / "v1"
        shutil.rmtree(version, ignore_errors=True)
        return str(write_model(version, fill))

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        shutil.rmtree(self.folder)
        yield


class TestHub(ModelSourceContract):
    malformed = ("hf:", "hf:name", "hf:a/b/c", "hf:a b/c")

    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        self.folder = tmp_path
        self.monkeypatch = monkeypatch
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        with serving() as self.hub:
            self.reach(self.hub)
            yield "hf:org/name"

    def reach(self, hub: Hub) -> None:
        # What HF_ENDPOINT says when the client is imported.
        self.monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.endpoint)
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        self.monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    def publish(self, fill: int) -> str:
        folder = write_model(self.folder / f"model{fill}", fill)
        self.hub.push({file.name: file.read_bytes() for file in folder.iterdir()})
        return "hf:org/name@main"

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        self.reach(Hub(endpoint="http://127.0.0.1:9"))
        yield
        self.reach(self.hub)


SHELF = '''\
"""Models on a shelf: ``shelf:FOLDER``, one model under ``FOLDER/now``, old ones beside it."""

import shutil
from pathlib import Path

from optikit_assets.errors import ModelError
from optikit_assets.sources import SourcedVersion


class Shelf:
    def parse(self, reference):
        if not reference.removeprefix("shelf:").startswith("/"):
            raise ValueError(f"{reference!r} is not of the form shelf:/FOLDER")
        return SourcedVersion("shelved", "1", reference)

    def versions(self, place, root):
        if not self._now(place).exists():
            raise ModelError(f"{place} is gone")
        return [self.parse(place)]

    def in_place(self, reference):
        return None

    def revision(self, reference, home, timeout_s=30.0):
        now = self._now(reference)
        return now.read_text() if now.exists() else None

    def fetch(self, reference, revision, home):
        here = home / "shelf" / str(revision)
        there = Path(reference.removeprefix("shelf:"), str(revision))
        if not here.exists():
            if not there.exists():
                raise ModelError(f"{reference} is gone; bring it back")
            shutil.copytree(there, here)
        return here

    def _now(self, reference):
        return Path(reference.removeprefix("shelf:"), "now")
'''


class TestThirdParty(ModelSourceContract):
    """A package that is installed, as an installer leaves it on the path."""

    malformed = ("shelf:here",)

    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        site, self.shelf = tmp_path / "site", tmp_path / "shelf"
        info = site / "acme_shelf-1.0.dist-info"
        info.mkdir(parents=True)
        self.shelf.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-shelf\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[optikit.sources]\nshelf = acme_shelf:Shelf\n")
        (site / "acme_shelf.py").write_text(SHELF)
        monkeypatch.syspath_prepend(site)
        plugins.registered.cache_clear()
        yield f"shelf:{self.shelf}"
        plugins.registered.cache_clear()

    def publish(self, fill: int) -> str:
        write_model(self.shelf / f"r{fill}", fill)
        (self.shelf / "now").write_text(f"r{fill}")
        return f"shelf:{self.shelf}"

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        aside = self.shelf.with_name("aside")
        self.shelf.rename(aside)
        yield
        aside.rename(self.shelf)

    def test_a_place_that_cannot_be_asked_is_told_and_used_versions_stay(
        self, home: Path, place: str
    ) -> None:
        self.publish(1)
        models = self.registry(home, place)
        fetched = models.fetch(models.resolve("declared"))
        pinned = json.loads((home / "models/declared/1/source.json").read_text())
        assert pinned == {"source": place, "commit": "r1"}
        self.publish(2)
        with self.unreachable():
            assert models.problems() == [f"declared: {place} is gone"]
            assert models.fetch(models.resolve("declared")) == fetched
        assert models.fetch(models.resolve("declared")) == fetched

    def test_what_its_source_does_not_hand_out_is_not_added_as_known(
        self, home: Path, place: str
    ) -> None:
        models = self.registry(home, place)
        added = models.add(place)
        assert added.commit is None
        with pytest.raises(ModelError, match="bring it back"):
            models.fetch(added)
