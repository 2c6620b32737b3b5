"""Inputs held to their digest: what counts for a digest, and what is said about a changed one."""

import hashlib
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from optikit_assets.artifacts.file_digests import FileDigests
from optikit_assets.artifacts.models import ModelRegistry
from optikit_assets.artifacts.references import (
    LocalKind,
    Reference,
    check_unchanged,
    digest_of,
)
from optikit_assets.errors import ChangedInputError, MachineError
from optikit_assets.specs import Catalog
from tests.tiny_model import write_model


def held(path: Path, kind: LocalKind, what: str = "the input") -> Reference:
    return Reference.to(path, kind, what)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.py").write_text("a")
    (folder / "sub" / "b.py").write_text("b")
    return folder


def test_a_model_has_the_digest_of_its_version(tmp_path):
    folder = write_model(tmp_path / "model")
    version = ModelRegistry(tmp_path / "home", tmp_path, Catalog(tmp_path)).describe(folder)
    assert digest_of("model", folder) == version.digest
    (folder / "README.md").write_text("notes")
    assert digest_of("model", folder) == version.digest


def test_a_file_has_the_digest_of_its_bytes(tmp_path):
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


def test_what_is_unchanged_passes_with_and_without_a_memory(tmp_path, tree):
    inputs = [held(tree, "tree"), held(write_model(tmp_path / "model"), "model")]
    digests = FileDigests(tmp_path / "cache.json")
    for memory in (None, digests, digests):
        check_unchanged(inputs, memory)
    # That they pass says something of a check that refuses.
    (tmp_path / "model" / "tokenizer.json").write_text('{"changed": true}')
    for memory in (None, digests):
        with pytest.raises(ChangedInputError):
            check_unchanged(inputs, memory)


def test_everything_changed_is_named_with_both_digests(tmp_path, tree):
    (tmp_path / "f").write_text("f")
    model = write_model(tmp_path / "model")
    inputs = [
        held(tree, "tree", "tasks"),
        held(tmp_path / "f", "file", "calibration data"),
        held(model, "model", "model tiny@1"),
        held(write_model(tmp_path / "same"), "model", "model same@1"),
    ]
    (tree / "a.py").write_text("changed")
    (tmp_path / "f").unlink()
    (model / "config.json").write_text('{"model_type": "other"}')
    with pytest.raises(ChangedInputError) as refused:
        check_unchanged(inputs)
    text = str(refused.value)
    assert isinstance(refused.value, MachineError)
    assert f"tasks ({tree}) changed while it was used" in text
    assert f"its digest was {inputs[0].sha256}, is {digest_of('tree', tree)}" in text
    assert f"calibration data ({tmp_path / 'f'}) changed" in text
    assert f"model tiny@1 ({model}) changed" in text
    assert "same@1" not in text
    assert text.endswith("; run again")


def test_a_half_model_or_a_missing_folder_is_a_changed_input(tmp_path, tree):
    model = write_model(tmp_path / "model")
    inputs = [held(model, "model", "model"), held(tree, "tree", "tasks")]
    (model / "tokenizer.json").unlink()
    tree.rename(tmp_path / "moved")
    with pytest.raises(ChangedInputError, match=r"model .* no tokenizer.*; tasks .* unreadable"):
        check_unchanged(inputs)


def test_references_survive_json_and_refuse_what_they_do_not_know(tree):
    first = held(tree, "tree", "tasks")
    assert Reference.model_validate_json(first.model_dump_json()) == first
    with pytest.raises(ValidationError, match="extra"):
        Reference.model_validate({**first.model_dump(), "other": 1})
    with pytest.raises(ValidationError, match="sha256"):
        Reference(where="p", sha256="short", what="w", kind="file")
