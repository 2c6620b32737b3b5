"""What the rest of the system relies on from every source of models; subclass it for one of yours.

A subclass says how its place gets a model, and how it cannot be reached.
"""

import abc
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from optikit_assets.artifacts.model_folder import check_model_folder
from optikit_assets.artifacts.models import ModelRegistry
from optikit_assets.errors import ModelError
from optikit_assets.sources import ModelSource, source_of
from optikit_assets.specs import Catalog, ModelSpec


class ModelSourceContract(abc.ABC):
    """The tests; each place is one whose only model is the one that was published last."""

    malformed: tuple[str, ...] = ()
    keeps_what_was_replaced = True
    """Whether the place still has the first revision of what was published twice."""

    @pytest.fixture
    def home(self, tmp_path: Path) -> Path:
        return tmp_path / "optikit-home"

    @pytest.fixture(autouse=True)
    @abc.abstractmethod
    def place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        """Set up an empty place, and yield what a model's spec names as its ``source``."""

    @abc.abstractmethod
    def publish(self, fill: int) -> str:
        """Put a model whose weights consist of the byte `fill` there; return its reference."""

    @abc.abstractmethod
    def unreachable(self) -> AbstractContextManager[None]:
        """Cut the place off, or take it away."""

    @staticmethod
    def source(reference: str) -> ModelSource:
        return source_of(reference)

    @staticmethod
    def registry(home: Path, place: str) -> ModelRegistry:
        spec = ModelSpec(name="declared", source=place)
        catalog = Catalog(home / "recipes", models={"declared": spec})
        return ModelRegistry(home, home.parent, catalog)

    def test_a_reference_has_one_spelling(self) -> None:
        reference = self.publish(1)
        read = self.source(reference).parse(reference)
        assert self.source(read.reference).parse(read.reference) == read
        assert read.name
        assert read.version

    def test_a_malformed_reference_is_refused_with_its_form(self) -> None:
        for text in self.malformed:
            with pytest.raises(ValueError, match="form"):
                self.source(text).parse(text)

    def test_what_was_published_is_listed(self, place: str, tmp_path: Path) -> None:
        reference = self.publish(1)
        listed = self.source(place).versions(place, tmp_path)
        wanted = self.source(reference).parse(reference)
        assert [item.reference for item in listed] == [wanted.reference]

    def test_the_revision_changes_with_the_content_alone(self, home: Path) -> None:
        reference = self.publish(1)
        source = self.source(reference)
        first = source.revision(reference, home)
        assert first
        assert source.revision(reference, home) == first
        self.publish(2)
        assert source.revision(reference, home) not in (None, first)

    def test_what_is_fetched_is_a_whole_model_in_its_place_or_below_home(self, home: Path) -> None:
        reference = self.publish(1)
        source = self.source(reference)
        folder = source.fetch(reference, source.revision(reference, home), home)
        assert check_model_folder(folder).files
        assert folder == source.in_place(reference) or folder.is_relative_to(home)

    def test_a_pinned_revision_is_fetched_however_far_the_reference_moved(self, home: Path) -> None:
        reference = self.publish(1)
        source = self.source(reference)
        if source.in_place(reference) is not None:
            pytest.skip("used as it lies")
        first = source.revision(reference, home)
        self.publish(2)
        second = source.revision(reference, home)
        if not self.keeps_what_was_replaced:
            with pytest.raises(ModelError, match="add it again"):
                source.fetch(reference, first, home)
            folder = source.fetch(reference, second, home)
            assert (folder / "model.safetensors").read_bytes()[-1] == 2
            return
        fetched = [source.fetch(reference, revision, home) for revision in (first, second)]
        weights = [(folder / "model.safetensors").read_bytes()[-1] for folder in fetched]
        assert weights == [1, 2]

    def test_out_of_reach_nothing_is_guessed_and_what_was_fetched_is_there(
        self, home: Path
    ) -> None:
        reference = self.publish(1)
        source = self.source(reference)
        revision = source.revision(reference, home)
        folder = source.fetch(reference, revision, home)
        with self.unreachable():
            if source.in_place(reference) is None:
                assert source.fetch(reference, revision, home) == folder
                with pytest.raises(ModelError):
                    source.fetch(reference, None, home / "elsewhere")
            assert source.revision(reference, home / "elsewhere", timeout_s=5) is None

    def test_the_registry_lists_adds_and_fetches_its_versions(self, home: Path, place: str) -> None:
        reference = self.publish(1)
        models = self.registry(home, place)
        (declared,) = models.versions()
        assert declared.name == "declared"
        assert models.why_not_arrived(declared, quiet_s=0, now_s=2**40) is None
        added = models.add(reference, "added", "1")
        assert models.resolve("added") == added
        assert models.fetch(added).digest == models.fetch(declared).digest
        assert models.state(added)
