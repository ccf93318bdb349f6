"""Changes of a data set are all or nothing: kills, a full disk, file systems without hard links, forged journals, links."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from browse_scenes import browsed, keys_of, small_set, write_set

from edgefuse.data.dataset import scan
from edgefuse.io import moves
from edgefuse_runtime.browse.journal import Change, Journal
from edgefuse_runtime.browse.sources import open_source

_KILLED = """
import os, sys
from pathlib import Path
from edgefuse.io import moves
from edgefuse_runtime.browse.changes import Changes
from edgefuse_runtime.browse.index import Index
from edgefuse_runtime.browse.sources import open_source
left = int(sys.argv[2])
def dying(call):
    def wrapped(*arguments, **more):
        global left
        if left == 0:
            os._exit(9)
        left -= 1
        return call(*arguments, **more)
    return wrapped
os.link, os.unlink, os.write, os.fsync = dying(os.link), dying(os.unlink), dying(os.write), dying(os.fsync)
Path.unlink = dying(Path.unlink)
index = Index([open_source(Path(sys.argv[1]))])
Changes(index).label([(1, 1), (2, 1)], "near")
"""


@pytest.mark.parametrize("number", range(0, 17, 2))
def test_a_kill_at_any_time_loses_nothing(tmp_path: Path, number: int) -> None:
    root = small_set(tmp_path / "objects")
    subprocess.run([sys.executable, "-c", _KILLED, str(root), str(number)])
    with browsed(root) as page:
        keys = keys_of(root)
        assert keys in (
            ["far/s1/f0", "far/s2/f1", "near/s1/f0", "near/s1/f2"],
            ["near/s1/f0", "near/s1/f0-2", "near/s1/f2", "near/s2/f1"],
        )
        assert len(list(root.rglob("*.png"))) == 8 and len(scan([root]).samples) == 4
        if keys[0].startswith("near"):
            page.undo()
        assert page.delete(*page.rows()).status_code == 200
        page.undo()
    assert keys_of(root)[0] == "far/s1/f0"


def test_a_line_that_was_cut_off_is_ignored(tmp_path: Path) -> None:
    root = small_set(tmp_path / "objects")
    with browsed(root) as page:
        page.delete(page.row("far/s1/f0"))
    with (root / "changes.jsonl").open("a") as file:
        file.write('{"kind": "change", "number": 2, "mov')
    with browsed(root) as page:
        assert page.undo().status_code == 200
    assert all(json.loads(line) for line in (root / "changes.jsonl").read_text().splitlines())


@pytest.mark.parametrize(
    "name", ["../victim_rgb.png", "/victim_rgb.png", "far/../../victim_rgb.png", "far/s1/f0.sh", "link/v_rgb.png"]
)
def test_a_journal_of_a_stranger_moves_nothing_elsewhere(tmp_path: Path, name: str) -> None:
    root = small_set(tmp_path / "objects")
    for folder in (tmp_path, tmp_path / "elsewhere"):
        folder.mkdir(exist_ok=True)
        (folder / "victim_rgb.png").write_text("x")
        (folder / "v_rgb.png").write_text("x")
    (root / "link").symlink_to(tmp_path / "elsewhere")
    record = {"kind": "change", "schema": 1, "number": 1, "action": "label", "text": "", "time": "", "fields": []}
    journal = {**record, "undoes": None, "moves": [["far/s1/new_rgb.png", name]]}
    for end in ("", '{"kind": "done", "number": 1}\n'):
        (root / "changes.jsonl").write_text(json.dumps(journal) + "\n" + end)
        with browsed(root) as page:
            if end:
                assert page.post("/undo", source=0, number=1).status_code in (400, 409)
        assert (tmp_path / "victim_rgb.png").exists() and (tmp_path / "elsewhere/v_rgb.png").exists()
        assert not (root / "far/s1/new_rgb.png").exists()


def test_linked_folders_are_left_alone(tmp_path: Path) -> None:
    other = small_set(tmp_path / "other")
    root = write_set(tmp_path / "objects", {"near/s1/f0": "near"})
    (root / "far").symlink_to(other / "far")
    with browsed(root) as page:
        answer = page.delete(page.row("far/s1/f0"))
        assert answer.status_code == 400 and "is a link, or in a linked folder" in answer.text
    assert len(keys_of(other)) == 4


def test_a_file_of_that_name_makes_it_read_only(tmp_path: Path) -> None:
    root = small_set(tmp_path / "objects")
    (root / "changes.jsonl").write_text("my notes\n")
    with browsed(root) as page:
        assert page.state()["read_only"][0].startswith("Read-only: ")
        assert page.delete(page.rows()[0]).status_code == 400
    assert (root / "changes.jsonl").read_text() == "my notes\n" and len(keys_of(root)) == 4


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_read_only(tmp_path: Path) -> None:
    root = small_set(tmp_path / "objects")
    root.chmod(0o555)
    assert "cannot be written" in open_source(root).read_only
    root.chmod(0o755)


def test_without_hard_links_files_move_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    first, second, taken = tmp_path / "a", tmp_path / "b", tmp_path / "taken"
    for path in (first, second, taken):
        path.write_text(path.name)
    with pytest.raises(FileExistsError):
        moves.move_files([(first, tmp_path / "new/a"), (second, taken)])
    assert (first.read_text(), second.read_text(), taken.read_text()) == ("a", "b", "taken")
    moves.move_files([(first, tmp_path / "new/a"), (second, tmp_path / "new/b")])
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a", "b"]
    (tmp_path / "new/b").rename(second)  # killed after the first
    assert not moves.complete_moves([(first, tmp_path / "new/a"), (second, tmp_path / "new/b")])
    assert (first.read_text(), second.read_text()) == ("a", "b")


def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = small_set(tmp_path / "objects")
    journal, real = Journal(root), os.write
    change = Change(number=1, action="delete", text="x", moves=(("far/s1/f0_rgb.png", ".trash/1/far/s1/f0_rgb.png"),))
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:5]))
    with journal.locked(), pytest.raises(OSError, match="No space"):
        journal.make(change)
    assert (root / "changes.jsonl").read_bytes() == b"" and len(keys_of(root)) == 4
