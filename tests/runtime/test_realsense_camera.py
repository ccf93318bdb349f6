"""The live camera class on librealsense's software device, and its errors without a camera or SDK."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from runtime_scenes import draw_pair

from edgefuse.errors import UserError
from edgefuse_runtime.camera import frames
from edgefuse_runtime.cameras.pyrealsense import load_pyrealsense2
from edgefuse_runtime.cameras.realsense import Profile, RealSense, _keep_color_rate, _start_message
from edgefuse_runtime.cameras.software_device import SoftwareCamera

PROFILE = Profile(64, 48, 64, 48, 30)


def _camera(source: SoftwareCamera, *, warmup_frames: int = 0, profiles: tuple[Profile, ...] = (PROFILE,)) -> RealSense:
    return RealSense(device=source.device, profiles=profiles, warmup_frames=warmup_frames)


@contextmanager
def _streaming(source: SoftwareCamera, *, fps: int) -> Iterator[None]:
    """`source` sends frames 1, 2, 3, ... in a separate thread; frame n has brightness n."""
    done = threading.Event()

    def send() -> None:
        for number in range(1, 250):
            if done.wait(1 / fps):
                return
            rgb, depth = draw_pair("far", brightness=number)
            source.send_depth(depth, number=number)
            source.send_color(rgb, number=number)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_frames_of_a_live_device() -> None:
    source = SoftwareCamera(width=64, height=48, depth_unit_m=0.0001)
    with _camera(source) as camera, _streaming(source, fps=100):
        seen = list(frames(camera, num_frames=5))
        assert camera.description["name"] == "edgefuse software camera"
        assert camera.description["depth"]["fps"] == 30
    assert [frame.color_number for frame in seen] == sorted({frame.color_number for frame in seen})
    for frame in seen:
        assert frame.rgb[0, 0, 0] == 20 + frame.color_number
        assert frame.depth_unit_m == 0.0001
        assert frame.timestamp_domain == "hardware"
        assert frame.arrival_ns <= frame.ready_ns <= time.perf_counter_ns()


def test_the_newest_pair_is_seen_after_a_pause_and_drops_are_counted() -> None:
    source = SoftwareCamera(width=64, height=48)
    rgb, depth = draw_pair("near")
    with _camera(source) as camera:
        for number in range(1, 4):
            source.send_depth(depth, number=number)
            source.send_color(rgb, number=number)
            assert camera.read(500) is not None
        for number in range(4, 14):
            source.send_depth(depth, number=number)
            source.send_color(rgb, number=number)
        time.sleep(0.1)
        newest = camera.read(500)
        assert newest is not None and newest.color_number == 13
        counters = camera.counters
    assert (counters.received, counters.delivered, counters.dropped, counters.stale) == (13, 4, 9, 0)


def test_stalled_streams_give_no_pair_and_are_counted() -> None:
    """Each stream stalls once. No stale pair is returned, and every pair of the device is counted."""
    source = SoftwareCamera(width=64, height=48)
    rgb, depth = draw_pair("near")
    numbers = []
    with _camera(source) as camera:
        for number in range(1, 41):
            if not 12 <= number < 20:
                source.send_color(rgb, number=number)
            if not 25 <= number < 30:
                source.send_depth(depth, number=number)
            frame = camera.read(40)
            if frame is not None:
                numbers.append((frame.color_number, frame.depth_number))
        counters = camera.counters
    assert all(color == depth_number for color, depth_number in numbers)
    assert not {color for color, _ in numbers} & {*range(12, 20), *range(25, 30)}
    assert len(numbers) == counters.delivered > 20
    assert counters.received == 40
    assert counters.received == counters.delivered + counters.dropped + counters.stale
    assert counters.stale > 0
    assert counters.timeouts >= 10


def test_pairs_with_a_lasting_time_difference_are_counted() -> None:
    """As after the wrap of a clock. A single pair is not counted."""
    source = SoftwareCamera(width=64, height=48)
    with _camera(source) as camera:
        for number in range(1, 31):
            rgb, depth = draw_pair("near", brightness=number)
            apart_ms = 2000.0 if number > 10 or number == 5 else 0.0
            source.send_depth(depth, number=number, timestamp_ms=number * 33.3)
            source.send_color(rgb, number=number, timestamp_ms=number * 33.3 - apart_ms)
            camera.read(200)
        assert camera.counters.delivered >= 28
        assert camera.counters.skewed == pytest.approx(20, abs=2)


@pytest.mark.parametrize("lost", [None, 12])
def test_constant_numbers_of_one_stream_pair_no_old_image(lost: int | None) -> None:
    """From number 12 on, librealsense pairs each depth image with the colour image of the previous frame."""
    source = SoftwareCamera(width=64, height=48)
    seen = []
    with _camera(source) as camera:
        for number in range(1, 31):
            if number != lost:
                source.send_depth(np.full((48, 64), number, np.uint16), number=number, timestamp_ms=number * 33.3)
            source.send_color(np.full((48, 64, 3), number, np.uint8), number=5, timestamp_ms=number * 33.3)
            frame = camera.read(60)
            if frame is not None:
                seen.append((int(frame.rgb[0, 0, 0]), int(frame.depth[0, 0])))
        counters = camera.counters
    assert seen and all(color == depth for color, depth in seen), seen
    assert counters.received == counters.delivered + counters.dropped + counters.stale
    assert counters.stale >= 10 and counters.delivered == len(seen)


def test_an_old_image_that_arrives_late_is_not_paired_with_a_new_one() -> None:
    source = SoftwareCamera(width=64, height=48)
    seen = []
    with _camera(source) as camera:
        for number, color_number in ((1, 1), (2, 2), (3, 3), (4, 2), (5, 5), (6, 6)):
            rgb, depth = draw_pair("near", brightness=color_number)
            source.send_depth(depth, number=number)
            source.send_color(rgb, number=color_number, timestamp_ms=number * 1000 / 30)
            frame = camera.read(200)
            if frame is not None:
                seen.append((frame.color_number, frame.depth_number))
        counters = camera.counters
    assert seen == [(1, 1), (2, 2), (3, 3), (5, 5), (6, 6)]
    assert (counters.received, counters.delivered, counters.stale) == (6, 5, 1)


def test_a_pipeline_that_the_sdk_stopped_keeps_the_clear_message() -> None:
    """As if the camera is unplugged: leaving `with` stops the pipeline again, which librealsense refuses."""
    source = SoftwareCamera(width=64, height=48)
    with pytest.raises(UserError, match="the camera stopped: .*Reconnect it"), _camera(source) as camera:
        camera._pipeline.stop()
        camera.read(100)


def test_a_silent_camera_is_reported() -> None:
    source = SoftwareCamera(width=64, height=48)
    with _camera(source) as camera, pytest.raises(UserError, match=r"no new pair of colour and depth for 0.3 s"):
        next(frames(camera, patience_s=0.3))


def test_warm_up_frames_are_discarded_uncounted() -> None:
    source = SoftwareCamera(width=64, height=48)
    with _streaming(source, fps=200), _camera(source, warmup_frames=12) as camera:
        frame = camera.read(1000)
        assert frame is not None and frame.color_number > 12
        assert camera.counters.received == 1


def test_the_first_profile_that_the_camera_supports_is_used() -> None:
    source = SoftwareCamera(width=64, height=48)
    missing = Profile(640, 480, 640, 480, 30)
    with _camera(source, profiles=(missing, Profile(64, 48, 64, 48, 60), PROFILE)) as camera:
        assert camera.description["depth"] == {"width": 64, "height": 48, "fps": 30, "format": "z16"}
    with (
        pytest.raises(
            UserError, match=r"none of these profiles: depth 640x480.*It supports Color 64x48 rgb8 30/s, Depth"
        ),
        _camera(source, profiles=(missing,)),
    ):
        pass


def test_the_age_of_a_frame_needs_the_hosts_clock() -> None:
    source = SoftwareCamera(width=64, height=48, domain="global_time")
    rgb, depth = draw_pair("near")
    with _camera(source) as camera:
        now_ms = time.time() * 1e3
        source.send_depth(depth, number=1, timestamp_ms=now_ms - 7)
        source.send_color(rgb, number=1, timestamp_ms=now_ms - 5)
        frame = camera.read(500)
    assert frame is not None
    assert (frame.timestamp_domain, frame.timestamp_ms) == ("global", pytest.approx(now_ms - 7, abs=0.01))


def test_the_colour_rate_is_kept_if_the_camera_can() -> None:
    rs = load_pyrealsense2()
    source = SoftwareCamera(width=64, height=48)
    sensor = source.device.query_sensors()[1]
    option_range = rs.option_range()
    option_range.min, option_range.max, option_range.step, option_range.default = 0.0, 1.0, 1.0, 1.0
    source._color_sensor.add_option(rs.option.auto_exposure_priority, option_range, True)
    assert sensor.get_option(rs.option.auto_exposure_priority) == 1.0
    _keep_color_rate(rs, source.device)
    assert sensor.get_option(rs.option.auto_exposure_priority) == 0.0


def test_a_busy_camera_is_explained() -> None:
    info = {"name": "Intel RealSense D435", "serial": "123"}
    busy = _start_message("xioctl(VIDIOC_S_FMT) failed, errno=16 Last Error: Device or resource busy", info)
    assert "D435 123 is in use by another process" in busy and "fuser" in busy
    assert "reconnect it" in _start_message("failed to set power state", info)


@pytest.mark.parametrize(
    ("serial", "wanted"), [(None, "no RealSense camera was found"), ("42", "no RealSense camera 42")]
)
def test_no_camera_is_reported_immediately(serial: str | None, wanted: str) -> None:
    if list(load_pyrealsense2().context().query_devices()):
        pytest.skip("a RealSense camera is connected")
    started_s = time.monotonic()
    with pytest.raises(UserError, match=rf"{wanted}.*video device.*--camera FILE\.db3"), RealSense(serial=serial):
        pass
    assert time.monotonic() - started_s < 1.0


OPEN_CAMERA = """
from edgefuse.errors import UserError
from edgefuse_runtime.cameras import open_camera
try:
    with open_camera("realsense"):
        pass
