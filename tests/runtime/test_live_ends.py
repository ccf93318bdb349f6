"""How a live run ends: no result is lost, and every failure is reported."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from runtime_scenes import draw_pair

import toy_bundle
from edgefuse.bundle import Bundle
from edgefuse.data.dataset import write_description, write_pair
from edgefuse.errors import UserError
from edgefuse_runtime.camera import Camera, Frame
from edgefuse_runtime.cameras import open_camera
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.live.loop import run_live
from edgefuse_runtime.predict import predict_framed
from edgefuse_runtime.results import LiveSummary, Result
from edgefuse_runtime.sinks.json_lines import JsonlSink
from edgefuse_runtime.sinks.lines import LinesSink
from edgefuse_runtime.sinks.sink import Sink
from edgefuse_runtime.sinks.terminal import TableSink
from logs import logged

LIVE = [sys.executable, "-c", "from edgefuse.app.main import main; main()", "live"]


class Keep(LinesSink):
    """Stores results, summary and lines."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.results: list[Result] = []
        self.summaries: list[LiveSummary] = []
        super().__init__(self.stream)

    def result(self, result: Result, frame: Frame | None) -> None:
        self.results.append(result)
        super().result(result, frame)

    def summary(self, summary: LiveSummary) -> None:
        self.summaries.append(summary)
        super().summary(summary)


def _live(
    bundle: Bundle, camera: str | Camera, *sinks: Sink, num_frames: int | None = None
) -> tuple[LiveSummary, list[str]]:
    source = open_camera(camera) if isinstance(camera, str) else camera
    with open_engine(bundle) as engine, source, logged() as messages:
        summary = run_live(engine=engine, camera=source, sinks=sinks, num_frames=num_frames)
    return summary, messages


@pytest.fixture
def not_finite_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A model with logits that overflow: its softmax computes infinity minus infinity."""
    monkeypatch.setattr(toy_bundle, "SHARPNESS", float("inf"))
    return toy_bundle.make_toy_bundle(tmp_path / "not_finite_bundle")


def test_an_output_that_is_not_finite_is_no_decision(
    not_finite_bundle: Bundle, near_far_folder: Path, tmp_path: Path
) -> None:
    keep = Keep()
    log = JsonlSink(tmp_path / "log.jsonl")
    summary, messages = _live(not_finite_bundle, str(near_far_folder), keep, log)
    assert [result.label for result in keep.results] == [None] * 8
    assert all("output is not finite: no decision" in result.warning for result in keep.results)
    assert (summary.not_finite, summary.without_decision, summary.gate_mean) == (8, 8, None)
    assert summary.accuracy is not None
    assert (summary.accuracy.scored, summary.accuracy.abstained) == (0, 8)
    assert "WARNING the model's output is not finite in 8 of 8 results" in keep.stream.getvalue()
    assert len([line for line in messages if "finite" in line]) == 1
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert not any("NaN" in line for line in lines)
    assert json.loads(lines[1])["gate_mean"] is None and json.loads(lines[-1])["not_finite"] == 8


def test_the_table_shows_an_output_that_is_not_finite(not_finite_bundle: Bundle, near_far_folder: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=40, color_system=None)
    _live(not_finite_bundle, str(near_far_folder), TableSink(console=console))
    assert isinstance(console.file, io.StringIO) and "no decision" in console.file.getvalue()


def test_batches_with_outputs_that_are_not_finite_are_refused(not_finite_bundle: Bundle) -> None:
    rgb, depth = np.ones((3, 32, 32, 3), np.uint8), np.ones((3, 32, 32, 2), np.uint8)
    with (
        open_engine(not_finite_bundle) as engine,
        pytest.raises(UserError, match="NaN or infinity in its output for 3 of 3 pairs"),
    ):
        predict_framed(engine, rgb, depth)


def test_the_command_fails_if_no_output_was_finite(not_finite_bundle: Bundle, near_far_folder: Path) -> None:
    done = subprocess.run(
        [*LIVE, str(not_finite_bundle.folder), "--camera", str(near_far_folder)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "every output of the model had NaN or infinity" in done.stderr


def test_depth_out_of_range_is_logged_once(bundle: Bundle, tmp_path: Path) -> None:
    """A quarter of the measured depth is beyond the toy's 2 m."""
    write_description(tmp_path / "far")
    rgb, depth = draw_pair("far")
    depth[:12] = 2500
    depth[12:20] = 0
    for number in range(30):
        write_pair(tmp_path / "far" / "far" / "sequence", f"f{number:02}", rgb, depth)
    keep = Keep()
    summary, messages = _live(bundle, str(tmp_path / "far"), keep)
    assert summary.clipped is not None
    assert summary.clipped["farther"] == pytest.approx(12 / 40, abs=0.02)
    assert summary.clipped["nearer"] == 0
    assert [line for line in messages if "beyond 2 m" in line and "--far" in line] == messages[:1] and len(
        messages
    ) == 1
    assert "beyond 2 m" in summary.warnings[0] and f"WARNING {summary.warnings[0]}" in keep.stream.getvalue()


