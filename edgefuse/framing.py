"""From a camera frame to the model's input: the only code that crops and resizes images.

Training, export and live all call `fit`, because two implementations of resizing differ by up to 17 of 255 levels on the
same image. Owns crop, resize and the conversion to codes of 1 mm.
"""

from __future__ import annotations

import hashlib
import json
import math
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import DEPTH_UNIT_M, MAX_DEPTH_CODE, bytes_from_codes
from edgefuse.errors import UserError

SPEC: dict[str, Any] = {
    "revision": 1,
    "region": "the square of side max(w, h) around the region's centre; outside the picture RGB is 0 and depth is 0",
    "trim": "a square k = side // size > 1 times as large as the result is trimmed to a multiple of k, right and below",
    "rgb": "mean of k x k pixels, then linear (half-pixel centres)",
    "depth": "nearest (half-pixel centres), then rounded to codes of 0.001 m; a measurement never becomes 0",
}
"""What `fit` does, as text. The digest depends on every word. Increase the revision when the output changes for any input."""


def spec_sha256() -> str:
    """Digest of `SPEC`, stored in a bundle's manifest. A bundle with another digest is refused."""
    return hashlib.sha256(json.dumps(SPEC, sort_keys=True).encode()).hexdigest()


MAX_REGION = 4
"""Largest allowed side of a region, as a multiple of the image's larger side. Bounds the memory for cropping."""

WHOLE, ANY_CROP = "whole", "file"
"""Values of a data set's region in addition to those of `--roi`. "file" means crops that live cannot reproduce."""


def regions_agree(first: str | None, second: str | None) -> bool:
    """Whether two kinds of region are compatible for training and inference. Values as in `--roi`; None = unknown."""
    if first is None or second is None or first == second:
        return True
    return ANY_CROP in (first, second) and WHOLE not in (first, second)


class Roi(NamedTuple):
    """A region of an image in pixels. It may extend beyond the image."""

    x: int
    y: int
    w: int
    h: int


class Framed(NamedTuple):
    """One sample as the contract requires: `rgb` uint8 [S, S, 3] and `depth` uint8 [S, S, 2], contiguous, owned by the caller."""

    rgb: NDArray[np.uint8]
    depth: NDArray[np.uint8]


