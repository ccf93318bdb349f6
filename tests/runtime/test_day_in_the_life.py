"""A service through a day of faults: every output shows the state of the camera, and the counts add up at the end."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from day_in_the_life import live_through


@pytest.mark.slow
def test_a_day_in_the_life(tmp_path: Path) -> None:
    rows, summary = live_through(tmp_path, unplugged_s=4)
    start, unplugged, again, no_colour, colour, full, space, ended = rows
    for row, state in zip(rows, ("running", "reconnecting", "running", "degraded", *["running"] * 4), strict=True):
        assert row["JSON lines"].startswith(state) and row["MQTT"].endswith(state), row
        assert row["metrics"].startswith(state) or row is ended, row
    assert "sensors 0/0" in unplugged["metrics"] and unplugged["systemd"].startswith("reconnecting")
    assert "losses 1" in again["metrics"] and "back after" in again["standard error"]
    assert re.search("(near|far) missing/ok$", no_colour["JSON lines"]) and "sensors 0/1" in no_colour["metrics"]
    assert colour["JSON lines"].endswith("near ok/ok")
    assert "failed outputs 2" in full["metrics"]
    assert "File too large" in full["standard error"]
    assert "failed outputs 0" in space["metrics"]
    assert ended["exit code"].startswith("0 after"), (ended, summary["failed_sinks"])
    assert ended["metrics"] == "closed"
    assert ended["MQTT"].startswith("offline") and ended["systemd"] == "stopping"
    assert summary["received"] == summary["processed"] + summary["dropped"] + summary["stale"] + summary["unfinished"]
    assert summary["camera"]["capture"]["losses"] == 1 and summary["failed_sinks"] == []
    assert all(sink["written"] + sink["dropped"] == summary["processed"] for sink in summary["sinks"])
    assert start["standard error"] == ""
