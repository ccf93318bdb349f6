from __future__ import annotations

import errno
import fcntl
import os
import random
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgefuse.errors import MissingPackageError, UserError, require
from edgefuse.io import files, temporaries
from edgefuse.io.files import check_writable, file_replaced, folder_begun, folder_replaced, refuse_existing
from edgefuse.io.json_files import read_json, write_json
from edgefuse.io.new_files import claimed, files_added, folder_added, left_behind
from edgefuse.io.temporaries import remove_leftovers


def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), file_replaced(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(path, what="the value") == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_folder_leaves_the_old_one_and_no_temporary(tmp_path: Path) -> None:
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
    refuse_existing(tmp_path, force=False)  # exists, but empty
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


def test_a_begun_folder_stays_once_it_is_kept_and_otherwise_the_old_one_does(tmp_path: Path) -> None:
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


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sklearn", "sklearn.model_selection"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError, match="scikit-learn"):
        require("sklearn.model_selection", extra="train")
    with pytest.raises(MissingPackageError, match=r"pip install 'edgefuse\[tensorrt\]'"):
        require("a_package_that_nobody_has", extra="tensorrt")


@pytest.fixture
def umask() -> Iterator[Any]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("mask", "private", "file_mode", "folder_mode"),
    [
        (0o022, False, 0o644, 0o755),
        (0o077, False, 0o600, 0o700),
        (0o002, False, 0o664, 0o775),
        (0o002, True, 0o644, 0o755),
    ],
)
def test_new_files_and_folders_have_the_mode_of_the_umask(
    umask: Any, mask: int, private: bool, file_mode: int, folder_mode: int, tmp_path: Path
) -> None:
    umask(mask)
    with file_replaced(tmp_path / "file", private=private) as temporary:
        temporary.write_text("x")
    with folder_replaced(tmp_path / "folder", private=private):
        pass
    assert (mode_of(tmp_path / "file"), mode_of(tmp_path / "folder")) == (file_mode, folder_mode)


def test_what_is_replaced_keeps_its_mode(umask: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "file").chmod(0o640)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder").chmod(0o750)
    with file_replaced(tmp_path / "file"), folder_replaced(tmp_path / "folder"):
        pass
    assert (mode_of(tmp_path / "file"), mode_of(tmp_path / "folder")) == (0o640, 0o750)


def test_a_link_is_followed(tmp_path: Path) -> None:
    """Data may be on another disk; the link to it is kept."""
    disk = tmp_path / "disk"
    (disk / "folder").mkdir(parents=True)
    for name in ("file", "folder", "absent"):
        (tmp_path / name).symlink_to(disk / name)
    for name in ("file", "absent"):
        with file_replaced(tmp_path / name) as temporary:
            assert temporary.parent == disk
            temporary.write_text("new")
    with folder_replaced(tmp_path / "folder") as temporary:
        (temporary / "new").touch()
    assert (disk / "file").read_text() == (disk / "absent").read_text() == "new" and (disk / "folder/new").exists()
    assert all((tmp_path / name).is_symlink() for name in ("file", "folder", "absent"))
    with file_replaced(tmp_path / "file", follow_links=False) as temporary:
        temporary.write_text("newer")
    assert not (tmp_path / "file").is_symlink() and (disk / "file").read_text() == "new"


