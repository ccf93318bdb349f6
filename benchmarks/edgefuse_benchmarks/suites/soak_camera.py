"""The camera of the soak: the built-in scenes as fast as they can be drawn, with faults on request. It runs in the capture process."""

from __future__ import annotations

import mmap
import os
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np

from edgefuse.contract import Align
from edgefuse.errors import UserError
from edgefuse_runtime.camera import Counters, Frame, Sensor
from edgefuse_runtime.cameras.alignment import Allocate, zeros
from edgefuse_runtime.cameras.frame_sync import FrameSync
from edgefuse_runtime.cameras.synthetic import Synthetic

CameraFault = Literal[
    "camera raises", "camera hangs", "camera hangs on stop", "camera is away", "RGB stalls", "depth stalls",
    "both stall", "frames are lost", "numbers restart",
]  # fmt: skip
CAMERA_FAULTS: tuple[CameraFault, ...] = get_args(CameraFault)
LOSSES: tuple[CameraFault, ...] = ("camera raises", "camera hangs", "camera hangs on stop", "camera is away")
"""Faults after which the camera has to be opened again."""

STALL_FRAMES = 60
SILENCE_S = 1.0
NUM_LOST = 7
FAILED_OPENINGS = 2
MISSING_AFTER = 3.0
_FAULT, _AWAY = 0, 1


class Requests:
    """A page of memory in a file, through which another process requests a fault: 0, or the index of the fault plus 1."""

    def __init__(self, path: Path) -> None:
        """Open the file; an empty one is created."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, mmap.PAGESIZE)
        self._page = mmap.mmap(self._file, mmap.PAGESIZE)

    def close(self) -> None:
        """Close the file."""
        self._page.close()
        os.close(self._file)

    def request(self, fault: CameraFault) -> None:
        """Request a fault."""
        self._page[_FAULT] = CAMERA_FAULTS.index(fault) + 1

    @property
    def is_pending(self) -> bool:
        """Whether a request has not been taken yet."""
        return self._page[_FAULT] != 0

    def take(self) -> CameraFault | None:
        """The requested fault, once."""
        number = self._page[_FAULT]
        if not number:
            return None
        self._page[_FAULT] = 0
        return CAMERA_FAULTS[number - 1]

    @property
    def num_away(self) -> int:
        """How many openings fail."""
        return self._page[_AWAY]

    @num_away.setter
    def num_away(self, count: int) -> None:
        self._page[_AWAY] = count


@dataclass(frozen=True, eq=False)
class _Image:
    """An image as `FrameSync` needs it."""

    number: int
    timestamp_ms: float = 0.0

    def has_equal_pixels(self, other: _Image) -> bool:
        return self is other


class SoakCamera:
    """See the module. A stalled stream repeats its last image, as librealsense does; `FrameSync` recognises it."""

    def __init__(self, *, requests: str, seed: int, allocate: Allocate = np.empty) -> None:
        """`requests`: the file of `Requests`."""
        self._path, self._allocate = Path(requests), allocate
        self._scenes = Synthetic(seed=seed, num_scenes=2)  # few: their memory would look like a leak of a young process
        self._sync: FrameSync[_Image] = FrameSync(missing_after=MISSING_AFTER)
        self._color, self._depth = _Image(0), _Image(0)
        self._stalled: Sensor | None = None
        self._stalled_left = 0
        self._silent_until_s = 0.0
        self._hangs_on_stop = False
        self.align: Align = "color"

    @property
    def description(self) -> dict[str, Any]:
        return {**self._scenes.description, "kind": "soak", "serial": "soak", "process": os.getpid()}

    @property
    def counters(self) -> Counters:
        return self._sync.counters

    def __enter__(self) -> SoakCamera:
        self._requests = Requests(self._path)
        if self._requests.num_away:
            self._requests.num_away -= 1
            raise UserError("the camera was not found")
        self._scenes.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._hangs_on_stop:
            _hang()
        self._scenes.__exit__(kind, error, trace)
        self._requests.close()

    def read(self, timeout_ms: int) -> Frame | None:
        """See `Camera.read`."""
        deadline_s = time.monotonic() + timeout_ms / 1e3
        while time.monotonic() < deadline_s:
            self._begin(self._requests.take())
            if time.monotonic() < self._silent_until_s:
                time.sleep(0.01)
                continue
            frame = self._next()
            if frame is not None:
                return frame
        self.counters.timeouts += 1
        return None

    def _begin(self, fault: CameraFault | None) -> None:
        if fault is None:
            return
        if fault == "camera hangs":
            _hang()
        if fault in LOSSES:
            self._hangs_on_stop = fault == "camera hangs on stop"
            self._requests.num_away = FAILED_OPENINGS if fault == "camera is away" else 0
            raise UserError(f"a fault of the soak: {fault}")
        if fault in ("RGB stalls", "depth stalls"):
            self._stalled, self._stalled_left = ("rgb" if fault == "RGB stalls" else "depth"), STALL_FRAMES
        elif fault == "both stall":
            self._silent_until_s = time.monotonic() + SILENCE_S
        elif fault == "frames are lost":
            self._color, self._depth = (_Image(image.number + NUM_LOST) for image in (self._color, self._depth))
        else:
            self._color, self._depth = _Image(0), _Image(0)

    def _next(self) -> Frame | None:
        """The next pair; None if one of its images is old."""
        frame = self._scenes.read(0)
        assert frame is not None  # it is drawn, not waited for
        stalled = self._stalled if self._stalled_left > 0 else None
        self._stalled_left -= 1
        if stalled != "rgb":
            self._color = _Image(self._color.number + 1)
        if stalled != "depth":
            self._depth = _Image(self._depth.number + 1)
        if not self._sync.is_fresh(color=self._color, depth=self._depth) and self._sync.stalled is None:
            return None
        missing = self._sync.stalled
        return replace(
            frame,
            rgb=zeros(frame.rgb.shape, np.uint8, allocate=self._allocate) if missing == "rgb" else frame.rgb,
            depth=zeros(frame.depth.shape, np.uint16, allocate=self._allocate) if missing == "depth" else frame.depth,
            color_number=self._color.number,
            depth_number=self._depth.number,
            name=str(max(self._color.number, self._depth.number)),
            missing=() if missing is None else (missing,),
            label=None,
        )


def _hang() -> None:
    threading.Event().wait(120)