def centre_square(height: int, width: int) -> Roi:
    """The largest centred square of an image."""
    side = min(height, width)
    return Roi((width - side) // 2, (height - side) // 2, side, side)


def square_around(roi: Roi) -> Roi:
    """The square of side max(w, h) with the same centre as `roi`."""
    side = max(roi.w, roi.h)
    return Roi(roi.x + (roi.w - side) // 2, roi.y + (roi.h - side) // 2, side, side)


def square_in(roi: Roi, *, height: int, width: int) -> Roi:
    """The square around `roi`. It must overlap the image of `height` x `width`.

    Raises:
        UserError: the region is empty, completely outside, or more than `MAX_REGION` times as large as the image.
    """
    square = square_around(roi)
    where = f"region {','.join(str(value) for value in roi)} (x,y,w,h)"
    outside = square.x >= width or square.y >= height or square.x + square.w <= 0 or square.y + square.h <= 0
    if roi.w <= 0 or roi.h <= 0 or outside:
        raise UserError(f"{where} does not overlap the {width}x{height} image: choose one inside it")
    if square.w > MAX_REGION * max(height, width):
        raise UserError(
            f"{where} is more than {MAX_REGION} times as large as the {width}x{height} image: choose one inside it"
        )
    return square


class Buffers:
    """Memory for `fit`, which then allocates nothing. Use it in one thread; each call overwrites the result of the one before."""

    def __init__(self, size: int) -> None:
        """`size`: side of the result in pixels."""
        self.rgb = np.empty((size, size, 3), np.uint8)
        self.codes = np.empty((size, size), np.uint16)
        self._scratch: dict[str, NDArray[np.uint8]] = {}

    def scratch(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array with unspecified values, in memory that is reused for the same name."""
        num_bytes = math.prod(shape) * dtype.itemsize
        if name not in self._scratch or self._scratch[name].nbytes < num_bytes:
            self._scratch[name] = np.empty(num_bytes, np.uint8)
        return self._scratch[name][:num_bytes].view(dtype).reshape(shape)


BLURRED_FACTORS = (3, 5)
"""Block sizes whose means OpenCV computes faster with a box filter than with INTER_AREA (0.24 instead of 0.39 ms for 480x480 and blocks of 3),
with equal results: the sum of an odd number of pixels divided by that number is never half way between two levels."""


def fit(
    rgb: NDArray[np.uint8],
    depth: NDArray[np.uint16],
    *,
    size: int,
    roi: Roi | None = None,
    depth_unit_m: float = DEPTH_UNIT_M,
    out: Buffers | None = None,
) -> Framed:
    """Crop and resize one aligned pair to the model's input.

    Args:
        rgb: uint8 [H, W, 3], RGB order.
        depth: uint16 [H, W], in codes of `depth_unit_m` metres, 0 = no measurement; same view as `rgb`.
        size: S, side of the result in pixels.
        roi: region to use; None = the complete image. A region that is not square is extended to the square around it.
        depth_unit_m: the camera's depth unit in metres.
        out: memory of the result, of the same size; None = new arrays.

    Returns:
        A `Framed` pair; its depth is in codes of 1 mm.

    Raises:
        UserError: images of the wrong type or of different sizes, or a region that `square_in` refuses.
    """
    check_pair(rgb, depth, depth_unit_m)
    height, width = depth.shape
    square = square_in(roi if roi is not None else Roi(0, 0, width, height), height=height, width=width)
    # Averaging k x k pixels and then resizing linearly takes a fifth of the time of INTER_AREA with a fractional factor (1.2 ms
    # for a complete frame) and aliases as little, because the remaining factor is below 2.
    factor = max(1, square.w // size)
    side = square.w - square.w % factor
    square = Roi(square.x, square.y, side, side)
    buffers = out if out is not None else Buffers(size)
    if factor > 1 and side == factor * size and _is_aligned(square, factor, height=height, width=width):
        _fit_inside(rgb, depth, square, factor, buffers)
    else:
        _fit_square(crop(rgb, square, out=buffers), crop(depth, square, out=buffers), factor, buffers)
    codes = codes_of_one_mm(buffers.codes, depth_unit_m=depth_unit_m)
    return Framed(buffers.rgb, bytes_from_codes(codes))


def _fit_square(rgb: NDArray[np.uint8], depth: NDArray[np.uint16], factor: int, buffers: Buffers) -> None:
    """Resize a square to the size of `buffers`."""
    size = (len(buffers.rgb),) * 2
    if factor > 1:
        few = len(rgb) // factor
        averaged = buffers.scratch("averaged", (few, few, 3), rgb.dtype)
        how = cv2.INTER_AREA
        if factor in BLURRED_FACTORS:
            rgb = cv2.blur(rgb, (factor, factor), dst=buffers.scratch("blurred", rgb.shape, rgb.dtype))  # type: ignore[assignment]
            how = cv2.INTER_NEAREST_EXACT  # the middle of each block
        rgb = cv2.resize(rgb, (few, few), dst=averaged, interpolation=how)  # type: ignore[assignment]
    cv2.resize(rgb, size, dst=buffers.rgb, interpolation=cv2.INTER_LINEAR)
    cv2.resize(depth, size, dst=buffers.codes, interpolation=cv2.INTER_NEAREST_EXACT)


def _is_aligned(square: Roi, factor: int, *, height: int, width: int) -> bool:
    """Whether each block of `factor` x `factor` pixels of the square is inside or outside of the image."""
    inside = (max(-square.y, 0), max(-square.x, 0), min(height - square.y, square.h), min(width - square.x, square.w))
    return all(edge % factor == 0 for edge in inside)


def _fit_inside(rgb: NDArray[np.uint8], depth: NDArray[np.uint16], square: Roi, factor: int, buffers: Buffers) -> None:
    """The same as `_fit_square` for a square of `factor` times the size of `buffers`, without a copy of the square."""
    height, width = depth.shape
    top, left = max(square.y, 0), max(square.x, 0)
    bottom, right = min(square.y + square.h, height), min(square.x + square.w, width)
    rows = slice((top - square.y) // factor, (bottom - square.y) // factor)
    columns = slice((left - square.x) // factor, (right - square.x) // factor)
    for target in (buffers.rgb, buffers.codes):
        target[: rows.start], target[rows.stop :] = 0, 0
        target[rows, : columns.start], target[rows, columns.stop :] = 0, 0
    size = columns.stop - columns.start, rows.stop - rows.start
    cv2.resize(rgb[top:bottom, left:right], size, dst=buffers.rgb[rows, columns], interpolation=cv2.INTER_AREA)
    middle = factor // 2  # of a block, as in INTER_NEAREST_EXACT
    buffers.codes[rows, columns] = depth[top + middle : bottom : factor, left + middle : right : factor]


def codes_of_one_mm(codes: NDArray[np.uint16], *, depth_unit_m: float) -> NDArray[np.uint16]:
    """Convert codes of `depth_unit_m` metres to codes of 1 mm; 0 stays 0, everything else stays within 1..65535."""
    if abs(depth_unit_m - DEPTH_UNIT_M) <= 1e-9:
        return codes
    converted: NDArray[np.uint16] = _table_of_one_mm(depth_unit_m)[codes]
    return converted


@lru_cache(maxsize=4)
def _table_of_one_mm(depth_unit_m: float) -> NDArray[np.uint16]:
    """The code of 1 mm for each code of `depth_unit_m` metres."""
    rounded = np.rint(np.arange(MAX_DEPTH_CODE + 1) * (depth_unit_m / DEPTH_UNIT_M))
    table: NDArray[np.uint16] = np.clip(rounded, 1, MAX_DEPTH_CODE).astype(np.uint16)
    table[0] = 0
    return table


def check_pair(rgb: NDArray[np.uint8], depth: NDArray[np.uint16], depth_unit_m: float) -> None:
    """Check that two arrays are an aligned RGB-D pair.

    Raises:
        UserError: not arrays, wrong dtype, shape or number of channels, different sizes, or an implausible depth unit.
    """
    for name, image in (("RGB", rgb), ("depth", depth)):
        if not isinstance(image, np.ndarray):  # cv2.imread gives None for a file that is missing
            raise UserError(f"{name} is {type(image).__name__}: a NumPy array was expected")
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise UserError(f"RGB is {rgb.dtype} {list(rgb.shape)}: uint8 [H, W, 3] was expected")
    if depth.dtype != np.uint16 or depth.ndim != 2:
        raise UserError(f"depth is {depth.dtype} {list(depth.shape)}: uint16 [H, W] was expected")
    if rgb.shape[:2] != depth.shape:
        raise UserError(
            f"RGB is {rgb.shape[1]}x{rgb.shape[0]} and depth {depth.shape[1]}x{depth.shape[0]}: align them to one view first"
        )
    if not 1e-6 <= depth_unit_m <= 0.1:
        raise UserError(f"depth unit is {depth_unit_m} m: a value such as 0.001 (1 mm) was expected")


def crop(image: NDArray[Any], square: Roi, *, out: Buffers | None = None) -> NDArray[Any]:
    """The part of `image` inside `square`, 0 outside the image. A view if the square is inside the image.

    Args:
        out: memory of a square that is partly outside; None = a new array.
    """
    height, width = image.shape[:2]
    left, top = max(square.x, 0), max(square.y, 0)
    right, bottom = min(square.x + square.w, width), min(square.y + square.h, height)
    inside = image[top:bottom, left:right]
    if inside.shape[:2] == (square.h, square.w):
        return inside
    shape = (square.h, square.w, *image.shape[2:])
    padded = np.empty(shape, image.dtype) if out is None else out.scratch(f"padded {image.ndim}", shape, image.dtype)
    rows, columns = slice(top - square.y, bottom - square.y), slice(left - square.x, right - square.x)
    padded[: rows.start], padded[rows.stop :] = 0, 0
    padded[rows, : columns.start], padded[rows, columns.stop :] = 0, 0
    padded[rows, columns] = inside
    return padded
