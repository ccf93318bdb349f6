"""A sink that records what live sees: as a RealSense recording (.db3), or as a sequence of a data set. It never fills the disk."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import threading
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from edgefuse.errors import UserError
from edgefuse.framing import WHOLE
from edgefuse.io.files import check_writable
from edgefuse_runtime.results import Event, LiveSummary, Result
from edgefuse_runtime.sinks.sink import SinkInfo

if TYPE_CHECKING:
    from edgefuse_runtime.camera import Frame

MAX_MB = 4000
MIN_FREE_MB = 500
"""Space on the disk that is left to others."""
PAIRS_OF_FILE = 9000
"""A .db3 file ends after this many pairs (5 minutes at 30/s), and another one begins: a kill damages only the last one."""
UNLABELLED = "unlabelled"
"""The class of recorded sequences."""
NICENESS = 10
"""Of the threads that compress and write, so that they do not take time from the engine."""

_log = logging.getLogger(__name__)


class _Recording(Protocol):
    """A recording that has begun."""

    @property
    def num_bytes(self) -> int:
        """Its size so far."""

    def fits(self, frame: Frame) -> bool:
        """Whether the frame can be added to it."""

    def add(self, frame: Frame) -> None:
        """Record a frame."""

    def close(self) -> None:
        """Complete it."""


class RecorderSink:
    """Records every frame that has a result. If it is too slow, frames are left out and counted.

    A failure ends the recording; the next one is another file or sequence. Nothing is overwritten.
    """

    def __init__(self, path: Path, *, max_mb: int = MAX_MB, min_free_mb: int = MIN_FREE_MB) -> None:
        """Choose the file or folder.

        Args:
            path: FILE.db3, then FILE-2.db3 and so on; or a data set folder, with sequences in `path/unlabelled`.
            max_mb: recording stops when all of these have this size, in MB of 10^6 bytes.
            min_free_mb: recording also stops when less than this is free on the disk.
        """
        self.info = SinkInfo(name=f"recorder {path}", queue_size=2, wants_images=True)
        self._path = path
        self._is_db3 = path.suffix.lower() == ".db3"
        self._max_bytes, self._min_free_bytes = max_mb * 1_000_000, min_free_mb * 1_000_000
        self._camera: dict[str, Any] = {}
        self._recording: _Recording | None = None
        self._bytes_before = 0

    def __enter__(self) -> RecorderSink:
        _check(self._path, is_db3=self._is_db3)
        with contextlib.suppress(OSError):  # not on every system; threads that start here inherit it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        self._bytes_before = self._num_bytes()
        self._check_space()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        recording, self._recording = self._recording, None
        if recording is not None:
            recording.close()

    def result(self, result: Result, frame: Frame | None) -> None:
        if frame is None or not result.is_first:
            return
        self._check_space()
        if self._recording is not None and not self._recording.fits(frame):
            self.__exit__(None, None, None)
            self._bytes_before = self._num_bytes()
        if self._recording is None:
            self._recording = self._begin(frame)
        self._recording.add(frame)

    def _begin(self, frame: Frame) -> _Recording:
        return _Db3(self._path) if self._is_db3 else _Sequence(self._path, frame, self._camera)

    def event(self, event: Event) -> None:
        if event.event == "started":
            self._camera = dict(event.detail.get("camera") or {})

    def summary(self, summary: LiveSummary) -> None:
        pass

    def _check_space(self) -> None:
        """Raises OSError if there is no space left for recordings: the sink is then tried again later."""
        num_bytes = self._bytes_before + (self._recording.num_bytes if self._recording is not None else 0)
        if num_bytes >= self._max_bytes:
            limit_mb = self._max_bytes // 1_000_000
            raise OSError(errno.EDQUOT, f"{limit_mb} MB are recorded, the limit (--record-mb): move the files away")
        free = shutil.disk_usage(next(path for path in (self._path, *self._path.absolute().parents) if path.exists()))
        if free.free < self._min_free_bytes:
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} (less than {self._min_free_bytes / 1e6:.0f} MB)")

    def _num_bytes(self) -> int:
        """The size of all recordings here."""
        paths = _db3_paths(self._path) if self._is_db3 else (self._path / UNLABELLED).glob("*/*")
        return sum(path.stat().st_size for path in paths if path.is_file())


def _check(path: Path, *, is_db3: bool) -> None:
    """Raises UserError for what the user must correct."""
    if is_db3:
        from edgefuse_runtime.cameras.pyrealsense import load_pyrealsense2

        load_pyrealsense2()
        check_writable(path)
        return
    from edgefuse_runtime.recording.record import check_region

    if path.suffix.lower() == ".bag" or path.is_file():
        raise UserError(f"--record is {path}: FILE.db3, or the folder of a data set, was expected")
    check_writable(path / UNLABELLED)
    if path.is_dir():
        check_region(path, WHOLE)


def _db3_paths(path: Path) -> list[Path]:
    """The file, and those that were begun after it, in order, up to the first that does not exist."""
    paths = [path]
    while paths[-1].exists():
        paths.append(path.with_stem(f"{path.stem}-{len(paths) + 1}"))
    return paths


def _new_db3(path: Path) -> Path:
    """The first of these files that does not exist, created empty, so that no other process begins the same one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        new = _db3_paths(path)[-1]
        with contextlib.suppress(FileExistsError):
            new.touch(exist_ok=False)
            return new


