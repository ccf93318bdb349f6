"""What `--force` may replace, and errors for outputs that cannot be written, before any work."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from edgefuse.errors import UserError
from edgefuse.io.files import file_replaced, folder_replaced, refuse_existing


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "run.json").touch()
    (tmp_path / "model.safetensors").touch()
    (tmp_path / ".DS_Store").touch()
    refuse_existing(tmp_path, force=True, marker="run.json", contents=("model.*", "tensorboard"))
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(UserError, match=r"also contains thesis\.txt"):
        refuse_existing(tmp_path, force=True, marker="run.json", contents=("model.*", "tensorboard"))


def test_a_cycle_of_links_is_an_error_message(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises((UserError, OSError), match="loop"), file_replaced(tmp_path / "loop" / "x"):
        pytest.fail("the work was begun")
    with pytest.raises(UserError, match="exists already"):
        refuse_existing(tmp_path / "loop", force=False)
    assert _edgefuse("data", "check", tmp_path / "loop").startswith("error: ")


def _edgefuse(*arguments: object) -> str:
    done = subprocess.run([sys.executable, "-m", "edgefuse", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 1 and "fault in edgefuse" not in done.stderr
    return done.stderr


def test_a_full_disk_is_reported_with_the_outputs_name(tmp_path: Path) -> None:
    for writer in (file_replaced, folder_replaced):
        with pytest.raises(OSError, match=r"No space left.*out"), writer(tmp_path / "out"):
            raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_system_that_refuses_temporaries_is_an_error_and_not_an_endless_loop() -> None:
    with pytest.raises(OSError, match="/proc/x"), file_replaced(Path("/proc/x.png")):
        pytest.fail("the work was begun")
