"""A camera in a process of its own: it is opened again after every fault, ends in time in every state, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgefuse.errors import UserError
from edgefuse_runtime.camera import EndOfStream, Frame, frames
from edgefuse_runtime.cameras.find import UsbDevice
from edgefuse_runtime.capture import capture as capture_module
from edgefuse_runtime.capture import open_capture
from edgefuse_runtime.capture.capture import Capture, Mode
from edgefuse_runtime.capture.ladder import Ladder, pause_before_process
from edgefuse_runtime.capture.source import Source
from leaks import nothing_left_behind
from logs import logged

BOTH = pytest.mark.parametrize("mode", ["process", "thread"])


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., Capture]:
    """Returns a function that makes a camera with these faults, one for each opening."""

    def make(
        *faults: str, mode: Mode = "process", is_live: bool = True, waits: bool = False, num_frames: int = 5
    ) -> Capture:
        arguments = {"folder": str(tmp_path), "faults": list(faults), "num_frames": num_frames}
        factory = "capture_cameras:FaultyCamera"
        return Capture(
            Source(factory=factory, arguments=arguments, is_live=is_live, waits=waits), align="color", mode=mode
        )

    return make


def _read_until(camera: Capture, is_reached: Callable[[Frame | None], bool], *, limit_s: float = 30.0) -> list[Frame]:
    seen: list[Frame] = []
    until_s = time.monotonic() + limit_s
    while time.monotonic() < until_s:
        frame = camera.read(50)
        seen += [] if frame is None else [frame]
        counters = camera.counters
        assert counters.received == counters.delivered + counters.dropped + counters.stale
        if is_reached(frame):
            return seen
    raise AssertionError(f"not reached within {limit_s} s: {camera.state}, {counters}")


def _is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")")[-1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@BOTH
@pytest.mark.parametrize("waits", [True, False])
def test_every_frame_to_the_end(opened: Callable[..., Capture], mode: Mode, waits: bool) -> None:
    camera = opened("end", mode=mode, waits=waits, is_live=False, num_frames=20)
    with camera, logged() as lines:
        assert camera.description["serial"] == "7"
        is_here = camera.description["process"] == os.getpid()
        seen = []
        for frame in frames(camera):
            seen.append(frame)
            seen = seen[-2:] if not waits else seen
            time.sleep(0.03)
        counters, state = camera.counters, camera.state.name
        with pytest.raises(EndOfStream):
            camera.read(10)
    assert is_here == (mode == "thread") and lines == []
    assert seen[-1].depth_number == 20 and all((frame.depth == frame.depth_number).all() for frame in seen)
    assert (counters.received, counters.stale, state, camera.state.name) == (20, 0, "ended", "closed")
    assert (counters.dropped == 0) == waits == (counters.delivered == 20)
    with pytest.raises(RuntimeError, match="outside"):
        camera.read(10)


@BOTH
def test_restarts_then_a_reset_then_the_camera_is_back(
    opened: Callable[..., Capture], mode: Mode, tmp_path: Path
) -> None:
    camera = opened("raise", "raise", "raise", "none", mode=mode)
    with logged() as lines, camera:
        states = set()
        _read_until(
            camera, lambda frame: states.add(camera.state.name) or (frame is not None and frame.depth_number > 5)
        )
        assert states == {"running", "reconnecting"}
        assert camera.description["capture"]["losses"] == 3
        assert camera.counters.received >= 3 * 5 + 6
    log = (tmp_path / "log").read_text().split()
    assert log == ["open", "close", "open", "close", "open", "close", "reset", "open", "close"]
    assert lines[0] == "warning: an old firmware" and lines.count(lines[0]) == 1
    assert (
        lines[1]
        == "warning: the camera is lost: the camera stopped: the cable is loose. Opening it again until it answers"
    )
    assert lines[2].startswith("warning: the camera is back after ")


def test_a_camera_that_is_away_is_looked_for_and_each_change_is_logged_once(
    opened: Callable[..., Capture], tmp_path: Path
) -> None:
    with logged() as lines, opened("raise", "absent", "absent", "absent", "absent", "none") as camera:
        _read_until(camera, lambda frame: frame is not None and frame.depth_number > 5)
    assert len(lines) == 4, lines
    for line, words in zip(lines[1:], ("the cable is loose", "no camera 7 was found", "is back after"), strict=True):
        assert words in line
    assert (tmp_path / "log").read_text().split().count("reset") == 1


def test_a_capture_process_that_is_killed_is_replaced(opened: Callable[..., Capture]) -> None:
    with logged() as lines, opened("none") as camera:
        _read_until(camera, lambda frame: frame is not None and frame.depth_number > 3)
        first, received = camera.description["process"], camera.counters.received
        os.kill(first, signal.SIGKILL)
        _read_until(camera, lambda frame: camera.state.name == "reconnecting")
        assert "ended by SIGKILL" in camera.state.reason
        _read_until(camera, lambda frame: frame is not None)
        second = camera.description["process"]
        assert second != first and camera.counters.received > received
    assert not _is_running(first) and not _is_running(second)
    assert [line for line in lines if "SIGKILL" in line] == lines[1:2]


@pytest.mark.parametrize("fault", ["hang", "hang with GIL"])
def test_a_call_that_hangs_is_ended(opened: Callable[..., Capture], fault: str) -> None:
    with opened(fault, "none") as camera:
        _read_until(camera, lambda frame: camera.state.name == "reconnecting")
        assert camera.state.reason == "reading the camera did not return: a call of librealsense hangs"
        _read_until(camera, lambda frame: frame is not None and frame.depth_number > 5)


def test_a_stop_that_hangs_after_a_failure_is_ended(opened: Callable[..., Capture]) -> None:
    with opened("raise, hang stop", "none") as camera:
        first = camera.description["process"]
        _read_until(camera, lambda frame: camera.state.name == "reconnecting")
        assert camera.state.reason == "closing the camera did not return: a call of librealsense hangs"
        _read_until(camera, lambda frame: frame is not None and frame.depth_number > 5)
        assert camera.description["process"] != first and not _is_running(first)


def test_a_change_on_usb_ends_the_pause_before_the_next_process(
    opened: Callable[..., Capture], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The camera is removed from USB, then added again. Without such a change the pause would last ten minutes."""
    device = UsbDevice(vendor_id="8086", product_id="0b07", product="RealSense", speed_mbps=5000)
    connected = [device]
    monkeypatch.setattr(capture_module, "on_usb", lambda: list(connected))
    monkeypatch.setattr(capture_module, "pause_before_process", lambda num_failures: 600.0)
    with opened("kill", "kill", "none") as camera:
        _read_until(camera, lambda frame: camera.state.name == "reconnecting")
        first, lost_s = camera.description["process"], time.monotonic()
        while time.monotonic() < lost_s + 0.5:
            assert camera.read(50) is None
        connected.clear()
        _read_until(camera, lambda frame: camera.description["process"] != first)
        _read_until(camera, lambda frame: camera.state.name == "reconnecting")
        connected.append(device)
        _read_until(camera, lambda frame: frame is not None and frame.depth_number > 5)


