"""Releases in a repository of a hub: the hub's own client against an imitation of the hub."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from huggingface_hub import lfs

from optikit_assets.errors import PermissionDeniedError, SpecError, StorageError
from optikit_assets.publishing import HubTarget, Target, hub
from tests.contract.release_target import Killed, TargetContract, make_release
from tests.servers.hub import FIRST, Hub, serving
from tests.servers.loopback import Asked

# Of the hub's client and its HTTP library.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
]


class TestHub(TargetContract):
    steps = -1

    @pytest.fixture(autouse=True)
    def hubs(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        self.monkeypatch = monkeypatch
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.setenv("HF_TOKEN", "word")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        with serving() as self.hub:
            yield

    def open(self, folder: Path) -> Target:
        # The same server, with nothing on it.
        self.hub.branches, self.hub.commits, self.hub.blobs = {}, {}, {}
        self.hub.token, self.hub.private = "word", None
        self.reach(self.hub)
        return HubTarget("hf://org/name")

    def reach(self, hub: Hub) -> None:
        constants = huggingface_hub.constants
        self.monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        self.monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    def kill_after(self, steps: int) -> None:
        self.steps = steps

    def step(self) -> None:
        if self.steps == 0:
            raise Killed
        self.steps -= 1

    @pytest.fixture(autouse=True)
    def mortal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the client be killed before whatever writes."""
        api, large = huggingface_hub.HfApi, (lfs, "_upload_single_part")
        writes = ("create_repo", "create_branch", "create_commit", "delete_branch")
        for owner, name in (*((api, name) for name in writes), large):
            monkeypatch.setattr(owner, name, self.stepping(getattr(owner, name)))

    def stepping(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def write(*args: Any, **how: Any) -> Any:
            self.step()
            return real(*args, **how)

        return write

    def releases(self) -> list[str]:
        found = [name for name, at in self.hub.branches.items() if len(name) == 32]
        return sorted(2 * name for name in found if "release.json" in self.files(name))

    def files(self, branch: str) -> dict[str, bytes]:
        return self.hub.commits[self.hub.branches[branch]]

    def pulled(self, key: str) -> dict[str, bytes]:
        """Pull with the hub's client what a branch has at its root, beside what is told of it."""
        folder = Path(
            huggingface_hub.snapshot_download("org/name", revision=key[:32], token="word")
        )
        told = (*FIRST, "README.md", "release.json")
        files = [p for p in folder.iterdir() if p.is_file() and p.name not in told]
        return {file.name: file.read_bytes() for file in files}

    @pytest.fixture(autouse=True)
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def test_the_repository_is_private_and_has_card_and_bundle_and_nothing_else(
        self, target: Target, tmp_path: Path
    ) -> None:
        first, second = (make_release(tmp_path, letter) for letter in "ab")
        (tmp_path / "a" / "added.txt").write_text("of the first alone")
        extra = {**first.model, "added.txt": tmp_path / "a" / "added.txt"}
        target.push(type(first)(first.key, extra, first.bundle, "# first"), "main")
        placed = target.push(type(second)(second.key, second.model, second.bundle, "# b"), "main")
        assert self.hub.private
        assert placed.link == f"{self.hub.endpoint}/org/name/tree/main"
        assert self.files("main")["README.md"] == b"# b"
        assert sorted(self.files("main")) == [
            ".gitattributes", "README.md", "bundle/README.md", "config.json", "model.safetensors",
            "release.json",
        ]  # fmt: skip

    def test_large_files_that_are_there_are_not_sent_again(
        self, target: Target, tmp_path: Path
    ) -> None:
        sent: list[str] = []

        def noted(asked: Asked) -> None:
            sent.append(asked.path)

        self.hub.before_write = noted
        release = make_release(tmp_path, "a")
        self.kill_after(3)
        with pytest.raises(Killed):
            target.push(release, "current")
        self.kill_after(-1)
        assert [path for path in sent if path.startswith("/lfs/")]
        assert set(self.hub.branches) == {"main", "a" * 32 + "-draft"}
        assert target.current("a" * 32) is None
        sent.clear()
        target.push(release, "current")
        assert not [path for path in sent if path.startswith("/lfs/")]

    def test_a_new_alias_names_no_release_but_its_own_wherever_a_push_is_killed(
        self, target: Target, tmp_path: Path
    ) -> None:
        first, second = (make_release(tmp_path, letter) for letter in "ab")
        target.push(first, "main")
        seen, steps = [], 0
        while not seen or seen[-1] is None:
            self.kill_after(steps)
            try:
                target.push(second, "canary")
            except Killed:
                steps += 1
            self.kill_after(-1)
            seen.append(target.current("canary"))
        assert len(seen) > 3
        assert seen[-1] == second.key
        assert self.files("canary") == self.files(second.key[:32])

    def test_a_releases_branch_names_it_from_the_first_and_no_draft_stays(
        self, target: Target, tmp_path: Path
    ) -> None:
        first, second = (make_release(tmp_path, letter) for letter in "ab")
        target.push(first, "main")
        seen: list[str | None] = []

        def look(asked: Asked) -> None:
            seen.append(target.current(second.key[:32]))

        self.hub.before_write = look
        for steps in range(20):
            self.kill_after(steps)
            try:
                target.push(second, "current")
            except Killed:
                look(Asked("", "", "", {}, b""))
                continue
            break
        assert set(seen) == {None, second.key}
        assert set(self.hub.branches) == {"main", first.key[:32], second.key[:32], "current"}

    def test_a_hub_that_does_not_answer_is_waited_for_with_a_limit(
        self, target: Target, tmp_path: Path
    ) -> None:
        asked = threading.Event()

        def hang(_: Asked) -> None:
            asked.wait(30)

        self.monkeypatch.setattr(hub, "_LIMITS_S", (0.1,) * 4)
        self.hub.before_write = hang
        try:
            with pytest.raises(StorageError, match="cannot make the repository"):
                target.push(make_release(tmp_path, "a"), "current")
        finally:
            asked.set()

    def test_of_two_at_once_the_second_is_refused_and_nothing_is_mixed(
        self, target: Target, tmp_path: Path
    ) -> None:
        target.push(make_release(tmp_path, "a"), "current")

        def others(asked: Asked) -> None:
            if asked.path.endswith("/commit/current"):
                self.hub.before_write = lambda asked: None
                self.hub.push({"other": b"x"}, "current")

        self.hub.before_write = others
        with pytest.raises(StorageError, match="write the branch current"):
            target.push(make_release(tmp_path, "b"), "current")
        assert self.files("current") == {"other": b"x"}

    def test_without_permission_or_tls_and_out_of_reach_it_is_one_line(
        self, target: Target, tmp_path: Path
    ) -> None:
        release = make_release(tmp_path, "a")
        self.monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(PermissionDeniedError, match="set HF_TOKEN"):
            target.push(release, "current")
        self.monkeypatch.setenv("HF_TOKEN", "word")
        self.reach(Hub(endpoint="http://hub.example.com"))
        with pytest.raises(PermissionDeniedError, match=r"not sent to .* without TLS"):
            target.push(release, "current")
        self.reach(Hub(endpoint="http://127.0.0.1:9"))
        with pytest.raises(StorageError, match="check that the hub can be reached"):
            target.push(release, "current")

    def test_a_place_that_is_no_repository_is_one_line(self) -> None:
        with pytest.raises(SpecError, match="is not of the form hf://ORG/NAME"):
            HubTarget("hf://org/name/more")
