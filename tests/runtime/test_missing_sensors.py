"""A sensor that stops sending images, or does not start: the other one goes on deciding. On librealsense's software device."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from capture_cameras import PROFILE
from runtime_scenes import draw_pair

from edgefuse.bundle import Bundle
from edgefuse.degraded_mode import DegradedMode
from edgefuse.errors import UserError
from edgefuse_runtime.camera import Frame, frames
from edgefuse_runtime.cameras import realsense
from edgefuse_runtime.cameras.frame_sync import FrameSync
from edgefuse_runtime.cameras.realsense import RealSense
from edgefuse_runtime.cameras.software_device import SoftwareCamera
from edgefuse_runtime.capture.capture import Capture
from edgefuse_runtime.capture.source import Source
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.live.loop import run_live
from edgefuse_runtime.results import Result
from edgefuse_runtime.sinks.lines import LinesSink
from logs import logged


def _camera(source: SoftwareCamera, *, allow_missing: bool = True) -> RealSense:
    return RealSense(device=source.device, profiles=(PROFILE,), warmup_frames=0, allow_missing=allow_missing)


def _sent(source: SoftwareCamera, *, color_gap: range = range(0), depth_gap: range = range(0)) -> list[Frame]:
    """The frames of pairs 1 to 40 without the images in the gaps."""
    seen = []
    with _camera(source) as camera:
        for number in range(1, 41):
            rgb, depth = draw_pair("near", brightness=number)
            if number not in depth_gap:
                source.send_depth(depth, number=number)
            if number not in color_gap:
                source.send_color(rgb, number=number)
            frame = camera.read(60)
            seen += [] if frame is None else [frame]
        counters = camera.counters
    assert (counters.received, counters.delivered) == (40, len(seen))
    assert counters.received == counters.delivered + counters.dropped + counters.stale
    return seen


@pytest.mark.parametrize("sensor", ["rgb", "depth"])
def test_a_sensor_that_stalls_is_missing_as_soon_as_librealsense_returns_the_other_one(sensor: str) -> None:
    gap = range(12, 24)
    source = SoftwareCamera(width=64, height=48)
    seen = _sent(source, **{"color_gap" if sensor == "rgb" else "depth_gap": gap})
    alone = [frame for frame in seen if frame.missing]
    assert {frame.missing for frame in alone} == {(sensor,)}
    numbers = [frame.depth_number if sensor == "rgb" else frame.color_number for frame in alone]
    # librealsense itself waits about seven frame times for the other image, and returns no frameset meanwhile.
    assert min(numbers) <= 20 and numbers == list(range(min(numbers), 24))
    for frame in seen:
        rgb, depth = draw_pair("near", brightness=int(frame.name))
        assert np.array_equal(frame.rgb, np.zeros_like(rgb) if frame.missing == ("rgb",) else rgb)
        assert np.array_equal(frame.depth, np.zeros_like(depth) if frame.missing == ("depth",) else depth)
        assert (frame.skew_ms is None) == bool(frame.missing)
    whole = [frame.color_number for frame in seen if not frame.missing]
    assert whole[:11] == list(range(1, 12)) and whole[-16:] == list(range(25, 41))


def test_both_stall_and_come_back() -> None:
    gap = range(10, 20)
    source = SoftwareCamera(width=64, height=48)
    with _camera(source) as camera:
        numbers = []
        for number in range(1, 31):
            if number not in gap:
                rgb, depth = draw_pair("near")
                source.send_depth(depth, number=number)
                source.send_color(rgb, number=number)
            frame = camera.read(40)
            numbers += [] if frame is None else [(frame.color_number, frame.missing)]
        counters = camera.counters
    assert numbers == [(number, ()) for number in range(1, 31) if number not in gap]
    assert (counters.received, counters.dropped, counters.stale) == (30, 10, 0)


@pytest.mark.parametrize("sensor", ["rgb", "depth"])
@pytest.mark.parametrize("color_focal_px", [None, 500.0], ids=["same view", "other view"])
def test_a_camera_without_a_sensor_starts_with_the_other_one(sensor: str, color_focal_px: float | None) -> None:
    """As librealsense 2.58 lists a camera of which a sensor has failed."""
    source = SoftwareCamera(width=64, height=48, color_focal_px=color_focal_px, without=sensor)
    with pytest.raises(UserError, match="supports none of these profiles"), _camera(source, allow_missing=False):
        pass
    seen = []
    with _camera(source) as camera:
        assert any("that sensor did not start" in warning for warning in camera.warnings)
        for number in range(1, 11):
            rgb, depth = draw_pair("near", brightness=number)
            if sensor == "depth":
                source.send_color(rgb, number=number)
            else:
                source.send_depth(depth, number=number)
            frame = camera.read(200)
            seen += [] if frame is None else [frame]
        counters = camera.counters
    assert len(seen) == 10 == counters.received == counters.delivered
    assert all(frame.missing == (sensor,) and frame.rgb.shape[:2] == frame.depth.shape == (48, 64) for frame in seen)
    assert all(frame.rgb.any() == (sensor == "depth") and frame.depth.any() == (sensor == "rgb") for frame in seen)


@pytest.mark.parametrize("sensor", ["rgb", "depth"])
def test_a_sensor_that_never_sends_an_image(sensor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both streams start, but librealsense returns no frameset while one of them is silent."""
    monkeypatch.setattr(realsense, "WARMUP_LIMIT_S", 1.0)
    source = SoftwareCamera(width=64, height=48)
    done = threading.Event()

    def send() -> None:
        number = 0
        while not done.wait(1 / 60):
            number += 1
            rgb, depth = draw_pair("near")
            if sensor == "rgb":
                source.send_depth(depth, number=number)
            else:
                source.send_color(rgb, number=number)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        with RealSense(device=source.device, profiles=(PROFILE,), warmup_frames=3, allow_missing=True) as camera:
            frame = camera.read(1000)
            assert frame is not None and frame.missing == (sensor,)
            assert any("sensor sends no images" in warning for warning in camera.warnings)
    finally:
        done.set()
        thread.join()


