"""A RealSense recording (.db3, or .bag from librealsense before 2.58) as a camera, through the ordinary pipeline."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from edgefuse.contract import Align
from edgefuse.errors import UserError
from edgefuse_runtime.camera import Counters, EndOfStream, Frame
from edgefuse_runtime.cameras.db3_file import DamagedError, RecordingFile, check_description
from edgefuse_runtime.cameras.pipeline import PipelineReader, stop
from edgefuse_runtime.cameras.pyrealsense import load_pyrealsense2

SUFFIXES = (".db3", ".bag")


MAX_UNSEEN_MS = 1000.0
"""In real time the last pictures of a recording may be dropped; not of more than so long."""


class Playback:
    """A recording, played once from its beginning to its end. A damaged one ends with an error where the damage is.

    By default every frame is given, however slow the consumer is. In real time the pipeline keeps only the newest pair, as
    with a camera, and what it drops is counted.
    """

    def __init__(self, path: Path, *, align: Align = "color", real_time: bool = False) -> None:
        """Name the file; `with` opens it."""
        self._path = path
        self._align: Align = align
        self._real_time = real_time
        self._pipeline: Any = None
        self._playback: Any = None
        self._reader: PipelineReader | None = None
        self._file: RecordingFile | None = None
        self._times_ms: list[float] = []
        self._num_given = 0
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
            # librealsense 2.59 itself checks a .bag as a whole when it opens it.
            if self._path.suffix.lower() == ".db3":
                self._file = RecordingFile(self._path, **indexes)
            # Enabling streams made the config forget its device: this one is the one that plays.
            device = config.resolve(wrapper).get_device()
            playback = device.as_playback()
            playback.set_real_time(self._real_time)
            # Paused until both streams are started: playing begins with the first, and on a busy machine much of the file, or
            # all of it, is gone before the second (playback_device.cpp: "not longer active, frame dropped").
            playback.pause()
            pipeline.start(config)
        except DamagedError as error:
            raise UserError(f"{self._path} is damaged: {error}") from error
        except RuntimeError as error:
            self._close_file()
            reason = " ".join(str(error).split())
            raise UserError(
                f"{self._path} does not play with librealsense {rs.__version__}: {reason}. "
                f"A whole .db3 file (librealsense 2.58.1 or newer) or .bag file was expected"
            ) from error
        try:
            reader = PipelineReader(rs, pipeline=pipeline, align=self._align, has_ended=self._has_ended)
            if not 0 < reader.depth_unit_m < math.inf:
                raise UserError(f"{self._path} is damaged: its depth unit (Depth_Units) is {reader.depth_unit_m} m")
        except BaseException:
            self._close_file()
            stop(pipeline)
            raise
        self._pipeline, self._playback = pipeline, playback
        self._reader, self._counters = reader, reader.counters
        self._times_ms, self._num_given = [], 0
        # In a thread of its own, because it may wait until the first frames are taken (10 s at most, with an error in the log).
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
        # Pausing waits until the SDK's reading thread has done what stop left it; a device deleted before that ends the
        # process ("pure virtual method called", once in 300 times on a busy machine).
        self._playback.pause()
        # Released here and in this thread: left to the garbage collector, the SDK's objects would go at any time and in any one.
        self._reader = self._resume = self._pipeline = self._playback = None

    def read(self, timeout_ms: int) -> Frame | None:
        """See `Camera.read`."""
        if self._reader is None:
            raise RuntimeError("read outside of `with`")
        try:
            # The next pair before it is waited for, so that its latency has none of it; and what in real time came in its place.
            self._check(self._counters.received + 1)
            frame = self._reader.read(timeout_ms)
            self._check(self._counters.received)
        except EndOfStream:
            self._check_end()
            raise
        except DamagedError as error:
            raise self._damaged(str(error)) from error
        if frame is not None:
            self._num_given += 1
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
        """At the end of the stream: was it the end of the recording?"""
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
        # One stream may go on alone in the end: such pictures are no pairs, and need not arrive.
        if last and not any(seen):
            raise self._damaged("what follows does not play")

    def _damaged(self, what: str) -> UserError:
        num_frames = self._file.num_frames() if self._file is not None else None
        played_s = (self._times_ms[-1] - self._times_ms[0]) / 1e3 if self._times_ms else 0.0
        frames = f"{self._num_given} of {num_frames}" if num_frames is not None else f"{self._num_given}"
        return UserError(
            f"{self._path} is damaged: stopped after {frames} frames ({played_s:.2f} s of "
            f"{self._description['duration_s']:.2f} s), {what}"
        )

    def _has_ended(self) -> bool:
        # Before it has begun its status is "stopped" as well.
        has_begun = self._resume is not None and not self._resume.is_alive()
        return has_begun and self._playback.current_status().name == "stopped"


def _check_file(rs: Any, path: Path) -> None:
    """Refuse what librealsense should not be given."""
    if not path.is_file():
        raise UserError(f"there is no recording {path}: give the path of a .db3 or .bag file")
    if path.suffix.lower() == ".db3":
        check_description(path, is_option=lambda name: str(rs.option_from_string(name)) == name)


def _enable_pair(rs: Any, config: Any, device: Any, path: Path) -> dict[str, int]:
    """Ask for the depth and the colour stream alone: a recording may hold infrared and motion as well. Gives their indexes."""
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
