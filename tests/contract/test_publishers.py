"""The publisher that ships, and one of a package that is installed beside OptiKIT."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from optikit_assets.errors import EnvironmentMissingError, StorageError, UnknownNameError
from optikit_assets.publishing import FolderPublisher, Publisher, get_publisher
from optikit_assets.specs import plugins
from tests.contract.publisher import MODEL, SLO, PublisherContract, make_bundle


class TestFolder(PublisherContract):
    def open(self, home: Path) -> Publisher:
        return get_publisher("folder", home)

    def read(self, where: str, name: str) -> str:
        return Path(where, name).read_text()

    def test_the_link_holds_after_the_whole_home_was_moved(self, home: Path) -> None:
        self.open(home).publish(make_bundle(home, "a"), MODEL, SLO)
        home = home.rename(home.with_name("elsewhere"))
        published = self.open(home).published(MODEL, SLO)
        assert published is not None
        assert self.read(published.where, "vllm.yaml") == '"a"\n'

    def test_a_bundle_that_was_deleted_is_not_published_any_more(self, home: Path) -> None:
        bundle = make_bundle(home, "a")
        self.open(home).publish(bundle, MODEL, SLO)
        bundle.path.rename(bundle.path.with_name("gone"))
        assert self.open(home).published(MODEL, SLO) is None

    def test_a_place_that_cannot_be_written_is_named(self, home: Path) -> None:
        bundle = make_bundle(home, "a")
        (home / "deployments").write_text("in the way")
        with pytest.raises(StorageError, match=r"cannot write the link .*deployments"):
            FolderPublisher(home).publish(bundle, MODEL, SLO)


SHARE = '''\
"""A file server: bundles are copied under their key, and a file says which one is current."""

import os
import shutil
import threading
from pathlib import Path

from optikit_assets.publishing import Published


class Share:
    def __init__(self, home):
        self.root = home / "share"

    def publish(self, bundle, model, slo):
        copy = self.root / bundle.key
        own = f"{os.getpid()}.{threading.get_ident()}"
        if not copy.exists():
            partial = self.root / f".{bundle.key}.{own}"
            shutil.copytree(bundle.path, partial, dirs_exist_ok=True)
            partial.rename(copy)
        current = self._current(model, slo)
        fresh = current.with_name(f".{current.name}.{own}")
        fresh.write_text(bundle.key)
        fresh.replace(current)
        return Published(str(current), bundle.key)

    def published(self, model, slo):
        current = self._current(model, slo)
        return Published(str(current), current.read_text()) if current.exists() else None

    def _current(self, model, slo):
        return self.root / f"{model}.{slo}"
'''


class TestThirdParty(PublisherContract):
    """A package that is installed, as an installer leaves it on the path."""

    @pytest.fixture(autouse=True)
    def installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        site = tmp_path / "site"
        info = site / "acme_share-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-share\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[optikit.publishers]\nshare = acme_share:Share\n")
        (site / "acme_share.py").write_text(SHARE)
        monkeypatch.syspath_prepend(site)
        plugins.registered.cache_clear()
        yield
        plugins.registered.cache_clear()

    def open(self, home: Path) -> Publisher:
        return get_publisher("share", home)

    def read(self, where: str, name: str) -> str:
        current = Path(where)
        return (current.with_name(current.read_text()) / name).read_text()

    def test_its_name_is_known_beside_our_own(self, home: Path) -> None:
        with pytest.raises(UnknownNameError, match=r"publisher 'shore'; known: folder, share"):
            get_publisher("shore", home)


def test_our_own_name_cannot_be_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[optikit.publishers]\nfolder = acme:Folder\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugins.registered.cache_clear()
    with pytest.raises(EnvironmentMissingError, match="as OptiKIT itself does"):
        plugins.registered(plugins.PUBLISHERS)
    plugins.registered.cache_clear()
