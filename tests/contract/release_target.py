"""What the rest of the system relies on from every publishing target; subclass it for yours."""

import abc
from pathlib import Path

import pytest

from optikit_assets.publishing import Release, Target


def make_release(folder: Path, letter: str) -> Release:
    """Return a release of three files."""
    place = folder / letter
    place.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors", "README.md"):
        (place / name).write_bytes(f"{name} of {letter}".encode() * 100)
    model = {name: place / name for name in ("config.json", "model.safetensors")}
    return Release(letter * 64, model, {"README.md": place / "README.md"})


class Killed(BaseException):
    """What the tests end a push with: nothing in between may catch it."""


class TargetContract(abc.ABC):
    @pytest.fixture
    def target(self, tmp_path: Path) -> Target:
        return self.open(tmp_path)

    @abc.abstractmethod
    def open(self, folder: Path) -> Target:
        """Return the one place of a test, empty at first."""

    @abc.abstractmethod
    def kill_after(self, steps: int) -> None:
        """Let a push end before its step number `steps`, from 0; negative: never."""

    @abc.abstractmethod
    def releases(self) -> list[str]:
        """Return the keys of all whole releases."""

    @abc.abstractmethod
    def pulled(self, key: str) -> dict[str, bytes]:
        """Return the files of a release's model, as a client of another make gets them."""

    def test_a_release_is_pulled_as_it_was_pushed(self, target: Target, tmp_path: Path) -> None:
        assert target.current("current") is None
        release = make_release(tmp_path, "a")
        placed = target.push(release, "current")
        assert placed.uri == target.uri(release.key)
        assert placed.sent > 0
        assert target.current("current") == release.key
        assert self.pulled(release.key) == {
            name: path.read_bytes() for name, path in release.model.items()
        }

    def test_once_more_sends_nothing(self, target: Target, tmp_path: Path) -> None:
        release = make_release(tmp_path, "a")
        target.push(release, "current")
        assert target.push(release, "current").sent == 0
        assert self.releases() == [release.key]

    def test_an_alias_goes_back_without_sending(self, target: Target, tmp_path: Path) -> None:
        first, second = (make_release(tmp_path, letter) for letter in "ab")
        for release in (first, second):
            target.push(release, "current")
        assert target.current("current") == second.key
        assert target.push(first, "current").sent == 0
        assert target.current("current") == first.key

    def test_a_push_that_is_killed_anywhere_is_continued_and_the_alias_is_right(
        self, tmp_path: Path
    ) -> None:
        first, second = (make_release(tmp_path, letter) for letter in "ab")
        step = 0
        while True:
            target = self.open(tmp_path / f"place{step}")
            self.kill_after(-1)
            target.push(first, "current")
            self.kill_after(step)
            try:
                target.push(second, "current")
                ended = True
            except Killed:
                ended = False
            self.kill_after(-1)
            assert target.current("current") in (first.key, second.key)
            assert self.pulled(target.current("current") or "")
            target.push(second, "current")
            assert target.current("current") == second.key
            assert self.releases() == sorted([first.key, second.key])
            assert self.pulled(second.key) == {
                name: path.read_bytes() for name, path in second.model.items()
            }
            if ended:
                break
            step += 1
        assert step > 4