def test_a_camera_that_never_sends_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(realsense, "WARMUP_LIMIT_S", 0.3)
    device = SoftwareCamera(width=64, height=48).device
    with (
        pytest.raises(UserError, match="has started, but sends no images"),
        RealSense(device=device, profiles=(PROFILE,), warmup_frames=3, allow_missing=True),
    ):
        pass


def test_live_goes_on_with_the_other_sensor_as_the_bundle_says(bundle: Bundle) -> None:
    """In the capture process: colour stalls, then depth."""
    gaps = {"color_gaps": [[20, 50]], "depth_gaps": [[70, 100]]}
    source = Source(factory="capture_cameras:SoftwareRealSense", arguments=gaps, is_live=True)
    mode = DegradedMode(no_rgb="predict", no_depth="abstain")
    results: list[Result] = []

    class Keep(LinesSink):
        def result(self, result: Result, frame: Frame | None) -> None:
            results.append(result)

    with open_engine(bundle) as engine, Capture(source, align="color") as camera, logged() as lines:
        summary = run_live(
            engine=engine, camera=camera, degraded_mode=mode, sinks=[Keep(io.StringIO())], num_frames=100
        )
    states = [(result.sensors.rgb, result.sensors.depth) for result in results]
    assert {("ok", "ok"), ("missing", "ok"), ("ok", "missing")} >= set(states)
    assert states.count(("missing", "ok")) >= 15 <= states.count(("ok", "missing"))
    for result in results:
        assert (result.label is None) == (result.sensors.depth == "missing")
    assert summary.received == summary.processed + summary.dropped + summary.stale + summary.unfinished
    assert summary.stale <= 8  # two or three for each stall
    assert [line for line in lines if "sensor" in line] == [
        "warning: the colour sensor sends no images: it counts as missing until it sends images again",
        "warning: both sensors of the camera send images again",
        "warning: the depth sensor sends no images: it counts as missing until it sends images again",
        "warning: both sensors of the camera send images again",
    ]


def test_the_clock_domain_may_change() -> None:
    source = SoftwareCamera(width=64, height=48, domain="global_time")
    seen = []
    with _camera(source) as camera:
        for number in range(1, 31):
            if number == 11:
                source.domain = "hardware_clock"
            rgb, depth = draw_pair("near")
            time_ms = (time.time() * 1e3 if number <= 10 else 0.0) + number * 33.3
            source.send_depth(depth, number=number, timestamp_ms=time_ms)
            source.send_color(rgb, number=number, timestamp_ms=time_ms)
            frame = camera.read(200)
            seen += [] if frame is None else [frame]
    assert [frame.color_number for frame in seen] == list(range(1, 31))
    assert [frame.timestamp_domain for frame in seen] == ["global"] * 10 + ["hardware"] * 20


