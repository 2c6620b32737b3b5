"""Pinned inputs: what counts for a digest, and what is said about a changed one."""

import hashlib
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from optikit_assets.artifacts.file_digests import FileDigests
from optikit_assets.artifacts.models import ModelRegistry
from optikit_assets.artifacts.pins import Pin, PinKind, check_pins, digest_of
from optikit_assets.errors import ChangedInputError, MachineError
from optikit_assets.specs import Catalog
from tests.tiny_model import write_model


def pin(path: Path, kind: PinKind, what: str = "the input") -> Pin:
    return Pin(path=str(path), sha256=digest_of(kind, path), what=what, kind=kind)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.py").write_text("a")
    (folder / "sub" / "b.py").write_text("b")
    return folder


def test_a_pinned_model_has_the_digest_of_its_version(tmp_path):
    folder = write_model(tmp_path / "model")
    version = ModelRegistry(tmp_path / "home", tmp_path, Catalog(tmp_path)).describe(folder)
    assert digest_of("model", folder) == version.digest
    (folder / "README.md").write_text("notes")
    assert digest_of("model", folder) == version.digest


def test_a_pinned_file_has_the_digest_of_its_bytes(tmp_path):
    (tmp_path / "f").write_bytes(b"bytes")
    assert digest_of("file", tmp_path / "f") == hashlib.sha256(b"bytes").hexdigest()


def test_a_tree_is_its_names_and_contents_wherever_it_lies(tmp_path, tree):
    first = digest_of("tree", tree)
    (tree / "sub" / "__pycache__").mkdir()
    (tree / "sub" / "__pycache__" / "b.pyc").write_text("compiled")
    tree = tree.rename(tmp_path / "moved")
    assert digest_of("tree", tree) == first

    (tree / "sub" / "b.py").rename(tree / "sub" / "c.py")
    renamed = digest_of("tree", tree)
    (tree / "sub" / "c.py").write_text("c")
    assert len({first, renamed, digest_of("tree", tree)}) == 3


def test_a_tree_holds_what_its_links_lead_to_and_no_pipes(tmp_path, tree):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "c.py").write_text("c")
    (tree / "linked").symlink_to(tmp_path / "elsewhere")
    (tree / "loop").symlink_to(tree)
    (tree / "nowhere").symlink_to(tmp_path / "nothing")
    os.mkfifo(tree / "pipe")
    first = digest_of("tree", tree)
    (tmp_path / "elsewhere" / "c.py").write_text("d")
    assert digest_of("tree", tree) != first


def test_unchanged_pins_pass_with_and_without_a_memory(tmp_path, tree):
    pins = [pin(tree, "tree"), pin(write_model(tmp_path / "model"), "model")]
    digests = FileDigests(tmp_path / "cache.json")
    for memory in (None, digests, digests):
        check_pins(pins, memory)
    # That they pass says something of a check that refuses.
    (tmp_path / "model" / "tokenizer.json").write_text('{"changed": true}')
    for memory in (None, digests):
        with pytest.raises(ChangedInputError):
            check_pins(pins, memory)


def test_every_changed_pin_is_named_with_both_digests(tmp_path, tree):
    (tmp_path / "f").write_text("f")
    model = write_model(tmp_path / "model")
    pins = [
        pin(tree, "tree", "tasks"),
        pin(tmp_path / "f", "file", "calibration data"),
        pin(model, "model", "model tiny@1"),
        pin(write_model(tmp_path / "same"), "model", "model same@1"),
    ]
    (tree / "a.py").write_text("changed")
    (tmp_path / "f").unlink()
    (model / "config.json").write_text('{"model_type": "other"}')
    with pytest.raises(ChangedInputError) as refused:
        check_pins(pins)
    text = str(refused.value)
    assert isinstance(refused.value, MachineError)
    assert f"tasks ({tree}) changed while it was used" in text
    assert f"its digest was {pins[0].sha256}, is {digest_of('tree', tree)}" in text
    assert f"calibration data ({tmp_path / 'f'}) changed" in text
    assert f"model tiny@1 ({model}) changed" in text
    assert "same@1" not in text
    assert text.endswith("; run again")


def test_a_half_model_or_a_missing_folder_is_a_changed_input(tmp_path, tree):
    model = write_model(tmp_path / "model")
    pins = [pin(model, "model", "model"), pin(tree, "tree", "tasks")]
    (model / "tokenizer.json").unlink()
    tree.rename(tmp_path / "moved")
    with pytest.raises(ChangedInputError, match=r"model .* no tokenizer.*; tasks .* unreadable"):
        check_pins(pins)


def test_pins_survive_json_and_refuse_what_they_do_not_know(tree):
    first = pin(tree, "tree", "tasks")
    assert Pin.model_validate_json(first.model_dump_json()) == first
    with pytest.raises(ValidationError, match="extra"):
        Pin.model_validate({**first.model_dump(), "other": 1})
    with pytest.raises(ValidationError, match="sha256"):
        Pin(path="p", sha256="short", what="w", kind="file")
