from __future__ import annotations

from pathlib import Path

import pytest

from edgefuse.errors import MissingPackageError, UserError, require
from edgefuse.io.files import (
    claimed,
    file_replaced,
    files_added,
    folder_added,
    folder_begun,
    folder_replaced,
    left_behind,
    refuse_existing,
)
from edgefuse.io.json_files import read_json, write_json


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), file_replaced(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(path, what="the value") == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_folder_leaves_the_old_one_and_no_rubbish(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(RuntimeError), folder_replaced(folder) as temporary:
        (temporary / "new").touch()
        raise RuntimeError
    assert [p.name for p in tmp_path.rglob("*")] == ["bundle", "old"]
    with folder_replaced(folder) as temporary:
        (temporary / "new").touch()
    assert [p.name for p in tmp_path.rglob("*")] == ["bundle", "new"]


def test_existing_folders_are_refused_without_force(tmp_path: Path) -> None:
    refuse_existing(tmp_path / "absent", force=False)
    refuse_existing(tmp_path, force=False)  # there, but empty
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="--force"):
        refuse_existing(tmp_path, force=False)
    with pytest.raises(UserError, match="edgefuse did not make it"):
        refuse_existing(tmp_path, force=True, marker="run.json")
    with pytest.raises(UserError, match="edgefuse did not make it"):
        refuse_existing(tmp_path / "thesis.tex", force=True, marker="run.json")
    (tmp_path / "run.json").touch()
    refuse_existing(tmp_path, force=True, marker="run.json")


def test_the_current_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for path in (Path(), Path(".."), tmp_path / "here"):
        with pytest.raises(UserError, match="current folder"):
            refuse_existing(path, force=True, marker="run.json")


def test_a_begun_folder_stays_once_it_is_of_use_and_else_the_old_one_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(RuntimeError), folder_begun(folder) as new:
        (new.path / "half").touch()
        assert (folder / "old").exists()
        raise RuntimeError
    assert [p.name for p in tmp_path.rglob("*")] == ["run", "old"]
    with pytest.raises(RuntimeError), folder_begun(folder) as new:
        (new.path / "new").touch()
        new.keep()
        new.keep()
        (new.path / "newer").touch()
        raise RuntimeError
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["new", "newer", "run"]
    with folder_begun(tmp_path / "fresh"):
        pass
    assert not (tmp_path / "fresh").exists()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (None, "missing"),
        ("{", "not valid JSON"),
        ("[1]", "object was expected"),
        ("[" * 200_000, "nested too deeply"),
        ('{"a": NaN}', "NaN"),
        ('{"a": 1, "a": 2}', "twice"),
        ('{"a": ' + "9" * 5000 + "}", "not valid"),
        ("\udcff", "not valid"),
    ],
)
def test_bad_json_is_named(tmp_path: Path, text: str | None, word: str) -> None:
    path = tmp_path / "x.json"
    if text is not None:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=word):
        read_json(path, what="the description")


def test_a_missing_package_names_its_extra() -> None:
    with pytest.raises(MissingPackageError, match=r"pip install 'edgefuse\[tensorrt\]'"):
        require("a_package_that_nobody_has", extra="tensorrt")


def test_files_are_added_all_or_none(tmp_path: Path) -> None:
    with files_added(tmp_path) as temporary:
        for name in ("a", "b"):
            (temporary / name).write_text(name)
        assert [path.name for path in left_behind(tmp_path)] == ["a", "b"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"] and left_behind(tmp_path) == []
    (tmp_path / "d").mkdir()  # in the way of the second file
    with pytest.raises(IsADirectoryError), files_added(tmp_path) as temporary:
        for name in ("c", "d"):
            (temporary / name).touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "d"]


def test_a_folder_is_added_where_nothing_is(tmp_path: Path) -> None:
    with folder_added(tmp_path / "new") as temporary:
        (temporary / "file").touch()
    with pytest.raises(FileExistsError), folder_added(tmp_path / "new") as temporary:
        (temporary / "other").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "file"]


def test_a_name_is_claimed_once_at_a_time(tmp_path: Path) -> None:
    with claimed(tmp_path, "a/b") as first, claimed(tmp_path, "a/b") as second, claimed(tmp_path, "a/c") as other:
        assert (first, second, other) == (True, False, True)
    with claimed(tmp_path, "a/b") as again:
        assert again
    assert list(tmp_path.iterdir()) == []