def test_a_call_that_hangs_in_a_thread_is_shown_and_does_not_hold_up_the_end(opened: Callable[..., Capture]) -> None:
    with opened("hang", mode="thread") as camera:
        _read_until(camera, lambda frame: camera.state.name == "reconnecting")
        assert "a call of librealsense hangs" in camera.state.reason
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 2.0


def test_a_live_camera_without_frames_is_opened_again(opened: Callable[..., Capture]) -> None:
    with opened("silent", "none") as camera:
        _read_until(camera, lambda frame: camera.state.name == "reconnecting")
        assert "no new pair of colour and depth for 5 s" in camera.state.reason
        _read_until(camera, lambda frame: frame is not None and frame.depth_number > 5)


@pytest.mark.parametrize("fault", ["none", "hang", "hang with GIL", "hang stop", "silent", "kill", "raise"])
def test_the_end_takes_less_than_two_seconds(opened: Callable[..., Capture], fault: str) -> None:
    camera = opened(fault)
    with camera:
        _read_until(camera, lambda frame: frame is not None)
        process = camera.description["process"]
        time.sleep(0.3)
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 2.0
    assert not _is_running(process)


def test_ctrl_c_while_the_camera_is_opened(opened: Callable[..., Capture]) -> None:
    camera = opened("hang open")
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 1.5)
    try:
        with pytest.raises(KeyboardInterrupt), camera:
            pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert camera._started is None and camera.state.name == "closed"


