"""What the rest of the system relies on from every publisher; subclass it for one of yours."""

import abc
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from optikit_assets.processes import die_with_parent
from optikit_assets.publishing import Bundle, Publisher

MODEL, SLO = "tiny@1", "chat"
OTHERS = (("tiny@2", "chat"), ("tiny@1", "batch"))


def make_bundle(folder: Path, letter: str) -> Bundle:
    """Return a bundle of two files that say the same."""
    key = letter * 64
    path = folder / "store" / key[:2] / key
    path.mkdir(parents=True, exist_ok=True)
    for name in ("deployment.json", "vllm.yaml"):
        (path / name).write_text(f'"{letter}"\n')
    return Bundle(key, path)


class PublisherContract(abc.ABC):
    @pytest.fixture
    def home(self, tmp_path: Path) -> Path:
        return tmp_path / "home"

    @abc.abstractmethod
    def open(self, home: Path) -> Publisher:
        """Return the publisher, as a process of its own would have it."""

    @abc.abstractmethod
    def read(self, where: str, name: str) -> str:
        """Return the text of a file of the bundle that is published at `where`."""

    def test_nothing_is_published_before_the_first_bundle(self, home: Path) -> None:
        assert self.open(home).published(MODEL, SLO) is None

    def test_what_was_published_is_found_by_others_and_can_be_read(self, home: Path) -> None:
        bundle = make_bundle(home, "a")
        published = self.open(home).publish(bundle, MODEL, SLO)
        assert published.key == bundle.key
        assert self.open(home).published(MODEL, SLO) == published
        assert self.read(published.where, "vllm.yaml") == '"a"\n'

    def test_once_more_changes_nothing(self, home: Path) -> None:
        publisher, bundle = self.open(home), make_bundle(home, "a")
        first = publisher.publish(bundle, MODEL, SLO)
        assert publisher.publish(bundle, MODEL, SLO) == first == publisher.published(MODEL, SLO)
        assert self.read(first.where, "vllm.yaml") == '"a"\n'

    def test_the_next_bundle_takes_the_same_place_and_leaves_others_alone(self, home: Path) -> None:
        publisher = self.open(home)
        first, second = make_bundle(home, "a"), make_bundle(home, "b")
        before = publisher.publish(first, MODEL, SLO)
        for other in OTHERS:
            publisher.publish(first, *other)
        after = publisher.publish(second, MODEL, SLO)
        assert (after.where, after.key) == (before.where, second.key)
        assert self.read(after.where, "deployment.json") == '"b"\n'
        for other in OTHERS:
            untouched = publisher.published(*other)
            assert untouched is not None
            assert untouched.key == first.key
            assert untouched.where != after.where

    def test_a_reader_always_finds_one_whole_bundle(self, home: Path) -> None:
        bundles = [make_bundle(home, letter) for letter in "ab"]
        where = self.open(home).publish(bundles[0], MODEL, SLO).where
        stop = threading.Event()

        def replace() -> None:
            publisher = self.open(home)
            while not stop.is_set():
                for bundle in bundles:
                    publisher.publish(bundle, MODEL, SLO)

        writer = threading.Thread(target=replace)
        writer.start()
        try:
            keys = set()
            for _ in range(200):
                published = self.open(home).published(MODEL, SLO)
                assert published is not None
                keys.add(published.key)
                assert self.read(where, "vllm.yaml") in ('"a"\n', '"b"\n')
        finally:
            stop.set()
            writer.join()
        assert keys <= {bundle.key for bundle in bundles}

    def test_a_publisher_that_is_killed_leaves_a_whole_bundle(self, home: Path) -> None:
        bundles = [make_bundle(home, letter) for letter in "ab"]
        self.open(home).publish(bundles[0], MODEL, SLO)
        for delay_s in (0.0, 0.002, 0.01):
            child = os.fork()
            if child == 0:
                try:
                    die_with_parent()
                    publisher = self.open(home)
                    while True:
                        for bundle in bundles:
                            publisher.publish(bundle, MODEL, SLO)
                finally:
                    os._exit(1)
            time.sleep(delay_s)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            published = self.open(home).published(MODEL, SLO)
            assert published is not None
            letter = published.key[0]
            assert self.read(published.where, "vllm.yaml") == f'"{letter}"\n'
        # What the dead left behind does not stand in the way.
        assert self.open(home).publish(bundles[1], MODEL, SLO).key == bundles[1].key
