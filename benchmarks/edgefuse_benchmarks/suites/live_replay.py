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


class Replay:
    """Endless. The frames of later rounds have other names: "7", "7#1", "7#2", ..."""

    def __init__(self, *, spec: str, align: Align, pace_hz: float | None = None, allocate: Allocate = np.empty) -> None:
        """`spec`: see `open_camera`. `pace_hz`: frames a second, like a camera's; None = one for each read."""
        self._spec, self.align, self._pace_hz = spec, align, pace_hz
        self._started_s: float | None = None
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
        self._wait()
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
            name=f"{shown.name}#{round_number}" if round_number else shown.name,
            arrival_ns=arrival_ns,
            ready_ns=time.perf_counter_ns(),
        )

    def _wait(self) -> None:
        """Wait until the next frame is due."""
        now_s = time.perf_counter()
        if self._started_s is None:
            self._started_s = now_s
        if self._pace_hz is not None:
            time.sleep(max(0.0, self._started_s + self.counters.delivered / self._pace_hz - now_s))
