from pathlib import Path

import pytest

from optikit_assets.cli.output_file import check_output, write_json
from optikit_assets.errors import StorageError


def test_folders_are_made_and_nothing_is_left_in_them(tmp_path: Path):
    file = tmp_path / "a" / "b" / "result.json"
    check_output(file)
    assert list(file.parent.iterdir()) == []
    write_json(file, [1])
    assert [path.name for path in file.parent.iterdir()] == ["result.json"]
    assert file.read_text() == "[\n 1\n]\n"


def test_a_result_that_is_there_already_stays_until_the_new_one_is_whole(tmp_path: Path):
    file = tmp_path / "result.json"
    file.write_text("old")
    check_output(file)
    with pytest.raises(TypeError):
        write_json(file, object())
    assert file.read_text() == "old"
    # A name that would not leave room for the one that it is written under.
    check_output(long := tmp_path / ("n" * 255))
    write_json(long, 1)
    assert long.read_text() == "1\n"
    assert {path.name for path in tmp_path.iterdir()} == {file.name, long.name}


def test_a_link_is_followed_and_stays_a_link(tmp_path: Path):
    link, file = tmp_path / "link.json", tmp_path / "elsewhere" / "result.json"
    link.symlink_to(file)
    check_output(link)
    write_json(link, 1)
    assert (link.is_symlink(), file.read_text()) == (True, "1\n")


def test_a_device_is_written_as_it_is():
    check_output(Path("/dev/null"))
    write_json(Path("/dev/null"), 1)
    assert Path("/dev/null").is_char_device()
    with pytest.raises(StorageError, match=r"No space left on device; the result is kept in x$"):
        write_json(Path("/dev/full"), 1, kept_in="x")


def test_no_file_is_no_problem_and_none_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check_output(None)
    assert list(tmp_path.iterdir()) == []
