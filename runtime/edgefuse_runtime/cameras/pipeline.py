"""Reading a started librealsense pipeline: wait, refuse stale pairs, align, copy, release.

Owns the reading loop that live cameras and recordings share; only those two modules import it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from edgefuse.contract import Align
from edgefuse.errors import UserError
from edgefuse_runtime.cameras.pictures import Aligner, check_color_format, depth_from, rgb_from
from edgefuse_runtime.cameras.tally import Tally
from edgefuse_runtime.frames import Counters, EndOfStream, Frame, TimestampDomain

WAIT_SLICE_MS = 50
"""One wait of the SDK. Its stop waits for a running wait, and the end of a recording shows only between waits."""


class PipelineReader:
    """Frames of a started pipeline. It owns nothing: who started the pipeline stops it."""

    def __init__(self, rs: Any, *, pipeline: Any, align: Align, has_ended: Callable[[], bool] | None = None) -> None:
        """Look at what the pipeline streams.

        Args:
            rs: the pyrealsense2 module.
            pipeline: started, with one depth and one colour stream.
            has_ended: tells whether a recording is at its end; None = the source is live.

        Raises:
            UserError: the streams cannot become an aligned pair.
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
        # The SDK keeps the scale as a float32: 0.001 comes as 0.0010000000475.
        self.depth_unit_m = round(float(profile.get_device().first_depth_sensor().get_depth_scale()), 9)
        self._tally = Tally()

    @property
    def counters(self) -> Counters:
        """Counts of the pairs read so far."""
        return self._tally.counters

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
        """The next fresh pair, or None when there was none within `timeout_ms` milliseconds.

        Raises:
            EndOfStream: the recording is at its end.
            UserError: the device failed.
        """
        deadline_ns = time.perf_counter_ns() + timeout_ms * 1_000_000
        while True:
            # Asked before the wait: a recording that had ended by then has nothing more to put into it.
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
        """Throw the first framesets away, uncounted; gives up after `timeout_s` seconds."""
        deadline_s = time.monotonic() + timeout_s
        skipped = 0
        while skipped < num_framesets and time.monotonic() < deadline_s:
            skipped += self._wait(WAIT_SLICE_MS) is not None

    def _wait(self, timeout_ms: int) -> Any | None:
        try:
            arrived, frameset = self._pipeline.try_wait_for_frames(timeout_ms)
        except RuntimeError as error:
            raise UserError(f"the camera stopped: {error}. Plug it in again, then start again") from error
        return frameset if arrived else None

    def _frame_from(self, frameset: Any, *, arrival_ns: int) -> Frame | None:
        color, depth = frameset.get_color_frame(), frameset.get_depth_frame()
        if not color or not depth:
            return None
        color_number, depth_number = color.get_frame_number(), depth.get_frame_number()
        if not self._tally.is_fresh(color_number=color_number, depth_number=depth_number):
            return None
        timestamp_ms = min(color.get_timestamp(), depth.get_timestamp())
        domain = self._domain(color, depth)
        aligned = self._aligner(frameset)
        # Copied at once: frames that are held starve the SDK's pool until the stream stops.
        rgb = rgb_from(aligned.get_color_frame(), color_format=self._color_format)
        depth_codes = depth_from(aligned.get_depth_frame())
        return Frame(
            rgb=rgb,
            depth=depth_codes,
            depth_unit_m=self.depth_unit_m,
            align=self._align,
            color_number=color_number,
            depth_number=depth_number,
            timestamp_ms=timestamp_ms,
            timestamp_domain=domain,
            arrival_ns=arrival_ns,
            ready_ns=time.perf_counter_ns(),
            name=str(color_number),
        )

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
        # get_timestamp is on the host's clock in the global and system domains alone; on two clocks it says nothing.
        return names.get(domain, "none") if domain == depth.get_frame_timestamp_domain() else "none"