except UserError as error:
    print(error)
"""


def _opened(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin", **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_missing_package_names_its_command() -> None:
    output = _opened("import sys; sys.modules['pyrealsense2'] = None\n" + OPEN_CAMERA)
    assert "pip install 'edgefuse[realsense]'" in output
    assert "apt-get install libusb-1.0-0" in output


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="uses the loader's LD_LIBRARY_PATH")
def test_a_missing_libusb_names_its_command(tmp_path: Path) -> None:
    (tmp_path / "libusb-1.0.so.0").write_bytes(b"")  # found first, but not a library
    output = _opened(OPEN_CAMERA, LD_LIBRARY_PATH=str(tmp_path))
    assert "pyrealsense2 is installed but does not load" in output
    assert "apt-get install libusb-1.0-0" in output


def test_colour_and_depth_without_a_known_pose_are_refused() -> None:
    rs = load_pyrealsense2()
    device = rs.software_device()
    source = SoftwareCamera(width=64, height=48)
    sensor = device.add_sensor("Both")
    sensor.add_video_stream(source._stream("depth", focal_px=60.0))
    sensor.add_video_stream(source._stream("color", focal_px=60.0))
    sensor.add_read_only_option(rs.option.depth_units, 0.001)
    with (
        pytest.raises(UserError, match="has no extrinsics between its two streams"),
        RealSense(device=device, profiles=(PROFILE,), warmup_frames=0),
    ):
        pass
