"""A RealSense recording (.db3, or .bag from librealsense before 2.58) as a camera, through the ordinary pipeline."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from edgefuse.contract import Align
from edgefuse.errors import UserError
from edgefuse_runtime.cameras.pipeline import PipelineReader
from edgefuse_runtime.frames import Counters, Frame
from edgefuse_runtime.sdk import load_pyrealsense2

SUFFIXES = (".db3", ".bag")


class Playback:
    """A recording, played once from its beginning to its end.

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
        if not self._path.is_file():
            raise UserError(f"there is no recording {self._path}: give the path of a .db3 or .bag file")
        pipeline, config = rs.pipeline(), rs.config()
        try:
            config.enable_device_from_file(str(self._path.absolute()), repeat_playback=False)
            wrapper = rs.pipeline_wrapper(pipeline)
            _enable_pair(rs, config, config.resolve(wrapper).get_device(), self._path)
            # Enabling streams made the config forget its device: this one is the one that plays.
            device = config.resolve(wrapper).get_device()
            playback = device.as_playback()
            playback.set_real_time(self._real_time)
            # Paused until both streams are started: playing begins with the first, and on a busy machine much of the file, or
            # all of it, is gone before the second (playback_device.cpp: "not longer active, frame dropped").
            playback.pause()
            pipeline.start(config)
        except RuntimeError as error:
            raise UserError(
                f"{self._path} does not play with librealsense {rs.__version__}: {error}. "
                f"A whole .db3 file (librealsense 2.58.1 or newer) or .bag file was expected"
            ) from error
        try:
            reader = PipelineReader(rs, pipeline=pipeline, align=self._align, has_ended=self._has_ended)
        except BaseException:
            pipeline.stop()
            raise
        self._pipeline, self._playback = pipeline, playback
        self._reader, self._counters = reader, reader.counters
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
        if self._pipeline is None or self._resume is None:
            return
        self._pipeline.stop()
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
        return self._reader.read(timeout_ms)

    def _has_ended(self) -> bool:
        # Before it has begun its status is "stopped" as well.
        has_begun = self._resume is not None and not self._resume.is_alive()
        return has_begun and self._playback.current_status().name == "stopped"


def _enable_pair(rs: Any, config: Any, device: Any, path: Path) -> None:
    """Ask for the depth and the colour stream alone: a recording may hold infrared and motion as well."""
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
