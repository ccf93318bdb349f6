"""Writing .db3 files; test_playback.py checks that they play back bit for bit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from runtime_scenes import Pair, draw_pair

from edgefuse.errors import UserError
from edgefuse_runtime.camera import frames
from edgefuse_runtime.cameras import open_camera
from edgefuse_runtime.recording.write_db3 import write_recording


def test_a_recording_has_its_unit_and_rate(tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = write_recording(
        tmp_path / "a.db3",
        (draw_pair("far") for _ in range(13)),
        depth_unit_m=0.0001,
        fps=60,
        progress=lambda *count, stage: seen.append(count),
    )
    assert seen == [(number, None) for number in range(1, 14)]
    with open_camera(str(path)) as camera:
        played = list(frames(camera))
        description = camera.description
    assert len(played) == 13
    assert (played[0].depth_unit_m, description["color"]["fps"]) == (0.0001, 60)
    assert played[-1].timestamp_ms - played[0].timestamp_ms == pytest.approx(12 * 1000 / 60, abs=0.01)
    # Real-time playback follows the file's clock.
    started_s = time.monotonic()
    with open_camera(str(path), real_time=True) as camera:
        assert len(list(frames(camera))) <= 13
    assert time.monotonic() - started_s >= 0.9 * 12 / 60
    assert description["duration_s"] == pytest.approx(12 / 60, rel=0.3)


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.db3"
    path.write_bytes(b"precious")
    with pytest.raises(UserError, match="exists already"):
        write_recording(path, [draw_pair("far")])
    assert path.read_bytes() == b"precious"
    write_recording(path, [draw_pair("far")] * 3, fps=60, force=True)
    with open_camera(str(path)) as camera:
        assert len(list(frames(camera))) == 3


def _breaking_off() -> Iterator[Pair]:
    yield draw_pair("far")
    raise KeyboardInterrupt


def test_a_run_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_recording(tmp_path / "a.db3", _breaking_off(), fps=60)
    assert list(tmp_path.iterdir()) == []


RGB, DEPTH = draw_pair("far")


@pytest.mark.parametrize(
    ("name", "pairs", "message"),
    [
        ("a.bag", [(RGB, DEPTH)], "suffix .db3 was expected"),
        ("a.db3", [], "no frames"),
        ("a.db3", [(RGB, DEPTH), (RGB[:40], DEPTH[:40])], r"frame 2 is uint8 \[40, 64, 3\]"),
        ("a.db3", [(RGB, DEPTH.astype(np.float32))], "frame 1 .* depth float32"),
        ("a.db3", [(RGB, DEPTH[..., np.newaxis])], r"first depth image has the shape \[48, 64, 1\]"),
    ],
)
def test_other_input_is_refused(name: str, pairs: list[Pair], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        write_recording(tmp_path / name, pairs, fps=60)
    assert list(tmp_path.iterdir()) == []