class _Db3:
    """A RealSense recording, written by librealsense. Pairs keep their timestamps.

    Both images of a pair get the number of the colour image, because librealsense pairs the images of different numbers wrongly when it
    plays the file. Where that number does not increase, they get the next one.
    """

    def __init__(self, path: Path) -> None:
        self._path = _new_db3(path)
        self._opened = ExitStack()
        self._kind: tuple[Any, ...] | None = None
        self._counts = {"rgb": 0, "depth": 0}
        self._number = 0

    @property
    def num_bytes(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0

    def fits(self, frame: Frame) -> bool:
        return self._kind == _kind(frame) and max(self._counts.values()) < PAIRS_OF_FILE

    def add(self, frame: Frame) -> None:
        if self._kind is None:
            self._open(frame)
        time_ms = None if frame.timestamp_domain == "none" else frame.timestamp_ms
        self._number = max(self._number + 1, frame.color_number)
        if "depth" not in frame.missing:
            self._camera.send_depth(frame.depth, number=self._number, timestamp_ms=time_ms)
            self._counts["depth"] += 1
        if "rgb" not in frame.missing:
            self._camera.send_color(frame.rgb, number=self._number, timestamp_ms=time_ms)
            self._counts["rgb"] += 1

    def _open(self, frame: Frame) -> None:
        from edgefuse_runtime.cameras.software_device import SoftwareCamera
        from edgefuse_runtime.recording.write_db3 import recorder

        self._kind = _kind(frame)
        height, width = frame.depth.shape
        domain = {"global": "global_time", "system": "system_time"}.get(frame.timestamp_domain, "hardware_clock")
        self._camera = SoftwareCamera(width=width, height=height, depth_unit_m=frame.depth_unit_m, domain=domain)  # type: ignore[arg-type]
        self._opened.enter_context(recorder(self._path, self._camera))

    def close(self) -> None:
        """Wait until librealsense has written what it keeps in memory, then count what is in the file."""
        self._opened.close()
        if not self.num_bytes:  # it failed before librealsense wrote anything
            self._path.unlink(missing_ok=True)
            return
        num_lost = max(self._counts.values()) - _num_pairs(self._path)
        if num_lost > 0:
            _log.warning(
                "%s lacks %d of %d pairs: the disk is full or too slow",
                self._path,
                num_lost,
                max(self._counts.values()),
            )


def _kind(frame: Frame) -> tuple[Any, ...]:
    return frame.rgb.shape, frame.depth.shape, frame.depth_unit_m, frame.timestamp_domain


def _num_pairs(path: Path) -> int:
    from edgefuse_runtime.cameras.db3_file import DamagedError
    from edgefuse_runtime.cameras.recording_info import describe_recording

    try:
        return max(stream.frames for stream in describe_recording(path).streams)
    except DamagedError:
        return 0


class _Sequence:
    """A sequence of a data set, of the whole images."""

    def __init__(self, root: Path, frame: Frame, camera: dict[str, Any]) -> None:
        from edgefuse_runtime.recording.sequence_writer import open_sequence

        self._root, self._camera = root, camera
        self._kind = _kind(frame)
        self._opened = ExitStack()
        self._writer = self._opened.enter_context(open_sequence(root, UNLABELLED, None, force=False))
        self._num_measured = self.num_bytes = 0

    def fits(self, frame: Frame) -> bool:
        return self._kind == _kind(frame)

    def add(self, frame: Frame) -> None:
        from edgefuse_runtime.recording.record import described

        described_here = described(self._root, frame, region=WHOLE, camera=self._camera)
        with described_here if not self._writer.num_written else contextlib.nullcontext():
            self._writer.add((frame.rgb.copy(), frame.depth.copy()))  # the camera's memory is needed for other frames
        while self._num_measured < self._writer.num_written:
            self._num_measured += 1
            self.num_bytes += self._writer.num_bytes(self._num_measured)

    def close(self) -> None:
        with self._opened:
            self._writer.finish()
