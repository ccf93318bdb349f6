"""A camera that returns the first frames of a source from memory, as fast as they are read or at a given rate: decoding is not measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np

from edgefuse.contract import Align
from edgefuse_runtime.camera import Counters, Frame, frames
from edgefuse_runtime.cameras import open_camera
from edgefuse_runtime.cameras.alignment import Allocate

NUM_SHOWN = 30
AGAIN = "@replay"


class Replay:
    """Endless. The frames of later rounds have other names: "7", "7@replay1", "7@replay2", ..."""

    def __init__(self, *, spec: str, align: Align, pace_hz: float | None = None, allocate: Allocate = np.empty) -> None:
        """`spec`: see `open_camera`. `pace_hz`: frames a second, like a camera's; None = one for each read."""
        self._spec, self.align, self._pace_hz = spec, align, pace_hz
        self._due_s = 0.0
        self._allocate = allocate
        self._shown: Sequence[Frame] = ()
        self.counters = Counters()
        self._description: dict[str, Any] = {"kind": "recording"}

    @property
    def description(self) -> dict[str, Any]:
        return {**self._description, "replayed": NUM_SHOWN, "pace_hz": self._pace_hz}

    def __enter__(self) -> Replay:
        with open_camera(self._spec, align=self.align) as camera:
            self._shown = list(frames(camera, num_frames=NUM_SHOWN))
            self._description = camera.description
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown = ()

    def read(self, timeout_ms: int) -> Frame | None:
        """See `Camera.read`."""
        if not self._is_due(timeout_ms):
            return None
        arrival_ns = time.perf_counter_ns()
        round_number, place = divmod(self.counters.delivered, len(self._shown))
        shown = self._shown[place]
        rgb, depth = self._allocate(shown.rgb.shape, np.uint8), self._allocate(shown.depth.shape, np.uint16)
        np.copyto(rgb, shown.rgb)
        np.copyto(depth, shown.depth)
        self.counters.received += 1
        self.counters.delivered += 1
        number = self.counters.delivered
        return replace(
            shown,
            rgb=rgb,
            depth=depth,
            color_number=number,
            depth_number=number,
            name=f"{shown.name}{AGAIN}{round_number}" if round_number else shown.name,
            arrival_ns=arrival_ns,
            ready_ns=time.perf_counter_ns(),
        )

    def _is_due(self, timeout_ms: int) -> bool:
        """Wait until the next frame is due, at most until the timeout. Frames that were missed are not made up for."""
        if self._pace_hz is None:
            return True
        wait_s = self._due_s - time.perf_counter()
        time.sleep(min(max(wait_s, 0.0), timeout_ms / 1000))
        if wait_s > timeout_ms / 1000:
            return False
        now_s, period_s = time.perf_counter(), 1 / self._pace_hz
        self._due_s = (self._due_s if now_s < self._due_s + period_s else now_s) + period_s
        return True


def shown_frame(name: str) -> str:
    """The name of the frame in the source."""
    return name.partition(AGAIN)[0]