def test_depth_in_range_gives_no_warning(bundle: Bundle, near_far_folder: Path) -> None:
    summary, messages = _live(bundle, str(near_far_folder))
    assert (summary.clipped, summary.warnings, messages) == ({"nearer": 0, "farther": 0}, (), [])


def test_the_panel_and_the_summary_show_the_same_accuracy(tmp_path: Path, near_far_folder: Path) -> None:
    """The folder's class "far" is not one of the model's: it is excluded from the accuracy, and reported."""
    bundle = toy_bundle.make_toy_bundle(tmp_path / "b", labels=("near", "elsewhere"))
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=40, color_system=None)
    keep = Keep()
    summary, _ = _live(bundle, str(near_far_folder), TableSink(console=console), keep)
    assert summary.accuracy is not None
    assert (summary.accuracy.correct, summary.accuracy.scored, summary.accuracy.unscored) == (4, 4, 4)
    assert summary.accuracy.unknown == ("far",)
    assert isinstance(console.file, io.StringIO)
    screen = console.file.getvalue()
    assert "accuracy 1.000 (4 of 4)" in screen and "of 8)" not in screen
    assert (
        "4 results are excluded from the accuracy, because the model does not have their classes: far"
        in keep.stream.getvalue()
    )
    assert [result.correct for result in keep.results] == [None] * 4 + [True] * 4
    assert "far is not a class of the model" in keep.stream.getvalue().splitlines()[0]


def test_a_full_disk_leaves_complete_lines(bundle: Bundle, near_far_folder: Path, tmp_path: Path) -> None:
    """A limit on the file size simulates the full disk: a part of the last line is written without an error."""
    path = tmp_path / "log.jsonl"
    command = (
        f"ulimit -f 4; exec {sys.executable} -c 'from edgefuse.app.main import main; main()' live {bundle.folder} "
        + (f"--camera {near_far_folder} --jsonl {path}")
    )
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, preexec_fn=lambda: signal.signal(25, signal.SIG_IGN)
    )
    assert done.returncode == 1
    assert "8 results in" in done.stdout
    assert done.stderr.count(f"{path} failed (File too large)") == 1 and "Traceback" not in done.stderr
    data = path.read_bytes()
    assert data.endswith(b"\n") and 0 < len(data) <= 4096
    assert {json.loads(line)["kind"] for line in data.splitlines()} == {"event", "result"}


