"""Is each sensor alive? Told from the pictures themselves, for every frame, in microseconds.

    dead     RGB is black or one level all over, depth has next to no measurement: in the region as the model would see it, as
             far as it lies in the picture
    frozen   frame numbers or timestamps go on, and the picture is byte for byte the same

Owns what follows from one frame after another (the tests of single images: `edgefuse.data.sensor_coverage`); the live loop asks. A sensor that is not alive is shown to the model as black or as without any
measurement, because that is how the accuracy was measured that the bundle's fallback rests on.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgefuse.data.sensor_coverage import has_next_to_no_depth, rgb_is_missing
from edgefuse.framing import Framed, Roi, square_around
from edgefuse_runtime.camera import Frame

State = Literal["ok", "missing", "frozen"]

FROZEN_AFTER = 10
"""So many pictures in a row that are equal to the one before them: a third of a second at 30 a second."""


class SensorStates(NamedTuple):
    """What a frame says about its two sensors."""

    rgb: State = "ok"
    depth: State = "ok"


ALL_OK = SensorStates()


def sensor_warning(sensors: SensorStates, *, is_decided: bool) -> str:
    """What is wrong with the sensors, and what that means for the answer; empty where nothing is."""
    ill = [f"{name} is {state}" for name, state in sensors._asdict().items() if state != "ok"]
    if not ill:
        return ""
    return f"{' and '.join(ill)}: {'decided without it' if is_decided else 'no decision'}"


class SensorHealthMonitor:
    """Looks at the frames of one run, in order."""

    def __init__(self) -> None:
        self._rgb, self._depth = _Repeats(), _Repeats()
        self._timestamp_ms = math.inf

    def __call__(self, frame: Frame, framed: Framed, *, roi: Roi) -> SensorStates:
        """The states at `frame`, of which `framed` is the region `roi`; its pictures are kept, to compare the next ones with."""
        # A folder and rendered scenes have no clock: that a picture comes again is their own affair. Of a sensor each frame is
        # a new one, whether its number or its time goes on (`edgefuse_runtime.cameras.frame_sync`).
        is_sensed = frame.timestamp_domain != "none" or frame.timestamp_ms > self._timestamp_ms
        self._timestamp_ms = frame.timestamp_ms
        rgb_repeats = self._rgb.count(frame.rgb, is_sensed=is_sensed)
        depth_repeats = self._depth.count(frame.depth, is_sensed=is_sensed)
        now = states_in(framed, roi=roi, shape=frame.depth.shape)
        return SensorStates(
            rgb="frozen" if now.rgb == "ok" and rgb_repeats >= FROZEN_AFTER else now.rgb,
            depth="frozen" if now.depth == "ok" and depth_repeats >= FROZEN_AFTER else now.depth,
        )


def states_in(framed: Framed, *, roi: Roi, shape: tuple[int, ...]) -> SensorStates:
    """What one framed pair tells of its sensors: "ok" or "missing". `framed` is the region `roi` of images of `shape` (H, W)."""
    inside = _inside(roi, shape, size=len(framed.depth))
    return SensorStates(
        rgb="missing" if rgb_is_missing(framed.rgb[inside]) else "ok",
        depth="missing" if depth_is_missing(framed.depth[inside]) else "ok",
    )


def depth_is_missing(depth: NDArray[np.uint8]) -> bool:
    """Has a framed picture, uint8 [h, w, 2] of the contract's bytes, next to no measurement?"""
    return has_next_to_no_depth(depth.view("<u2"))  # its last axis is contiguous in every slice of rows and columns


def shown(framed: Framed, states: SensorStates) -> Framed:
    """What the model is given: nothing of a sensor that is not alive."""
    if states == ALL_OK:
        return framed
    return Framed(
        framed.rgb if states.rgb == "ok" else np.zeros_like(framed.rgb),
        framed.depth if states.depth == "ok" else np.zeros_like(framed.depth),
    )


def _inside(roi: Roi, shape: tuple[int, ...], *, size: int) -> tuple[slice, slice]:
    """Rows and columns of the framed region that lie in the picture and are not mixed with what lies outside."""
    square = square_around(roi)
    slices = []
    for start, length in ((square.y, shape[0]), (square.x, shape[1])):
        first, last = max(-start, 0) / square.w * size, min(length - start, square.w) / square.w * size
        # Resizing mixes neighbours, and trims up to one pixel of the result away.
        low, high = math.ceil(first) + 2 * (first > 0), math.floor(last) - 2 * (last < size)
        slices.append(slice(low, high) if low < high else slice(0, size))
    return slices[0], slices[1]


class _Repeats:
    """Counts how often in a row a stream gave the same picture as new."""

    def __init__(self) -> None:
        self._image: NDArray[Any] | None = None
        self._num_repeats = 0

    def count(self, image: NDArray[Any], *, is_sensed: bool) -> int:
        before = self._image
        repeats = is_sensed and before is not None and _are_equal(before, image)
        self._num_repeats = self._num_repeats + 1 if repeats else 0
        self._image = image
        return self._num_repeats


def _are_equal(before: NDArray[Any], now: NDArray[Any]) -> bool:
    """A living sensor's noise shows in any row, so the whole pictures are seldom compared."""
    if before.shape != now.shape:
        return False
    row = len(now) // 2
    return bool(np.array_equal(before[row], now[row])) and bool(np.array_equal(before, now))
