"""`edgefuse demo` on a terminal, from its first line to its last."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

EDGEFUSE = (sys.executable, "-c", "from edgefuse.app.main import main; main()")


@pytest.mark.slow
def test_the_demo_ends_with_the_live_panel_and_the_next_command(tmp_path: Path) -> None:
    screen, end = pty.openpty()
    sizes = ("--pairs", "72", "--epochs", "1", "--frames", "6")
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    command = [*EDGEFUSE, "demo", "--out", "d", *sizes]
    with subprocess.Popen(command, stdout=end, stderr=end, cwd=tmp_path, env=environment) as process:
        os.close(end)
        shown = b""
        while chunk := _read(screen):
            shown += chunk
    os.close(screen)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode()).replace("\r", "")
    assert process.returncode == 0, text
    before, panel, after = text.rpartition(" edgefuse live ─")
    assert panel and "accuracy on held-out sequences" in before and "gated against the better single sensor" in before
    assert re.search(r"of this  read [\d.]+  queue [\d.]+  preprocess [\d.]+  infer [\d.]+  publish [\d.]+", after)
    *_, next_command = after.split("next: ")
    assert next_command.strip().endswith("edgefuse live d/bundle --camera d/live.db3 --roi d/live.json")
    assert len(after.splitlines()) < 40  # all of the last panel is on a screen of 40 lines


def _read(screen: int) -> bytes:
    """The next output; empty when the other end of the terminal is closed."""
    try:
        return os.read(screen, 65_536)
    except OSError:
        return b""
