"""Reading a started librealsense pipeline: wait, skip stale pairs, align, copy, release. For cameras and recordings."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgefuse.contract import Align
from edgefuse.errors import UserError
from edgefuse_runtime.camera import Counters, EndOfStream, Frame, TimestampDomain
from edgefuse_runtime.cameras.alignment import Aligner, check_color_format, depth_from, rgb_from
from edgefuse_runtime.cameras.frame_sync import FrameSync

WAIT_SLICE_MS = 50
"""Time-out of one wait in the SDK: its stop blocks until the wait returns, and the end of a recording is detected between waits."""

SKEWED_AFTER = 10
"""Count skewed pairs only in runs of at least this many: single ones have other causes."""


@dataclass(frozen=True)
class SdkImage:
    """A colour or depth frame of the SDK as an `edgefuse_runtime.cameras.frame_sync.StreamImage`.

    `FrameSync` retains one of each stream, so that its buffer is not reused: equal addresses mean the same image.
    """

    frame: Any
    number: int
    timestamp_ms: float

    @classmethod
    def of(cls, frame: Any) -> SdkImage:
        """Wrap `frame`."""
        return cls(frame, frame.get_frame_number(), frame.get_timestamp())

    def has_equal_pixels(self, other: SdkImage) -> bool:
        mine, others = np.asarray(self.frame.get_data()), np.asarray(other.frame.get_data())
        return mine.ctypes.data == others.ctypes.data or np.array_equal(mine, others)


def stop(pipeline: Any) -> None:
    """Stop a pipeline. If the SDK has already stopped it, ignore the error: the original one is more useful."""
    with contextlib.suppress(RuntimeError):
        pipeline.stop()


class PipelineReader:
    """Frames of a started pipeline. The caller owns and stops the pipeline."""

    def __init__(self, rs: Any, *, pipeline: Any, align: Align, has_ended: Callable[[], bool] | None = None) -> None:
        """Read the stream profiles of the pipeline.

        Args:
            rs: the pyrealsense2 module.
            pipeline: started, with one depth and one colour stream.
            has_ended: returns whether the recording has ended; None = a live camera.

        Raises:
            UserError: the streams cannot be aligned.
        """
        profile = pipeline.get_active_profile()
        depth_profile, color_profile = profile.get_stream(rs.stream.depth), profile.get_stream(rs.stream.color)
        self._rs = rs
        self._pipeline = pipeline
        self._align: Align = align
        self._has_ended = has_ended
        self._aligner = Aligner(rs, align=align, depth_profile=depth_profile, color_profile=color_profile)
        self._color_format: str = color_profile.format().name
        check_color_format(self._color_format, resampled=self._aligner.resamples == "color")
        # The SDK stores the scale as float32: 0.001 is read as 0.0010000000475.
        self.depth_unit_m = round(float(profile.get_device().first_depth_sensor().get_depth_scale()), 9)
        self._half_period_ms = 500 / max(1, min(_fps(depth_profile), _fps(color_profile)))
        self._frame_sync: FrameSync[SdkImage] = FrameSync(period_ms=2 * self._half_period_ms)
        self._num_skewed = 0

    @property
    def newest(self) -> tuple[SdkImage, ...]:
        """The newest colour and depth image, in fresh or stale pairs."""
        return self._frame_sync.newest

    def close(self) -> None:
        """Release the SDK's frames."""
        self._frame_sync.forget_images()

    @property
    def counters(self) -> Counters:
        """Counts of the pairs so far."""
        return self._frame_sync.counters

    def describe(self) -> dict[str, Any]:
        """The streams as JSON values: sizes, rates, formats, depth unit, and which stream is resampled."""
        profile = self._pipeline.get_active_profile()
        streams = {}
        for name in ("depth", "color"):
            video = profile.get_stream(getattr(self._rs.stream, name)).as_video_stream_profile()
            streams[name] = {
                "width": video.width(),
                "height": video.height(),
                "fps": video.fps(),
                "format": video.format().name,
            }
        return {
            **streams,
            "depth_unit_m": self.depth_unit_m,
            "align": self._align,
            "resampled": self._aligner.resamples,
        }

    def read(self, timeout_ms: int) -> Frame | None:
        """The next fresh pair, or None if none arrived within `timeout_ms` milliseconds.

        Raises:
            EndOfStream: the recording has ended.
            UserError: the device failed.
        """
        deadline_ns = time.perf_counter_ns() + timeout_ms * 1_000_000
        while True:
            # Checked before the wait: if the recording has already ended, an empty wait means that no pair is left.
            ended = self._has_ended is not None and self._has_ended()
            left_ms = (deadline_ns - time.perf_counter_ns()) // 1_000_000
            frameset = self._wait(max(1, min(WAIT_SLICE_MS, left_ms)))
            if frameset is not None:
                frame = self._frame_from(frameset, arrival_ns=time.perf_counter_ns())
                if frame is not None:
                    return frame
            elif ended:
                raise EndOfStream
            if time.perf_counter_ns() >= deadline_ns:
                self.counters.timeouts += 1
                return None

    def skip(self, num_framesets: int, *, timeout_s: float) -> None:
        """Discard framesets without counting them; return after `timeout_s` seconds at the latest."""
        deadline_s = time.monotonic() + timeout_s
        skipped = 0
        while skipped < num_framesets and time.monotonic() < deadline_s:
            skipped += self._wait(WAIT_SLICE_MS) is not None

    def _wait(self, timeout_ms: int) -> Any | None:
        try:
            arrived, frameset = self._pipeline.try_wait_for_frames(timeout_ms)
        except RuntimeError as error:
            if self._has_ended is not None:
                raise UserError(f"playback stopped: {error}") from error
            raise UserError(f"the camera stopped: {error}. Reconnect it, then try again") from error
        return frameset if arrived else None

    def _frame_from(self, frameset: Any, *, arrival_ns: int) -> Frame | None:
        color, depth = frameset.get_color_frame(), frameset.get_depth_frame()
        if not color or not depth:
            return None
        images = SdkImage.of(color), SdkImage.of(depth)
        same_clock = color.get_frame_timestamp_domain() == depth.get_frame_timestamp_domain()
        if not self._frame_sync.is_fresh(color=images[0], depth=images[1], same_clock=same_clock):
            return None
        times_ms = [image.timestamp_ms for image in images]
        domain = self._domain(color, depth)
        if same_clock:
            self._count_skew(abs(times_ms[0] - times_ms[1]))
        aligned = self._aligner(frameset)
        # Copied immediately: retained frames exhaust the SDK's frame pool, and the stream stops.
        rgb = rgb_from(aligned.get_color_frame(), color_format=self._color_format)
        depth_codes = depth_from(aligned.get_depth_frame())
        return Frame(
            rgb=rgb,
            depth=depth_codes,
            depth_unit_m=self.depth_unit_m,
            align=self._align,
            color_number=images[0].number,
            depth_number=images[1].number,
            timestamp_ms=min(times_ms),
            timestamp_domain=domain,
            arrival_ns=arrival_ns,
            ready_ns=time.perf_counter_ns(),
            name=str(images[0].number),
        )

    def _count_skew(self, skew_ms: float) -> None:
        """Count pairs with a lasting time difference, such as after the wrap of a clock (librealsense before 2.58.4)."""
        self._num_skewed = self._num_skewed + 1 if skew_ms > self._half_period_ms else 0
        if self._num_skewed >= SKEWED_AFTER:
            self.counters.skewed += SKEWED_AFTER if self._num_skewed == SKEWED_AFTER else 1

    def _domain(self, color: Any, depth: Any) -> TimestampDomain:
        if self._has_ended is not None:
            return "recorded"
        domains = self._rs.timestamp_domain
        names: dict[Any, TimestampDomain] = {
            domains.global_time: "global",
            domains.system_time: "system",
            domains.hardware_clock: "hardware",
        }
        domain = color.get_frame_timestamp_domain()
        # Only in the global and system domains, get_timestamp is on the host's clock. With two domains it has no meaning.
        return names.get(domain, "none") if domain == depth.get_frame_timestamp_domain() else "none"


def _fps(profile: Any) -> int:
    return int(profile.fps())
