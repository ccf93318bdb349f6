"""A RealSense recording (.db3, or .bag from librealsense before 2.58) as a camera, played through the SDK's pipeline."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from edgefuse.contract import Align
from edgefuse.errors import UserError
from edgefuse_runtime.camera import Counters, EndOfStream, Frame
from edgefuse_runtime.cameras.alignment import Allocate
from edgefuse_runtime.cameras.db3_file import DamagedError, RecordingFile, check_description, cut_off
from edgefuse_runtime.cameras.pipeline import PipelineReader, stop
from edgefuse_runtime.cameras.pyrealsense import load_pyrealsense2
from edgefuse_runtime.cameras.recording_info import has_index

SUFFIXES = (".db3", ".bag")

MAX_UNSEEN_MS = 1000.0
"""In real time, the last images of a recording may be dropped, up to this duration."""


class Playback:
    """A recording, played once. A damaged one ends with an error at the damage.

    By default no frame is dropped, however slow the consumer is. In real time the pipeline keeps only the newest pair, as with a
    camera, and dropped pairs are counted.
    """

    def __init__(
        self,
        path: Path,
        *,
        align: Align = "color",
        real_time: bool = False,
        allow_missing: bool = False,
        allocate: Allocate = np.empty,
    ) -> None:
        """Choose the file; `with` opens it. `allow_missing` and `allocate`: see `PipelineReader`."""
        self._path = path
        self._align: Align = align
        self._reader_options: dict[str, Any] = {"allow_missing": allow_missing, "allocate": allocate}
        self._real_time = real_time
        self._pipeline: Any = None
        self._playback: Any = None
        self._reader: PipelineReader | None = None
        self._file: RecordingFile | None = None
        self._times_ms: list[float] = []
        self._num_returned = 0
        self._resume: threading.Thread | None = None
        self._counters = Counters()
        self._description: dict[str, Any] = {"kind": "recording", "path": str(path), "real_time": real_time}

    @property
    def align(self) -> Align:
        return self._align

    @property
    def description(self) -> dict[str, Any]:
        return self._description

    @property
    def counters(self) -> Counters:
        return self._counters

    def __enter__(self) -> Playback:
        rs = load_pyrealsense2()
        pipeline, config = rs.pipeline(), rs.config()
        try:
            _check_file(rs, self._path)
            config.enable_device_from_file(str(self._path.absolute()), repeat_playback=False)
            wrapper = rs.pipeline_wrapper(pipeline)
            indexes = _enable_pair(rs, config, config.resolve(wrapper).get_device(), self._path)
            if self._path.suffix.lower() == ".db3":
                self._file = RecordingFile(self._path, **indexes)  # a .bag is checked by librealsense 2.59 itself
            # Enabling streams resets the config's device, so resolve it again.
            device = config.resolve(wrapper).get_device()
            playback = device.as_playback()
            playback.set_real_time(self._real_time)
            # Paused until both streams have started: playback begins with the first, and on a busy machine much or all of the
            # file may have played before the second starts (playback_device.cpp: "not longer active, frame dropped").
            playback.pause()
            pipeline.start(config)
        except DamagedError as error:
            raise UserError(f"{self._path} is damaged: {error}") from error
        except RuntimeError as error:
            self._close_file()
            raise _refused(rs, self._path, error) from error
        try:
            reader = PipelineReader(
                rs, pipeline=pipeline, align=self._align, has_ended=self._has_ended, **self._reader_options
            )
            if not 0 < reader.depth_unit_m < math.inf:
                raise UserError(f"{self._path} is damaged: its depth unit (Depth_Units) is {reader.depth_unit_m} m")
        except BaseException:
            self._close_file()
            stop(pipeline)
            raise
        self._pipeline, self._playback = pipeline, playback
        self._reader, self._counters = reader, reader.counters
        self._times_ms, self._num_returned = [], 0
        # In a separate thread, because it may block until the first frames are read (at most 10 s, with an error in the log).
        self._resume = threading.Thread(target=playback.resume, name="playback-resume", daemon=True)
        self._resume.start()
        info = rs.camera_info
        self._description |= {
            "name": device.get_info(info.name) if device.supports(info.name) else "unknown",
            "duration_s": round(playback.get_duration().total_seconds(), 3),
            **reader.describe(),
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_file()
        if self._pipeline is None or self._resume is None:
            return
        if self._reader is not None:
            self._reader.close()
        stop(self._pipeline)
        self._resume.join()
        # Pausing waits until the SDK's reading thread has finished. Deleting the device earlier terminates the process ("pure
        # virtual method called", about 1 in 300 times on a busy machine).
        self._playback.pause()
        # Released here, in this thread: the garbage collector would delete the SDK's objects at any time, in any thread.
        self._reader = self._resume = self._pipeline = self._playback = None

    def read(self, timeout_ms: int) -> Frame | None:
        """See `Camera.read`."""
        if self._reader is None:
            raise RuntimeError("read outside of `with`")
        try:
            # Check the next pair before the wait, so that its latency excludes the check. In real time, then check the pairs up
            # to the one that arrived.
            self._check(self._counters.received + 1)
            frame = self._reader.read(timeout_ms)
            self._check(self._counters.received)
        except EndOfStream:
            self._check_end()
            raise
        except DamagedError as error:
            raise self._damaged(str(error)) from error
        if frame is not None:
            self._num_returned += 1
            self._times_ms = [*self._times_ms[:1], frame.timestamp_ms]
        return frame

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _check(self, num_pairs: int | None) -> None:
        if self._file is not None:
            self._file.check(num_pairs)

    def _check_end(self) -> None:
        """At the end of the stream, check that it is the end of the recording."""
        if self._file is None or self._reader is None:
            return
        try:
            self._file.check(None)
        except DamagedError as error:
            raise self._damaged(str(error)) from error
        last, newest = self._file.last(), self._reader.newest
        allowed_ms = MAX_UNSEEN_MS if self._real_time else 1.0
        seen = [
            last[stream][0] == image.number or abs(last[stream][1] - image.timestamp_ms) <= allowed_ms
            for stream, image in zip(("colour", "depth"), newest, strict=False)
            if stream in last
        ]
        # One stream may be longer than the other: its last images have no partner, and need not arrive.
        if last and not any(seen):
            raise self._damaged("the rest does not play")

    def _damaged(self, what: str) -> UserError:
        num_frames = self._file.num_frames() if self._file is not None else None
        played_s = (self._times_ms[-1] - self._times_ms[0]) / 1e3 if self._times_ms else 0.0
        seen, frames = self._counters.received, f"{self._num_returned}"
        missing = ""
        if num_frames is not None:
            frames = f"{self._num_returned} of {num_frames}"
            missing = f"; {max(num_frames - seen, 0)} frames are missing"
        return UserError(
            f"{self._path} is damaged: stopped after {frames} frames ({played_s:.2f} s of "
            f"{self._description['duration_s']:.2f} s), {what}{missing}"
        )

    def _has_ended(self) -> bool:
        # The status is also "stopped" before playback has begun.
        has_begun = self._resume is not None and not self._resume.is_alive()
        return has_begun and self._playback.current_status().name == "stopped"


def _check_file(rs: Any, path: Path) -> None:
    """Refuse a file that does not exist, or in which librealsense would hang."""
    if not path.is_file():
        raise UserError(f"the recording {path} does not exist: give the path of a .db3 or .bag file")
    if path.suffix.lower() == ".db3":
        check_description(path, is_option=lambda name: str(rs.option_from_string(name)) == name)


def _refused(rs: Any, path: Path, error: RuntimeError) -> UserError:
    """The error for a file that librealsense does not open."""
    missing = None
    if path.suffix.lower() == ".db3":
        missing = cut_off(path)
    elif not has_index(path):
        missing = "it has no index: the recording ended before it was closed, or the file was cut off"
    reason = " ".join(str(error).split())
    complete = "A complete .db3 file (librealsense 2.58.1 or newer) or .bag file was expected"
    return UserError(
        f"librealsense {rs.__version__} cannot play {path}: {reason if missing is None else missing}. {complete}"
    )


def _enable_pair(rs: Any, config: Any, device: Any, path: Path) -> dict[str, int]:
    """Enable only the depth and the colour stream: a recording may also have infrared and motion. Returns their indexes."""
    indexes = {}
    profiles = [profile for sensor in device.query_sensors() for profile in sensor.get_stream_profiles()]
    for stream in (rs.stream.depth, rs.stream.color):
        found = [profile for profile in profiles if profile.stream_type() == stream]
        if not found:
            names = ", ".join(sorted({profile.stream_name() for profile in profiles})) or "no stream"
            raise UserError(f"{path} has {names}: a depth and a colour stream were expected")
        video = found[0].as_video_stream_profile()
        config.enable_stream(
            stream, found[0].stream_index(), video.width(), video.height(), video.format(), video.fps()
        )
        indexes[f"{stream.name}_index"] = found[0].stream_index()
    return indexes
