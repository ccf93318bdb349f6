"""Detection of missing and frozen sensors from the images of each frame, in microseconds.

    missing  RGB is black or uniform, or depth has almost no measurements, in the part of the model's region inside the image
    frozen   frame numbers or timestamps advance, but the image is identical, byte for byte

The checks of single images are in `edgefuse.data.sensor_coverage`. The model gets a sensor that is not "ok" as black, or as depth
without measurements, because the bundle's degraded mode is chosen from accuracies measured in this way.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edgefuse.data.sensor_coverage import has_next_to_no_depth, rgb_is_missing
from edgefuse.framing import Framed, Roi, square_around
from edgefuse_runtime.camera import Frame

State = Literal["ok", "missing", "frozen"]

_CODE = np.dtype("<u2")

FROZEN_AFTER = 10
"""A stream counts as frozen after this many consecutive repetitions of an image: a third of a second at 30 frames/s."""

SAMPLED_PX = 8
"""Without a region, every eighth row and column of RGB is checked."""


class SensorStates(NamedTuple):
    """State of each sensor in one frame."""

    rgb: State = "ok"
    depth: State = "ok"


ALL_OK = SensorStates()


def sensor_warning(sensors: SensorStates, *, is_decided: bool) -> str:
    """The sensors that are not "ok", and the consequence for the prediction; empty if all are."""
    faults = [f"{name} is {state}" for name, state in sensors._asdict().items() if state != "ok"]
    if not faults:
        return ""
    return f"{' and '.join(faults)}: {'predicted without it' if is_decided else 'no decision'}"


class SensorHealthMonitor:
    """Checks the frames of one run, in order."""

    def __init__(self) -> None:
        self._rgb, self._depth = _Repeats(), _Repeats()
        self._timestamp_ms = math.inf
        self._frame: Frame | None = None
        self._num_repeats = (0, 0)

    def __call__(self, frame: Frame, framed: Framed, *, roi: Roi) -> SensorStates:
        """The states in a region of `frame`: `framed` is its region `roi`. The images are retained, to compare them with the next frame.

        Call it with every region of a frame before those of the next one.
        """
        return self._or_frozen(frame, states_in(framed, roi=roi, shape=frame.depth.shape))

    def without_region(self, frame: Frame) -> SensorStates:
        """The states in the whole image of `frame`, in which no object was found. Call it with every such frame."""
        rgb_is_lost = rgb_is_missing(np.ascontiguousarray(frame.rgb[::SAMPLED_PX, ::SAMPLED_PX]))
        now = SensorStates(
            rgb="missing" if rgb_is_lost else "ok",
            depth="missing" if has_next_to_no_depth(frame.depth) else "ok",
        )
        return self._or_frozen(frame, now)

    def _or_frozen(self, frame: Frame, now: SensorStates) -> SensorStates:
        if frame is not self._frame:
            self._frame, self._num_repeats = frame, self._count_repeats(frame)
        rgb_repeats, depth_repeats = self._num_repeats
        return SensorStates(
            rgb="frozen" if now.rgb == "ok" and rgb_repeats >= FROZEN_AFTER else now.rgb,
            depth="frozen" if now.depth == "ok" and depth_repeats >= FROZEN_AFTER else now.depth,
        )

    def _count_repeats(self, frame: Frame) -> tuple[int, int]:
        """How often the frame's RGB and depth image were repeated so far."""
        # Folders and rendered scenes have no clock and may repeat images. Every frame of a sensor is a new one, whether its
        # number or its timestamp advances (`edgefuse_runtime.cameras.frame_sync`).
        is_sensed = frame.timestamp_domain != "none" or frame.timestamp_ms > self._timestamp_ms
        self._timestamp_ms = frame.timestamp_ms
        rgb_repeats = self._rgb.count(frame.rgb, is_sensed=is_sensed)
        depth_repeats = self._depth.count(frame.depth, is_sensed=is_sensed)
        return rgb_repeats, depth_repeats


def states_in(framed: Framed, *, roi: Roi, shape: tuple[int, ...]) -> SensorStates:
    """The states in one framed pair: "ok" or "missing". `framed` is the region `roi` of images of `shape` (H, W)."""
    inside = _inside(roi, shape, size=len(framed.depth))
    return SensorStates(
        rgb="missing" if rgb_is_missing(framed.rgb[inside]) else "ok",
        depth="missing" if depth_is_missing(framed.depth[inside]) else "ok",
    )


def depth_is_missing(depth: NDArray[np.uint8]) -> bool:
    """Whether a framed depth image, uint8 [h, w, 2] of the contract's bytes, has (almost) no measurements."""
    return has_next_to_no_depth(depth.view(_CODE))  # its last axis is contiguous in every slice of rows and columns


def valid_fraction(depth: NDArray[np.uint8]) -> float:
    """The fraction of the pixels of a framed depth image, uint8 [S, S, 2] of the contract's bytes, that have a measurement."""
    codes = depth.view(_CODE)
    return cv2.countNonZero(codes) / codes.size


def masked(framed: Framed, states: SensorStates) -> Framed:
    """The model's input: zeros for a sensor that is not "ok"."""
    if states == ALL_OK:
        return framed
    return Framed(
        framed.rgb if states.rgb == "ok" else np.zeros_like(framed.rgb),
        framed.depth if states.depth == "ok" else np.zeros_like(framed.depth),
    )


def _inside(roi: Roi, shape: tuple[int, ...], *, size: int) -> tuple[slice, slice]:
    """Rows and columns of the framed region that are inside the image and not blended with the padding outside."""
    square = square_around(roi)
    if square.x >= 0 and square.y >= 0 and square.x + square.w <= shape[1] and square.y + square.h <= shape[0]:
        return slice(0, size), slice(0, size)
    slices = []
    for start, length in ((square.y, shape[0]), (square.x, shape[1])):
        first, last = max(-start, 0) / square.w * size, min(length - start, square.w) / square.w * size
        # Resizing blends neighbouring pixels, and trims up to one pixel of the result.
        low, high = math.ceil(first) + 2 * (first > 0), math.floor(last) - 2 * (last < size)
        slices.append(slice(low, high) if low < high else slice(0, size))
    return slices[0], slices[1]


class _Repeats:
    """Counts the consecutive repetitions of a stream's image."""

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
    """Whether two images are equal. Noise changes every row of a working sensor, so complete images are rarely compared."""
    if before.shape != now.shape:
        return False
    row = len(now) // 2
    return before[row].tobytes() == now[row].tobytes() and bool(np.array_equal(before, now))
