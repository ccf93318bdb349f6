"""Recordings through the real pipeline: every frame arrives unchanged, and dropped ones are counted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import pytest
from runtime_scenes import Pair, draw_pair

from edgefuse.errors import UserError
from edgefuse_runtime.camera import EndOfStream, Frame, frames
from edgefuse_runtime.cameras import open_camera
from edgefuse_runtime.cameras.pyrealsense import load_pyrealsense2
from edgefuse_runtime.cameras.software_device import ColorFormat, SoftwareCamera
from edgefuse_runtime.recording.write_db3 import recorder


def _play(path: Path, **options: Any) -> list[Frame]:
    with open_camera(str(path), **options) as camera:
        return list(frames(camera))


def test_every_frame_comes_back_bit_for_bit(noise_recording: Path, noise_pairs: list[Pair]) -> None:
    with open_camera(str(noise_recording)) as camera:
        played = list(frames(camera))
        assert camera.description["color"] == {"width": 640, "height": 480, "fps": 120, "format": "rgb8"}
        assert camera.description["resampled"] is None
    assert len(played) == len(noise_pairs) > 40
    for number, (frame, (rgb, depth)) in enumerate(zip(played, noise_pairs, strict=True), start=1):
        assert frame.color_number == frame.depth_number == number
        assert np.array_equal(frame.rgb, rgb)
        assert np.array_equal(frame.depth, depth)
        assert frame.rgb.flags.owndata and frame.depth.flags.owndata
    assert (played[0].depth_unit_m, played[0].timestamp_domain) == (0.001, "recorded")
    assert played[1].timestamp_ms - played[0].timestamp_ms == pytest.approx(1000 / 120)


def test_a_slow_consumer_gets_every_frame(small_recording: Path) -> None:
    numbers = []
    with open_camera(str(small_recording)) as camera:
        for frame in frames(camera):
            numbers.append(frame.color_number)
            time.sleep(0.02)  # longer than the 1/60 s between frames
        assert camera.counters.dropped == 0
    assert numbers == list(range(1, 31))


def test_in_real_time_a_slow_consumer_sees_the_newest_and_drops_are_counted(small_recording: Path) -> None:
    with open_camera(str(small_recording), real_time=True) as camera:
        numbers = []
        for frame in frames(camera):
            numbers.append(frame.color_number)
            time.sleep(0.06)
        counters = camera.counters
    assert counters.delivered == len(numbers) < 20
    assert counters.received == numbers[-1] - numbers[0] + 1
    assert counters.received == counters.delivered + counters.dropped + counters.stale
    assert counters.dropped == counters.received - len(numbers) > 0


def test_the_end_is_not_a_time_out(small_recording: Path) -> None:
    with open_camera(str(small_recording)) as camera:
        for _ in range(30):
            assert camera.read(1000) is not None
        with pytest.raises(EndOfStream):
            camera.read(2000)
        assert camera.counters.timeouts == 0


def test_a_recording_can_be_closed_in_the_middle(noise_recording: Path) -> None:
    started_s = time.monotonic()
    with open_camera(str(noise_recording)) as camera:
        assert camera.read(1000) is not None
    assert time.monotonic() - started_s < 1.0
    with pytest.raises(RuntimeError, match="outside"):
        camera.read(10)


def _record_format(path: Path, color_format: ColorFormat, pixels: np.ndarray, **options: Any) -> Path:
    camera = SoftwareCamera(width=64, height=48, color_format=color_format, **options)
    depth = np.full((48, 64), 1000, np.uint16)
    with recorder(path, camera):
        for number in (1, 2):
            camera.send_depth(depth, number=number)
            camera.send_color(pixels, number=number)
    return path


@pytest.mark.parametrize("color_format", get_args(ColorFormat))
def test_colour_formats_become_rgb(color_format: ColorFormat, tmp_path: Path) -> None:
    rgb = np.zeros((48, 64, 3), np.uint8)
    rgb[:, :32], rgb[:, 32:] = (250, 120, 10), (20, 60, 200)
    to_format = {
        "rgb8": lambda: rgb,
        "bgr8": lambda: rgb[..., ::-1],
        "rgba8": lambda: np.dstack([rgb, np.full((48, 64), 7, np.uint8)]),
        "bgra8": lambda: np.dstack([rgb[..., ::-1], np.full((48, 64), 7, np.uint8)]),
        "yuyv": lambda: cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_YUY2),
        "uyvy": lambda: cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_UYVY),
    }
    frame = _play(_record_format(tmp_path / "colour.db3", color_format, to_format[color_format]()))[0]
    error = np.abs(frame.rgb.astype(int) - rgb).max()
    assert error <= (6 if color_format in ("yuyv", "uyvy") else 0)  # YUV has a lower colour resolution


def test_packed_colour_is_not_aligned_to_depth(tmp_path: Path) -> None:
    pixels = np.zeros((48, 64, 2), np.uint8)
    path = _record_format(tmp_path / "yuyv.db3", "yuyv", pixels, color_focal_px=500.0)
    with pytest.raises(UserError, match="yuyv, which cannot be aligned to depth"):
        _play(path, align="depth")
    assert _play(path, align="color")[0].rgb.shape == (48, 64, 3)


def test_views_that_differ_are_aligned(tmp_path: Path) -> None:
    """A colour camera with twice the focal length sees the central half of the depth image."""
    camera = SoftwareCamera(width=64, height=48, focal_px=60.0, color_focal_px=120.0)
    depth = np.full((48, 64), 800, np.uint16)
    depth[:12], depth[36:] = 1500, 1500  # outside of the colour camera's view
    rgb = np.full((48, 64, 3), 77, np.uint8)
    with recorder(tmp_path / "views.db3", camera):
        for number in (1, 2):
            camera.send_depth(depth, number=number)
            camera.send_color(rgb, number=number)
    to_color, to_depth = _play(tmp_path / "views.db3")[0], _play(tmp_path / "views.db3", align="depth")[0]
    assert set(np.unique(to_color.depth[2:-2, 2:-2])) == {800}
    assert np.array_equal(to_color.rgb, rgb)
    assert np.array_equal(to_depth.depth, depth)
    assert (to_depth.rgb[16:32, 20:44] == 77).all()
    assert (to_depth.rgb[:8] == 0).all()  # where the colour camera saw nothing


def test_the_depth_unit_comes_from_the_device(tmp_path: Path) -> None:
    camera = SoftwareCamera(width=64, height=48, depth_unit_m=0.00025)
    rgb, depth = draw_pair("near")
    with recorder(tmp_path / "fine.db3", camera):
        camera.send_depth(depth, number=1)
        camera.send_color(rgb, number=1)
    assert _play(tmp_path / "fine.db3")[0].depth_unit_m == 0.00025


def test_a_stalled_stream_in_a_recording_is_not_paired_with_its_old_image(tmp_path: Path) -> None:
    camera = SoftwareCamera(width=64, height=48)
    rgb, depth = draw_pair("near")
    with recorder(tmp_path / "stall.db3", camera):
        for number in range(1, 41):
            camera.send_depth(depth, number=number)
            if not 10 <= number < 22:
                camera.send_color(rgb, number=number)
    with open_camera(str(tmp_path / "stall.db3")) as playback:
        played = list(frames(playback))
        counters = playback.counters
    numbers = [(frame.color_number, frame.depth_number) for frame in played]
    assert numbers == [(number, number) for number in (*range(1, 10), *range(22, 41))]
    assert (counters.received, counters.delivered, counters.dropped, counters.stale) == (40, 28, 0, 12)


@pytest.mark.parametrize("name", ["broken.db3", "broken.bag"])
@pytest.mark.parametrize("content", [b"", b"not a recording" * 500])
def test_a_broken_file_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"cannot play .*{name}"):
        _play(tmp_path / name)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the recording .* does not exist"):
        _play(tmp_path / "nothing.db3")


def test_a_recording_without_colour_is_refused(tmp_path: Path) -> None:
    rs = load_pyrealsense2()
    whole = SoftwareCamera(width=64, height=48)
    path = tmp_path / "depth_only.db3"
    device = rs.recorder(str(path), whole.device)
    sensor = device.query_sensors()[0]
    sensor.open(sensor.get_stream_profiles())
    sensor.start(rs.frame_queue(1))
    whole.send_depth(np.ones((48, 64), np.uint16), number=1)
    sensor.stop()
    sensor.close()
    del sensor, device
    with pytest.raises(UserError, match="has Depth: a depth and a colour stream were expected"):
        _play(path)


def test_a_real_d435_recording(d435_bag: Path) -> None:
    """Depth with another focal length and position than colour, so that it must be aligned. Two depth images, one colour image."""
    with open_camera(str(d435_bag)) as camera:
        played = list(frames(camera))
        description, counters = camera.description, camera.counters
    assert (description["name"], description["resampled"]) == ("Intel RealSense D435", "depth")
    # Played before both streams were ready, depth 169 would be lost, and 170 paired with a colour image of 0.27 s before.
    assert [(frame.color_number, frame.depth_number) for frame in played] == [(162, 169)]
    assert (counters.received, counters.stale) == (2, 1)
    frame = played[0]
    assert frame.rgb.shape == (480, 640, 3) and frame.depth.shape == (480, 640)
    assert frame.timestamp_domain == "recorded"
    unmoved = _play(d435_bag, align="depth")[0]
    # Colour has the longer focal length, so aligned depth is an enlarged part of the raw one, with its holes.
    assert (frame.depth == unmoved.depth).mean() < 0.1
    assert 0.9 < (frame.depth > 0).mean() < 1.0
    assert np.median(frame.depth[frame.depth > 0]) == pytest.approx(np.median(unmoved.depth[120:360, 160:480]), rel=0.2)
    assert (unmoved.rgb.sum(axis=2) == 0).mean() > 0.2  # the edges that the colour camera does not see


def test_the_gestures_play_completely(gestures_recording: Path) -> None:
    played = _play(gestures_recording)
    assert [frame.color_number for frame in played] == list(range(1, 51))
    assert all(frame.rgb.shape == (480, 640, 3) for frame in played)
