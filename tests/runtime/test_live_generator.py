"""`edgefuse.live`: the newest frame for a slow caller, or every frame on request, and nothing is left open."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from runtime_scenes import draw_pair

import edgefuse
from edgefuse.bundle import Bundle, write_manifest
from edgefuse.errors import UserError
from edgefuse_runtime.capture.capture import Capture
from edgefuse_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edgefuse_runtime.recording.write_db3 import write_recording
from leaks import nothing_left_behind
from logs import logged
from toy_bundle import make_toy_bundle

FPS, SECONDS, SLOW_S = 30, 3, 0.2


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pairs = [draw_pair("near", brightness=number % 50) for number in range(FPS * SECONDS)]
    return write_recording(tmp_path_factory.mktemp("live") / "three_seconds.db3", pairs, fps=FPS)


def test_a_slow_caller_gets_the_newest_frame_and_the_number_of_those_it_missed(bundle: Bundle, recording: Path) -> None:
    """With a queue, the age of the frames would grow: 1.5 s after ten of them."""
    results, times_s = [], []
    for result in edgefuse.live(bundle.folder, camera=str(recording), engine="cpu"):
        results.append(result)
        times_s.append(time.monotonic())
        time.sleep(SLOW_S)
    assert 5 <= len(results) <= SECONDS / SLOW_S + 2
    first = results[1]  # before that, playback had only begun
    for result, time_s in zip(results[1:], times_s[1:], strict=True):
        behind_s = (time_s - times_s[1]) - (result.frame - first.frame) / FPS
        assert behind_s < 3 * SLOW_S, (result.frame, behind_s)
    last = results[-1]
    assert last.dropped > 3 * len(results)
    assert last.frame - results[0].frame == len(results) - 1 + last.dropped - results[0].dropped + last.stale


@pytest.mark.parametrize("source", ["recording", "folder", "synthetic"])
def test_every_frame_arrives_if_none_may_be_dropped(
    bundle: Bundle, small_recording: Path, near_far_folder: Path, source: str
) -> None:
    camera, num_frames = {
        "recording": (str(small_recording), 30),
        "folder": (str(near_far_folder), 8),
        "synthetic": ("synthetic", 3),
    }[source]
    real_time = source != "recording"  # the others wait for the caller in any case
    numbers = []
    for result in edgefuse.live(str(bundle.folder), camera=camera, real_time=real_time, num_frames=num_frames):
        numbers.append(result.frame)
        assert result.dropped == 0
        time.sleep(0.05)
    assert numbers == list(range(numbers[0], numbers[0] + num_frames))


@pytest.fixture
def open_resources(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the cameras and engines that are open."""
    now: list[str] = []

    def watched(kind: type[Any]) -> None:
        enter, leave = kind.__enter__, kind.__exit__

        def entered(self: Any) -> Any:
            now.append(kind.__name__)
            return enter(self)

        def left(
            self: Any, of: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            leave(self, of, error, trace)
            now.remove(kind.__name__)

        monkeypatch.setattr(kind, "__enter__", entered)
        monkeypatch.setattr(kind, "__exit__", left)

    watched(Capture)
    watched(OnnxRuntimeEngine)
    return now


def live(bundle: Bundle, recording: Path) -> Iterator[Any]:
    return edgefuse.live(bundle.folder, camera=str(recording), engine="cpu")


BOTH = ["Capture", "OnnxRuntimeEngine"]


def test_nothing_is_open_before_the_first_result_and_after_the_last(
    bundle: Bundle, small_recording: Path, open_resources: list[str]
) -> None:
    with nothing_left_behind():
        results = live(bundle, small_recording)
        assert open_resources == []
        next(results)
        assert sorted(open_resources) == BOTH
        assert list(results)
        assert open_resources == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"num_frames": 0}, "num_frames is 0: 1 or more, or None, was expected"),
        ({"num_frames": -1}, "num_frames is -1"),
        ({"agree": "3 of 5"}, "'3 of 5': N/M was expected"),
        ({"agree": (3, 5, 7)}, r"\(3, 5, 7\): N/M was expected"),
        ({"agree": 3}, "3: N/M was expected"),
        ({"agree": (2.5, 5)}, r"\(2.5, 5\): N/M was expected"),
        ({"agree": "5/3"}, "5 of 3 frames have to agree"),
    ],
)
def test_values_out_of_range_are_refused(bundle: Bundle, given: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        next(edgefuse.live(bundle.folder, camera="synthetic", **given))


def test_agreement_can_have_the_form_of_the_command_line(bundle: Bundle, near_far_folder: Path) -> None:
    events = {
        str(agree): [
            [(type(event).__name__, event.frame) for event in result.events]
            for result in edgefuse.live(bundle.folder, camera=str(near_far_folder), engine="cpu", agree=agree)
        ]
        for agree in ("2/4", (2, 4), (3, 5))
    }
    assert events["2/4"] == events["(2, 4)"] != events["(3, 5)"]


def test_break_closes_both(bundle: Bundle, recording: Path, open_resources: list[str]) -> None:
    with nothing_left_behind():
        for _ in live(bundle, recording):
            assert sorted(open_resources) == BOTH
            break
        assert open_resources == []
        with pytest.raises(ZeroDivisionError):
            for result in live(bundle, recording):
                assert result.index // 0
        assert open_resources == []
        results = live(bundle, recording)
        next(results)
        results.close()  # type: ignore[attr-defined]
        assert open_resources == []


def test_ctrl_c_closes_both(bundle: Bundle, recording: Path, open_resources: list[str]) -> None:
    """Once while the generator waits for a frame, and once in the caller's own code."""
    results = live(bundle, recording)
    next(results)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        for _ in results:
            pass
    assert open_resources == []
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        for _ in live(bundle, recording):
            timer.start()
            time.sleep(10)
    assert open_resources == []


def test_a_garbage_collected_generator_closes_both(bundle: Bundle, recording: Path, open_resources: list[str]) -> None:
    class Holder:
        results: Iterator[Any]
        itself: Holder

    holder = Holder()
    holder.results, holder.itself = live(bundle, recording), holder  # a cycle: only the garbage collector frees it
    next(holder.results)
    assert sorted(open_resources) == BOTH
    del holder
    gc.collect()
    assert open_resources == []


@pytest.mark.parametrize(
    ("roi", "note"),
    [
        ("0,0,20,20", "warning: the region is 0,0,20,20, but the model was trained on center"),
        (None, "region: center, as in the model's training data (use --roi whole for the whole image)"),
    ],
)
def test_notes_about_the_region_are_logged_at_their_level(
    tmp_path: Path, near_far_folder: Path, roi: str | None, note: str
) -> None:
    toy = make_toy_bundle(tmp_path / "bundle")
    write_manifest(toy.folder, replace(toy.manifest, training={"data": {"region": "center"}}))
    with logged() as lines:
        list(edgefuse.live(toy.folder, camera=str(near_far_folder), roi=roi, num_frames=1, engine="cpu"))
    assert lines.count(note) == 1


def test_an_engine_that_fails_closes_the_camera(
    bundle: Bundle, recording: Path, open_resources: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise edgefuse.EdgefuseError("the device is gone")

    results = live(bundle, recording)
    next(results)
    monkeypatch.setattr(OnnxRuntimeEngine, "run", fail)
    with pytest.raises(edgefuse.EdgefuseError, match="the device is gone"):
        next(results)
    assert open_resources == []


PROGRAM = """
import os, sys, edgefuse
from edgefuse_runtime.capture.capture import Capture
leave = Capture.__exit__
def left(self, *error):
    leave(self, *error)
    os.write(1, b"too late" if sys.is_finalizing() else b"closed")
Capture.__exit__ = left
results = edgefuse.live(sys.argv[1], camera=sys.argv[2], engine="cpu", capture=sys.argv[4])
for result in results:
    if sys.argv[3] == "interrupt":
        os.kill(os.getpid(), 2)
    break
"""


@pytest.mark.parametrize("capture", ["process", "thread"])
@pytest.mark.parametrize(("how", "returncode"), [("end", 0), ("interrupt", -signal.SIGINT)])
def test_a_program_that_exits_with_a_suspended_generator(
    bundle: Bundle, recording: Path, how: str, returncode: int, capture: str
) -> None:
    """Closed during interpreter shutdown, librealsense ended the process with SIGABRT in about one of three runs."""
    for _ in range(3):
        command = [sys.executable, "-c", PROGRAM, str(bundle.folder), str(recording), how, capture]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (returncode, "closed"), done.stderr