def test_a_sensor_that_never_came_up_is_used_after_a_restart(bundle: Bundle, tmp_path: Path) -> None:
    """At the first opening the colour sensor sends nothing, so that only depth is started; after the restart it sends."""
    source = Source(factory="capture_cameras:SoftwareRealSense", arguments={"folder": str(tmp_path)}, is_live=True)
    with logged() as lines, Capture(source, align="color") as camera:
        seen = [frame.missing for frame in frames(camera, num_frames=40, patience_s=60)]
        assert camera.state.name == "running" and camera.description["color"]["width"] == 64
    assert seen[:10] == [("rgb",)] * 10 and seen[-10:] == [()] * 10
    assert lines[0] == "warning: the colour sensor sends no images"
    words = ["counts as missing", "is lost: the camera stopped", "streams have changed", "is back after"]
    assert [word for line, word in zip(lines[1:], words, strict=True) if word not in line] == []


@pytest.mark.parametrize("streams", [("color", "depth"), ("color",), ("depth",)], ids="+".join)
def test_timestamps_that_jump_back(streams: tuple[str, ...]) -> None:
    """An hour back after ten frames, of both streams or one: no pair is lost, and the difference is shown."""
    source = SoftwareCamera(width=64, height=48, domain="global_time")
    seen = []
    with _camera(source) as camera:
        for number in range(1, 61):
            rgb, depth = draw_pair("near", brightness=number % 50)
            times_ms = {
                name: 1e12 + number * 1000 / 30 - (3_600_000 if number > 10 and name in streams else 0)
                for name in ("color", "depth")
            }
            source.send_depth(depth, number=number, timestamp_ms=times_ms["depth"])
            source.send_color(rgb, number=number, timestamp_ms=times_ms["color"])
            frame = camera.read(200)
            seen += [] if frame is None else [frame]
        counters = camera.counters
    assert counters.received == counters.delivered == 60
    assert [(frame.color_number, frame.depth_number) for frame in seen] == [(n, n) for n in range(1, 61)]
    assert seen[-1].skew_ms == pytest.approx(0 if len(streams) == 2 else 3_600_000, abs=1)


def test_the_clock_wrap_of_older_sdks_is_shown() -> None:
    """After 71.6 minutes a 32-bit counter of microseconds wraps; before 2.58.4 one stream's global time stayed behind."""
    wrap_ms = 2**32 / 1e3
    source = SoftwareCamera(width=64, height=48, domain="global_time")
    seen = []
    with _camera(source) as camera:
        for number in range(1, 61):
            rgb, depth = draw_pair("near")
            time_ms = wrap_ms - 1000 + number * 1000 / 30
            source.send_depth(depth, number=number, timestamp_ms=time_ms)
            source.send_color(rgb, number=number, timestamp_ms=time_ms if time_ms < wrap_ms else time_ms - wrap_ms)
            frame = camera.read(200)
            seen += [] if frame is None else [frame]
        counters = camera.counters
    assert len(seen) == 60 and counters.skewed == 31
    assert [round(frame.skew_ms or 0) for frame in seen] == [0] * 29 + [round(wrap_ms)] * 31


def test_images_of_another_size_in_the_middle_of_the_stream() -> None:
    source = SoftwareCamera(width=64, height=48)
    sizes = []
    with _camera(source) as camera:
        for number in range(1, 21):
            source.width, source.height = (64, 48) if number <= 10 else (32, 24)
            shape = (source.height, source.width)
            source.send_depth(np.full(shape, number, np.uint16), number=number)
            source.send_color(np.full((*shape, 3), number, np.uint8), number=number)
            frame = camera.read(200)
            sizes += [] if frame is None else [(frame.rgb.shape[:2], frame.depth.shape)]
    assert sizes[:10] == [((48, 64), (48, 64))] * 10
    assert all(rgb == depth for rgb, depth in sizes)


@pytest.mark.parametrize("sensor", ["rgb", "depth"])
def test_when_a_stream_comes_back_no_image_is_used_twice(sensor: str) -> None:
    class Shot:
        def __init__(self, number: int) -> None:
            self.number, self.timestamp_ms = number, number * 33.3

        def has_equal_pixels(self, other: Shot) -> bool:
            return self.number == other.number

    sync: FrameSync[Shot] = FrameSync(missing_after=3)
    used: list[tuple[int, str]] = []
    for live, stalled in ((1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (5, 5), (6, 6), (7, 6), (8, 8)):
        pair = {"color": Shot(stalled), "depth": Shot(live)}
        if sensor == "depth":
            pair = {"color": pair["depth"], "depth": pair["color"]}
        if sync.is_fresh(**pair):
            used.append((live, "both"))
        elif sync.stalled is not None:
            used.append((live, sync.stalled))
    assert used == [(1, "both"), (4, sensor), (5, sensor), (6, "both"), (8, "both")]
    counters = sync.counters
    assert (counters.received, counters.delivered, counters.stale, counters.dropped) == (8, 5, 3, 0)
