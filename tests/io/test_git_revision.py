"""The commit that produced a result: that of the source tree, marked if files differ, None if git does not track it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edgefuse.io.environment import git_revision, git_revision_text


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_that_of_the_tree_the_file_belongs_to(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    mine, installed = tmp_path / "mine.py", tmp_path / "installed.py"
    mine.write_text("1\n")
    installed.write_text("1\n")
    assert git_revision(mine) is None
    git("init", "--quiet")
    git("add", "mine.py")
    git("commit", "--quiet", "--no-verify", "--message", "one")
    assert git_revision(mine) == git("rev-parse", "HEAD")
    assert git_revision(installed) is None  # an unrelated repository around it does not count
    mine.write_text("2\n")
    assert git_revision(mine) == git("rev-parse", "HEAD") + "-dirty"


def test_the_text_is_short_and_keeps_the_mark() -> None:
    assert git_revision_text("0123456789abcdef0123") == "0123456789ab"
    assert git_revision_text("0123456789abcdef0123-dirty") == "0123456789ab-dirty"
    assert git_revision_text(None) == "not a checkout"
