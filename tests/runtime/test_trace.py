"""Traces: the stages of every frame, complete JSON at any time, bounded, and on a full disk."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from runtime_scenes import RESULT, spans_of

from edgefuse.bundle import Bundle
from edgefuse.errors import UserError
from edgefuse_runtime.cameras import open_camera
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.live.loop import run_live
from edgefuse_runtime.sinks.trace import TraceSink


def test_a_trace_has_the_stages_of_every_frame_in_their_order(
    bundle: Bundle, near_far_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "deep" / "trace.json"
    with open_engine(bundle) as engine, open_camera(str(near_far_folder)) as camera:
        run_live(engine=engine, camera=camera, sinks=[TraceSink(path)])
    spans = spans_of(path)
    for number in range(1, 9):
        frame = [span for span in spans if span["args"]["frame"] == number]
        assert [span["name"] for span in frame] == ["read", "queue", "preprocess", "infer", "publish"]
        for before, after in pairwise(frame):
            assert before["ts"] + before["dur"] <= after["ts"] + 0.001
    assert len(spans) == 5 * 8
    for name in ("read", "preprocess", "infer", "publish"):
        for before, after in pairwise([span for span in spans if span["name"] == name]):
            assert before["tid"] == after["tid"] and before["ts"] + before["dur"] <= after["ts"] + 0.001


def test_a_trace_is_complete_at_any_time_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    with TraceSink(path, max_bytes=20_000) as sink:
        for number in range(60):
            sink.result(dataclasses.replace(RESULT, frame=number), None)
            assert len(spans_of(path)) <= 5 * (number + 1)
    assert 10_000 < path.stat().st_size <= 20_000
    assert spans_of(path)[-1]["name"] == "publish"


def test_a_trace_replaces_only_a_trace_and_only_with_force(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    for _ in range(2):
        with TraceSink(path, force=True) as sink:
            sink.result(RESULT, None)
    assert len(spans_of(path)) == 5
    with pytest.raises(UserError, match="exists already"), TraceSink(path):
        pass
    path.write_text("precious")
    with pytest.raises(UserError, match="is not replaced"), TraceSink(path, force=True):
        pass
    assert path.read_text() == "precious"


def test_a_trace_on_a_full_disk_stays_readable_and_the_run_goes_on(
    bundle: Bundle, near_far_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "trace.json"
    command = (
        f"ulimit -f 4; exec {sys.executable} -c 'from edgefuse.app.main import main; main()' live {bundle.folder} "
        f"--camera {near_far_folder} --trace {path}"
    )
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, preexec_fn=lambda: signal.signal(25, signal.SIG_IGN)
    )
    assert (done.returncode, "8 results in" in done.stdout) == (1, True), done.stderr
    assert f"{path} failed (File too large)" in done.stderr
    assert 6 <= len(spans_of(path)) < 48
