"""Cameras for tests of the capture process: opened there by `Source(factory="capture_cameras:...")`."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from runtime_scenes import draw_pair

from edgefuse.contract import Align
from edgefuse.errors import UserError
from edgefuse_runtime.camera import Counters, EndOfStream, Frame
from edgefuse_runtime.cameras import realsense
from edgefuse_runtime.cameras.alignment import Allocate
from edgefuse_runtime.cameras.realsense import Profile, RealSense
from edgefuse_runtime.cameras.software_device import SoftwareCamera

PROFILE = Profile(64, 48, 64, 48, 30)


class FaultyCamera:
    """Sends frames 1, 2, 3, ... at 100/s, then has a fault. Each opening is a line in `folder/log`, and has its own fault.

    Faults: "none", "end", "raise", "silent", "kill", "hang", "hang with GIL", "no colour", "other size"; while it is opened "absent",
    "hang open"; while it is closed "hang stop", "raise, hang stop".
    """

    def __init__(
        self, *, folder: str, faults: list[str], num_frames: int = 5, size: int = 32, allocate: Allocate = np.empty
    ) -> None:
        self._log = Path(folder) / "log"
        self._faults, self._num_frames, self._size, self._allocate = faults, num_frames, size, allocate
        self._fault = ""
        self.counters = Counters()
        self.warnings = ("an old firmware",)
        self.align: Align = "color"

    @property
    def description(self) -> dict[str, Any]:
        return {"kind": "faulty", "serial": "7", "process": os.getpid()}

    def _note(self, word: str) -> int:
        with self._log.open("a") as file:
            file.write(word + "\n")
        return self._log.read_text().count("open")

    def __enter__(self) -> FaultyCamera:
        opened = self._note("open")
        self._fault = self._faults[min(opened, len(self._faults)) - 1]
        if self._fault == "absent":
            raise UserError("no camera 7 was found", "Connect it")
        if self._fault == "hang open":
            _hang()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if "hang stop" in self._fault:
            _hang()
        self._note("close")

    def hardware_reset(self) -> None:
        self._note("reset")

    def read(self, timeout_ms: int) -> Frame | None:
        number = self.counters.delivered + 1
        is_faulty = number > self._num_frames and self._fault != "none"
        if is_faulty and self._fault not in ("no colour", "other size"):
            return self._fail(timeout_ms)
        time.sleep(0.01)
        self.counters.received += 1
        self.counters.delivered += 1
        size = self._size // 2 if is_faulty and self._fault == "other size" else self._size
        rgb = self._allocate((size, size, 3), np.uint8)
        depth = self._allocate((size, size), np.uint16)
        rgb.fill(number % 251)
        depth.fill(number)
        now_ns = time.perf_counter_ns()
        return Frame(
            rgb=rgb,
            depth=depth,
            depth_unit_m=0.001,
            align="color",
            color_number=number,
            depth_number=number,
            timestamp_ms=number * 10.0,
            timestamp_domain="none",
            arrival_ns=now_ns,
            ready_ns=now_ns,
            name=str(number),
            missing=("rgb",) if is_faulty and self._fault == "no colour" else (),
        )

    def _fail(self, timeout_ms: int) -> None:
        if self._fault == "end":
            raise EndOfStream
        if self._fault in ("raise", "raise, hang stop"):
            raise UserError("the camera stopped: the cable is loose")
        if self._fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._fault == "hang":
            _hang()
        if self._fault == "hang with GIL":
            ctypes.PyDLL(None).sleep(60)
        self.counters.timeouts += 1
        time.sleep(timeout_ms / 1e3)


def _hang() -> None:
    threading.Event().wait(60)


class SoftwareRealSense(RealSense):
    """librealsense's software device. It sends 60 frames/s; a sensor is silent in its gaps.

    Args:
        gaps: [first, end) of the numbers that a sensor does not send.
        folder: the first camera with this folder never sends colour, and fails after `num_frames`.
    """

    def __init__(
        self,
        *,
        color_gaps: list[list[int]] = (),
        depth_gaps: list[list[int]] = (),
        folder: str | None = None,
        num_frames: int = 20,
        allocate: Allocate = np.empty,  # type: ignore[assignment]
    ) -> None:
        self._is_early = folder is not None  # with a warm-up, it sends while it is opened
        opened = Path(folder) / "opened" if folder is not None else None
        self._fails_after = num_frames if opened is not None and not opened.exists() else None
        if opened is not None:
            opened.touch()
            realsense.WARMUP_LIMIT_S = 1.0  # in the capture process only
        self._software = SoftwareCamera(width=64, height=48)
        self._gaps = {"color": color_gaps, "depth": depth_gaps}
        self._done = threading.Event()
        self._sender = threading.Thread(target=self._send)
        options: dict[str, Any] = {"warmup_frames": 0 if folder is None else 3, "allow_missing": True}
        super().__init__(device=self._software.device, profiles=(PROFILE,), allocate=allocate, **options)

    def _is_silent(self, stream: str, number: int) -> bool:
        return any(first <= number < end for first, end in self._gaps[stream])

    def _send(self) -> None:
        number = 0
        while not self._done.wait(1 / 60):
            number += 1
            rgb, depth = draw_pair("near", brightness=number % 50)
            depth += np.uint16(number % 50)  # an image that never changes would count as frozen
            if not self._is_silent("depth", number):
                self._software.send_depth(depth, number=number)
            if self._fails_after is None and not self._is_silent("color", number):
                self._software.send_color(rgb, number=number)

    def __enter__(self) -> SoftwareRealSense:
        if self._is_early:
            self._sender.start()
        super().__enter__()
        if not self._is_early:
            self._sender.start()
        return self

    def read(self, timeout_ms: int) -> Frame | None:
        if self._fails_after is not None and self.counters.delivered >= self._fails_after:
            raise UserError("the camera stopped")
        return super().read(timeout_ms)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._sender.join()
        super().__exit__(kind, error, trace)


class ControlledRealSense(SoftwareRealSense):
    """librealsense's software device; the file `control` has what is wrong with it: "unplugged", "no colour" or nothing."""

    def __init__(self, *, control: str, allocate: Allocate = np.empty) -> None:
        self._control = Path(control)
        super().__init__(allocate=allocate)

    def _is_silent(self, stream: str, number: int) -> bool:
        return stream == "color" and self._control.read_text() == "no colour"

    def __enter__(self) -> ControlledRealSense:
        if self._control.read_text() == "unplugged":
            raise UserError("no RealSense camera was found")
        super().__enter__()
        return self

    def read(self, timeout_ms: int) -> Frame | None:
        if self._control.read_text() == "unplugged":
            raise UserError("the camera stopped: it was unplugged")
        return super().read(timeout_ms)