@BOTH
def test_the_first_opening_fails_at_once(opened: Callable[..., Capture], mode: Mode) -> None:
    with pytest.raises(UserError, match=r"no camera 7 was found\. Connect it") as raised, opened("absent", mode=mode):
        pass
    assert raised.value.step == "Connect it"


@BOTH
def test_a_recording_that_fails_ends_after_its_last_frame(opened: Callable[..., Capture], mode: Mode) -> None:
    seen: list[int] = []
    with opened("raise", is_live=False, mode=mode) as camera, pytest.raises(UserError, match="the cable is loose"):
        seen += (frame.depth_number for frame in frames(camera))
    assert seen[-1] == 5 and camera.state.name == "failed"


_READ = """
import sys
sys.path[:] = sys.argv[3:]
from edgefuse_runtime.capture.capture import Capture
from edgefuse_runtime.capture.source import Source
arguments = {"folder": sys.argv[1], "faults": [sys.argv[2]]}
with Capture(Source(factory="capture_cameras:FaultyCamera", arguments=arguments, is_live=True), align="color") as camera:
    while camera.read(1000) is None or camera.counters.received < 5:
        pass
    print(camera.description["process"], flush=True)
    while True:
        camera.read(1000)
"""


@pytest.mark.parametrize("fault", ["none", "hang with GIL"])
def test_no_process_is_left_when_the_reader_is_killed(fault: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _READ, str(tmp_path), fault, *sys.path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        process = int(reader.stdout.readline())
        time.sleep(0.2)
        assert _is_running(process)
        reader.kill()
        reader.wait()
        until_s = time.monotonic() + 2.0
        while _is_running(process) and time.monotonic() < until_s:
            time.sleep(0.01)
        assert not _is_running(process)


def test_nothing_is_left_open(opened: Callable[..., Capture]) -> None:
    with nothing_left_behind():
        for mode in ("process", "thread"):
            with opened("none", mode=mode) as camera:
                _read_until(camera, lambda frame: frame is not None)
            del camera


def test_the_capture_process_imports_little() -> None:
    code = (
        "import sys, edgefuse_runtime.capture.child, edgefuse_runtime.cameras.realsense, edgefuse_runtime.cameras.playback; "
        "print(sorted({'rich', 'typer', 'onnxruntime', 'torch', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_ladder() -> None:
    ladder = Ladder()
    steps = [ladder.after_failure(streamed_s=0.0, now_s=now_s) for now_s in (0.0, 1.0, 3.0, 8.0, 22.0, 24.0)]
    assert [step.action for step in steps] == ["restart", "restart", "reset", "restart", "restart", "give up"]
    assert ladder.after_failure(streamed_s=60.0, now_s=100.0).action == "restart"
    assert [ladder.after_failure(streamed_s=1.0, now_s=101.0).action for _ in range(3)] == [
        "restart",
        "reset",
        "give up",
    ]
    assert [pause_before_process(number) for number in (1, 2, 3, 4, 5, 6, 5000)] == [1, 2, 4, 8, 16, 30, 30]


def test_after_the_first_opening_only_this_camera_is_opened() -> None:
    source = Source(arguments={"spec": "realsense", "align": "color"}, is_live=True)
    assert source.with_serial("123").arguments == {"spec": "realsense:123", "align": "color"}
    assert source.with_serial("unknown") == source
    named = Source(arguments={"spec": "realsense:9"}, is_live=True)
    assert named.with_serial("9") == named


def test_folders_and_scenes_are_read_by_the_caller(near_far_folder: Path, small_recording: Path) -> None:
    assert not isinstance(open_capture("synthetic"), Capture)
    assert not isinstance(open_capture(str(near_far_folder)), Capture)
    assert isinstance(open_capture(str(small_recording)), Capture) and isinstance(open_capture("realsense"), Capture)
    with pytest.raises(UserError, match="it does not exist"):
        open_capture("nothing")