def test_folders_devices_and_pipes_are_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    for name, kind in (("folder", "is a folder"), ("pipe", "device or pipe"), ("null", "device or pipe")):
        with pytest.raises(UserError, match=kind), file_replaced(tmp_path / name):
            pytest.fail("the work was begun")
    with pytest.raises(UserError, match="is a file"), folder_replaced(tmp_path / "file"):
        pytest.fail("the work was begun")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_the_root_of_a_mounted_disk_is_refused_before_the_work() -> None:
    """It cannot be renamed. In a container, it is the folder mounted from the host."""
    with pytest.raises(UserError, match=r"mount point.*such as /proc/out"), folder_replaced(Path("/proc")):
        pytest.fail("the work was begun")
    with pytest.raises(UserError, match="mount point"):
        refuse_existing(Path("/proc"), force=True)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_failing_fsync_leaves_the_old_file(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many systems write late: a full or broken disk may fail only in fsync."""
    path = tmp_path / "file"
    path.write_text("old")

    def fsync(_handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=os.strerror(number)), file_replaced(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_disk_without_fsync_is_not_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_handle: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fsync)
    with file_replaced(tmp_path / "file") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "file").read_text() == "new"


@pytest.mark.parametrize("name", ["n" * 251 + ".txt", "ü" * 127, "x." + "s" * 250, "n" * 255])
def test_a_name_may_be_as_long_as_the_disk_allows(name: str, tmp_path: Path) -> None:
    with file_replaced(tmp_path / name) as temporary:
        str(temporary).encode()  # many writers accept nothing else
        temporary.write_text("x")
    with folder_replaced(tmp_path / "folders" / name):
        pass
    assert (tmp_path / name).read_text() == "x" and (tmp_path / "folders" / name).is_dir()


def test_a_name_that_is_too_long_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="File name too long"):
        check_writable(tmp_path / ("n" * 256))
    with pytest.raises(OSError, match="File name too long"), file_replaced(tmp_path / ("n" * 256)):
        pytest.fail("the work was begun")


def test_without_locks_nothing_is_removed_as_a_leftover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(_handle: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with folder_replaced(tmp_path / "out") as temporary:
        assert remove_leftovers(tmp_path) == [] and temporary.is_dir()
    assert (tmp_path / "out").is_dir()


def test_a_removed_temporary_is_created_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = fcntl.flock, []

    def flock(handle: int, operation: int) -> None:
        calls.append(handle)
        if len(calls) == 1:  # the other process has locked it to remove it
            raise BlockingIOError
        real(handle, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(temporaries, "_cleaned", {tmp_path})
    with file_replaced(tmp_path / "file") as temporary:
        assert len(list(tmp_path.iterdir())) == 2 and temporary.exists()


@pytest.mark.parametrize("name", [".venv-edgefuse-project1", ".git-edgefuse-", "x-edgefuse-0123456789abcdef"])
def test_a_users_own_files_are_not_removed(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    assert remove_leftovers(tmp_path) == []


def test_without_an_exchange_the_old_folder_comes_back_where_the_new_one_cannot_be_placed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_exchange", lambda _first, _second: False)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "old").touch()
    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if target == folder and ".old-" not in self.name:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    with monkeypatch.context() as broken, pytest.raises(OSError, match="Input"), folder_replaced(folder):
        broken.setattr(Path, "rename", fails)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]
    with folder_replaced(folder) as temporary:
        (temporary / "new").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "new"]


def test_a_folder_that_appears_meanwhile_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes write one new output: the last one wins."""
    folder, real, calls = tmp_path / "out", os.path.lexists, []

    def lexists(path: Path) -> bool:
        calls.append(path)
        if len(calls) == 1:
            (folder / "other").mkdir(parents=True)
            return False
        return real(path)

    with folder_replaced(folder) as temporary:
        (temporary / "mine").touch()
        monkeypatch.setattr(os.path, "lexists", lexists)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"] and len(calls) == 2


WRITES_FOREVER = """
import sys
from pathlib import Path
from edgefuse.io.files import file_replaced, folder_replaced
kind, target, name = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
for number in range(int(sys.argv[4])):
    text = f"{name}{number} " * 5000
    if kind == "file":
        with file_replaced(target) as temporary, temporary.open("w") as file:
            for start in range(0, len(text), 5000):
                file.write(text[start:start + 5000])
    else:
        with folder_replaced(target) as temporary:
            for part in range(5):
                (temporary / str(part)).write_text(text)
    print("once", flush=True)
"""


def is_complete(target: Path) -> bool:
    texts = [target.read_text()] if target.is_file() else [(target / str(part)).read_text() for part in range(5)]
    words = {word for text in texts for word in text.split()}
    return len(words) == 1 and all(len(text.split()) == 5000 for text in texts)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_writer_killed_at_any_time_leaves_the_complete_old_or_new_one(kind: str, tmp_path: Path) -> None:
    target, instants = tmp_path / "out", random.Random(3)
    for turn in range(20):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITES_FOREVER, kind, str(target), f"t{turn}n", "1000000"], stdout=subprocess.PIPE
        )
        assert process.stdout is not None and process.stdout.readline() == b"once\n"
        time.sleep(instants.uniform(0, 0.03))
        process.kill()
        process.wait()
        process.stdout.close()
        assert is_complete(target)
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_two_writers_of_one_output_leave_the_output_of_one(kind: str, tmp_path: Path) -> None:
    target = tmp_path / "out"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITES_FOREVER, kind, str(target), name, "25"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for name in ("a", "b")
    ]
    errors = [writer.communicate(timeout=60)[1].decode() for writer in writers]
    failed = [error for writer, error in zip(writers, errors, strict=True) if writer.returncode]
    assert len(failed) <= (kind == "folder") and all("another process is writing" in error for error in failed), errors
    assert is_complete(target) and list(tmp_path.iterdir()) == [target]


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


def test_a_folder_is_added_only_if_there_is_none(tmp_path: Path) -> None:
    with folder_added(tmp_path / "new") as temporary:
        (temporary / "file").touch()
    with pytest.raises(FileExistsError), folder_added(tmp_path / "new") as temporary:
        (temporary / "other").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "file"]


def test_a_name_is_locked_by_one_process_at_a_time(tmp_path: Path) -> None:
    with claimed(tmp_path, "a/b") as first, claimed(tmp_path, "a/b") as second, claimed(tmp_path, "a/c") as other:
        assert (first, second, other) == (True, False, True)
    with claimed(tmp_path, "a/b") as again:
        assert again
    assert list(tmp_path.iterdir()) == []
