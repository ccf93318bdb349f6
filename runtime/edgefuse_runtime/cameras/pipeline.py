"""Reading a started librealsense pipeline: wait, skip stale pairs, align, copy, release. For cameras and recordings."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import DEPTH_UNIT_M, Align
from edgefuse.errors import UserError
from edgefuse_runtime.camera import Counters, EndOfStream, Frame, Sensor, TimestampDomain
from edgefuse_runtime.cameras.alignment import Aligner, Allocate, check_color_format, depth_from, rgb_from, zeros
from edgefuse_runtime.cameras.frame_sync import FrameSync

WAIT_SLICE_MS = 50
"""Time-out of one wait in the SDK: its stop blocks until the wait returns, and the end of a recording is detected between waits."""

MISSING_AFTER = 3
"""A sensor is missing if it sends no image for this many frame times while the other one does."""

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

    def __init__(
        self,
        rs: Any,
        *,
        pipeline: Any,
        align: Align,
        has_ended: Callable[[], bool] | None = None,
        allow_missing: bool = False,
        allocate: Allocate = np.empty,
    ) -> None:
        """Read the stream profiles of the pipeline.

        Args:
            rs: the pyrealsense2 module.
            pipeline: started, with one depth and one colour stream, or with one of them if `allow_missing`.
            has_ended: returns whether the recording has ended; None = a live camera.
            allow_missing: also return the images of one sensor, while the other one sends none.
            allocate: returns the arrays of the frames.

        Raises:
            UserError: the streams cannot be aligned.
        """
        profile = pipeline.get_active_profile()
        depth_profile, color_profile = _profile(profile, rs.stream.depth), _profile(profile, rs.stream.color)
        self._rs = rs
        self._pipeline = pipeline
        self._align: Align = align
        self._has_ended = has_ended
        self._allocate = allocate
        self._aligner: Aligner | None = None
        self._absent: Sensor | None = None  # a sensor that did not start
        self.depth_unit_m = DEPTH_UNIT_M
        if depth_profile is not None and color_profile is not None:
            self._aligner = Aligner(rs, align=align, depth_profile=depth_profile, color_profile=color_profile)
        else:
            self._absent = "depth" if depth_profile is None else "rgb"
        if color_profile is not None:
            self._color_format: str = color_profile.format().name
            check_color_format(self._color_format, resampled=self.resampled == "color")
        if depth_profile is not None:
            # The SDK stores the scale as float32: 0.001 is read as 0.0010000000475.
            self.depth_unit_m = round(float(profile.get_device().first_depth_sensor().get_depth_scale()), 9)
        rates = [max(1, int(stream.fps())) for stream in (depth_profile, color_profile) if stream is not None]
        self._half_period_ms = 500 / min(rates)
        missing_after = MISSING_AFTER * max(rates) / min(rates) if allow_missing else math.inf
        self._frame_sync: FrameSync[SdkImage] = FrameSync(
            period_ms=2 * self._half_period_ms, missing_after=missing_after
        )
        self._num_skewed = 0

    @property
    def newest(self) -> tuple[SdkImage, ...]:
        """The newest colour and depth image, in fresh or stale pairs."""
        return self._frame_sync.newest

    @property
    def resampled(self) -> Align | None:
        """The stream that is resampled to align it to the other one; None if neither is."""
        return None if self._aligner is None else self._aligner.resamples

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
            stream = _profile(profile, getattr(self._rs.stream, name))
            if stream is None:
                continue
            video = stream.as_video_stream_profile()
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
            "resampled": self.resampled,
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

    def skip(self, num_framesets: int, *, timeout_s: float) -> int:
        """Discard framesets without counting them, for at most `timeout_s` seconds. Returns how many."""
        deadline_s = time.monotonic() + timeout_s
        skipped = 0
        while skipped < num_framesets and time.monotonic() < deadline_s:
            skipped += self._wait(WAIT_SLICE_MS) is not None
        return skipped

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
        # A sensor that did not start is counted as if its images came with those of the other one.
        color, depth = (color or depth, depth or color) if self._absent is not None else (color, depth)
        if not color or not depth:
            return None
        images = SdkImage.of(color), SdkImage.of(depth)
        domains = [color.get_frame_timestamp_domain(), depth.get_frame_timestamp_domain()]
        same_clock = domains[0] == domains[1]
        missing = self._absent
        if not self._frame_sync.is_fresh(color=images[0], depth=images[1], same_clock=same_clock):
            missing = missing or self._frame_sync.stalled
            if self._frame_sync.stalled is None:
                return None
        skew_ms = abs(images[0].timestamp_ms - images[1].timestamp_ms) if same_clock and missing is None else None
        if skew_ms is not None:
            self._count_skew(skew_ms)
        used = {"rgb": images[1:], "depth": images[:1], None: images}[missing]
        rgb, depth_codes = self._copied(frameset, missing)
        return Frame(
            rgb=rgb,
            depth=depth_codes,
            depth_unit_m=self.depth_unit_m,
            align=self._align,
            color_number=images[0].number,
            depth_number=images[1].number,
            timestamp_ms=min(image.timestamp_ms for image in used),
            timestamp_domain=self._domain(*(domains if missing is None else [domains[missing == "rgb"]])),
            arrival_ns=arrival_ns,
            ready_ns=time.perf_counter_ns(),
            name=str(used[0].number),
            skew_ms=skew_ms,
            missing=() if missing is None else (missing,),
        )

    def _copied(self, frameset: Any, missing: Sensor | None) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
        """The aligned images. Copied immediately: retained frames exhaust the SDK's frame pool, and the stream stops."""
        allocate = self._allocate
        is_needed = self._aligner is not None and (missing is None or self.resampled == _STREAMS[_other(missing)])
        aligned = self._aligner(frameset) if self._aligner is not None and is_needed else frameset
        color, depth = aligned.get_color_frame(), aligned.get_depth_frame()
        if missing == "rgb":
            codes = depth_from(depth, allocate=allocate)
            return zeros((*codes.shape, 3), np.uint8, allocate=allocate), codes
        rgb = rgb_from(color, color_format=self._color_format, allocate=allocate)
        if missing == "depth":
            return rgb, zeros(rgb.shape[:2], np.uint16, allocate=allocate)
        codes = depth_from(depth, allocate=allocate)
        if codes.shape != rgb.shape[:2]:
            raise UserError(
                f"the size of the images has changed: colour has {rgb.shape[1]}x{rgb.shape[0]} pixels, depth {codes.shape[1]}x"
                f"{codes.shape[0]}. Reconnect the camera"
            )
        return rgb, codes

    def _count_skew(self, skew_ms: float) -> None:
        """Count pairs with a lasting time difference, such as after the wrap of a clock (librealsense before 2.58.4)."""
        self._num_skewed = self._num_skewed + 1 if skew_ms > self._half_period_ms else 0
        if self._num_skewed >= SKEWED_AFTER:
            self.counters.skewed += SKEWED_AFTER if self._num_skewed == SKEWED_AFTER else 1

    def _domain(self, *sdk_domains: Any) -> TimestampDomain:
        if self._has_ended is not None:
            return "recorded"
        domains = self._rs.timestamp_domain
        names: dict[Any, TimestampDomain] = {
            domains.global_time: "global",
            domains.system_time: "system",
            domains.hardware_clock: "hardware",
        }
        # Only in the global and system domains, get_timestamp is on the host's clock. With two domains it has no meaning.
        return names.get(sdk_domains[0], "none") if len(set(sdk_domains)) == 1 else "none"


_STREAMS: dict[Sensor, Align] = {"rgb": "color", "depth": "depth"}


def _other(sensor: Sensor) -> Sensor:
    return "depth" if sensor == "rgb" else "rgb"


def _profile(active: Any, stream: Any) -> Any | None:
    """The active profile of a stream, or None."""
    return next((profile for profile in active.get_streams() if profile.stream_type() == stream), None)