def test_a_camera_that_fails_leaves_a_summary(bundle: Bundle, near_far_folder: Path, tmp_path: Path) -> None:
    (near_far_folder / "near" / "take1" / "frame_2_depth.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"frame_2_depth\.png"):
        _live(bundle, str(near_far_folder), JsonlSink(tmp_path / "log.jsonl"))
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert (last["kind"], last["processed"], last["ended"]) == ("summary", 6, "failed")
    assert "frame_2_depth.png" in last["failure"]


def test_a_damaged_recording_fails_the_command_and_keeps_the_results(
    bundle: Bundle, small_recording: Path, tmp_path: Path
) -> None:
    path, log = tmp_path / "d.db3", tmp_path / "log.jsonl"
    data = bytearray(small_recording.read_bytes())
    place = data.rindex(b"IDAT") + 20
    data[place] ^= 0xFF
    path.write_bytes(data)
    done = subprocess.run(
        [*LIVE, str(bundle.folder), "--camera", str(path), "--json", "--jsonl", str(log)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert f"{path} is damaged: stopped after " in done.stderr and " of 30 frames" in done.stderr
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    results = [line for line in lines if line["kind"] == "result"]
    assert lines[-1]["ended"] == "failed" and 0 < len(results) == lines[-1]["processed"] < 30
    states = [line["detail"]["state"] for line in lines if line.get("event") == "camera"]
    assert states == ["opening", "running", "failed"]
    assert json.loads(done.stdout)["processed"] == lines[-1]["processed"]


class SecondInterrupt(Keep):
    """Ctrl-C at the third result, and again during the summary."""

    def result(self, result: Result, frame: Frame | None) -> None:
        super().result(result, frame)
        if result.index == 2:
            os.kill(os.getpid(), signal.SIGINT)

    def summary(self, summary: LiveSummary) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        super().summary(summary)


def test_a_second_ctrl_c_does_not_prevent_the_summary(bundle: Bundle, tmp_path: Path) -> None:
    summary, _ = _live(bundle, "synthetic", SecondInterrupt(), JsonlSink(tmp_path / "log.jsonl"))
    assert summary.ended == "interrupted"
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["kind"] == "summary"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_run_in_another_thread(bundle: Bundle, near_far_folder: Path) -> None:
    summaries: list[LiveSummary] = []
    thread = threading.Thread(target=lambda: summaries.append(_live(bundle, str(near_far_folder))[0]))
    thread.start()
    thread.join()
    assert summaries[0].processed == 8


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_end_with_a_summary_that_has_their_name(number: signal.Signals, bundle: Bundle, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    process = subprocess.Popen(
        [*LIVE, str(bundle.folder), "--camera", "synthetic", "--json", "--jsonl", str(log)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline_s = time.monotonic() + 30
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    process.send_signal(number)
    printed, errors = process.communicate(timeout=30)
    assert json.loads(printed)["ended"] == ("interrupted" if number == signal.SIGINT else number.name), errors
    assert json.loads(log.read_text().splitlines()[-1])["kind"] == "summary"


@pytest.mark.parametrize(
    ("pipe", "code"),
    [
        ("| head -1", 1),
        ("2>&1 | head -1", 1),
        ("--json | true", 1),
        (">&-", 0),
        ("2>&-", 0),
        (">&- 2>&-", 0),
        ("> /dev/full", 1),
    ],
)
def test_closed_outputs_end_a_run_quietly(pipe: str, code: int, bundle: Bundle, tmp_path: Path) -> None:
    command = (
        f"{sys.executable} -c 'from edgefuse.app.main import main; main()' live {bundle.folder} --camera synthetic "
    )
    frames = "--frames 3 " if code == 0 or "json" in pipe or "/dev" in pipe else ""
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}{frames}{pipe}; echo code $? >> {tmp_path}/code"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (tmp_path / "code").read_text() == f"code {code}\n", done.stderr
    for word in ("Traceback", "Broken pipe", "Exception ignored", "fault in edgefuse"):
        assert word not in done.stderr
    assert ("No space left" in done.stderr) == ("/dev/full" in pipe)


def test_a_closed_output_does_not_end_a_run_that_has_another(bundle: Bundle, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    command = (
        f"{sys.executable} -c 'from edgefuse.app.main import main; main()' live {bundle.folder} --camera synthetic "
    )
    subprocess.run(["bash", "-c", f"{command} --frames 20 --jsonl {log} | head -1"], capture_output=True, timeout=60)
    last = json.loads(log.read_text().splitlines()[-1])
    assert (last["kind"], last["processed"], len(last["failed_sinks"])) == ("summary", 20, 1)


def test_force_never_truncates_the_recording_or_the_bundle(
    bundle: Bundle, small_recording: Path, tmp_path: Path
) -> None:
    recording = shutil.copy(small_recording, tmp_path / "r.db3")
    copy = shutil.copytree(bundle.folder, tmp_path / "bundle")
    for target in (recording, copy / "model.onnx", copy / "manifest.json"):
        before = Path(target).read_bytes()
        done = subprocess.run(
            [*LIVE, str(copy), "--camera", str(recording), "--jsonl", str(target), "--force"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1 and "is left as it is" in done.stderr
        assert Path(target).read_bytes() == before
