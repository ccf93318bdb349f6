"""Finding the nearest compact objects in a depth image, for `--roi nearest`.

Method: remove the largest plane (such as a table or wall), search from near to far for compact parts, and accept only a part with
a depth discontinuity along most of its outline. A belt, a floor, a wall or noise has no such part, so nothing is found there. The
work is bounded for any image.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edgefuse.framing import Roi
from edgefuse_runtime.regions.follow import Found

GRID = 120
"""Pixels of the shorter side after downsampling: enough for a bounding box, and 1 ms instead of 20."""

LAYER_M = 0.12
"""Maximum depth extent of an object."""

MAX_LAYERS = 12
"""Number of layers to search, from near to far; bounds the time for images with many distances."""

MAX_IN_LAYER = 4
"""Number of objects to search in one layer."""

MIN_AREA = 0.003
"""Minimum fraction of the image's pixels: smaller parts are speckles."""

MIN_COMPACTNESS = 0.2
"""Minimum fraction of its bounding square that an object fills: the edge of a table fills less."""

PADDING = 0.1
"""Margin on each side, as a fraction of the square's side."""

BODY_STEP_PER_M = 0.08
"""Parts of an object are connected where neighbouring grid pixels differ by less than this, in 1/m: 3 cm at 0.6 m, 8 cm at 1 m."""

NUM_PLANES = 64
NUM_POINTS = 800
MIN_SURFACE = 0.3
"""Minimum fraction of the measured pixels on a plane."""

SURFACE_TOLERANCE_PER_M = 0.015
"""Maximum distance of a pixel from its plane, in 1/m: 1.5 cm at 1 m, 6 cm at 2 m, proportional to a stereo camera's noise."""

JUMP_REACH = 2
"""A discontinuity is measured between this many grid pixels inside and outside the outline."""

JUMP_NOISE = 5.0
"""Minimum size of a discontinuity, as a multiple of the median second difference of the image."""

MIN_JUMPING = 0.4
"""Minimum fraction of an outline with a discontinuity: an object touches the table on one side only, a piece of floor continues."""

MAX_AT_EDGE = 0.5
"""Maximum fraction of an outline at the image's edge: a part with more of it there is a surface."""

VOID = 12
"""Up to this many unmeasured grid pixels before the image's edge count as the edge; more count as distant background."""


def nearest_objects(depth: NDArray[np.uint16], *, depth_unit_m: float, most: int = 1) -> list[Found]:
    """The nearest compact objects, the nearest first, each as the square around it inside the image.

    Args:
        depth: uint16 [H, W] in codes of `depth_unit_m` metres, 0 = no measurement.
        most: number of objects to search.
    """
    height, width = depth.shape
    step = max(1, min(height, width) // GRID)
    small = np.asarray(cv2.medianBlur(np.ascontiguousarray(depth[::step, ::step]), 5), np.uint16)
    layer = max(2, round(LAYER_M / depth_unit_m))
    is_measured = small > 0
    inverse = np.zeros(small.shape, np.float32)
    np.divide(np.float32(1 / depth_unit_m), small, out=inverse, where=is_measured)
    surface = _surface(inverse, is_measured)
    height_over = inverse if surface is None else inverse - surface
    outline = _Outline(height_over, is_measured)
    found: list[_Blob] = []
    if surface is not None:
        objects = np.where(height_over > SURFACE_TOLERANCE_PER_M, small, 0).astype(np.uint16)
        found = _nearest_blobs(objects, inverse, layer=layer, outline=outline, most=most)
    if not found:  # the largest plane may be the object itself
        found = _nearest_blobs(small, inverse, layer=layer, outline=outline, most=most)
    return [
        Found(_square(blob.box, step=step, height=height, width=width), blob.nearest * depth_unit_m) for blob in found
    ]


def _square(box: Roi, *, step: int, height: int, width: int) -> Roi:
    """The square around a box of the grid, with a margin, in pixels of the image and inside it."""
    side = min(round(max(box.w, box.h) * step * (1 + 2 * PADDING)), height, width)
    x = box.x * step + (box.w * step - side) // 2
    y = box.y * step + (box.h * step - side) // 2
    return Roi(min(max(x, 0), width - side), min(max(y, 0), height - side), side, side)


def _surface(inverse: NDArray[np.float32], is_measured: NDArray[np.bool_]) -> NDArray[np.float32] | None:
    """The largest plane of the image, as 1/z (in 1/m) at each pixel; None if no plane is large enough.

    1/z of a plane is linear in pixel coordinates for any focal length, so no intrinsics are needed.
    """
    measured = np.flatnonzero(is_measured)
    if len(measured) < 3:
        return None
    rng = np.random.default_rng(0)
    chosen = measured[rng.integers(0, len(measured), NUM_POINTS)]
    sample = np.stack([chosen % inverse.shape[1], chosen // inverse.shape[1], inverse.flat[chosen]], axis=1).astype(
        float
    )
    corners = sample[rng.integers(0, len(sample), (NUM_PLANES, 3))]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    upright = np.abs(normals[:, 2]) > 1e-9  # three points on a line define no plane over the image
    if not upright.any():
        return None
    corners, normals = corners[upright], normals[upright]
    slopes = -normals[:, :2] / normals[:, 2:]
    offsets = corners[:, 0, 2] - (slopes * corners[:, 0, :2]).sum(axis=1)
    errors = np.abs(sample[:, 2] - slopes @ sample[:, :2].T - offsets[:, np.newaxis])
    num_near = (errors < SURFACE_TOLERANCE_PER_M).sum(axis=1)
    best = int(np.argmax(num_near))
    if num_near[best] < MIN_SURFACE * len(sample):
        return None
    on_plane = sample[errors[best] < SURFACE_TOLERANCE_PER_M]
    design = np.column_stack([on_plane[:, :2], np.ones(len(on_plane))])
    (along_x, along_y, offset), *_ = np.linalg.lstsq(design, on_plane[:, 2], rcond=None)
    rows, columns = (np.arange(size, dtype=np.float32) for size in inverse.shape)
    plane = along_y * rows[:, np.newaxis] + along_x * columns + offset
    return np.asarray(plane, np.float32)


class _Outline:
    """Checks whether a part of the image is separated from its surroundings by a depth discontinuity.

    The discontinuity is the distance, in 1/m, by which the image outside is farther than the part's slope predicts. A plane has
    none in any direction, even across its holes. An unmeasured area up to the image's edge counts as far away.
    """

    def __init__(self, height: NDArray[np.float32], is_measured: NDArray[np.bool_]) -> None:
        """Prepare for the parts of one image.

        Args:
            height: float32 [H, W], 1/z relative to the largest plane, in 1/m; larger is nearer.
        """
        bends = np.abs(2 * height[:, 2:-2] - height[:, :-4] - height[:, 4:])
        bends = bends[is_measured[:, 2:-2] & is_measured[:, :-4] & is_measured[:, 4:]]
        self._least = max(SURFACE_TOLERANCE_PER_M, JUMP_NOISE * float(np.median(bends)) if len(bends) else 0.0)
        self._height, self._is_measured = height, is_measured

    @functools.cached_property
    def _views(self) -> list[_View]:
        return [_View(np.rot90(self._height, turns), np.rot90(self._is_measured, turns)) for turns in range(4)]

    def is_separate(self, part: NDArray[np.bool_]) -> bool:
        """Whether depth is discontinuous along most of the outline of `part`, a mask. Holes are filled first."""
        inside = _filled(part)
        num_outline = num_jumps = num_at_edge = 0
        for turns, view in enumerate(self._views):
            at_edge, jumps = view.jumps(np.rot90(inside, turns))
            num_at_edge += at_edge
            num_outline += at_edge + len(jumps)
            num_jumps += int(np.count_nonzero(jumps > self._least))
        return num_at_edge <= MAX_AT_EDGE * num_outline and num_jumps >= MIN_JUMPING * max(num_outline - num_at_edge, 1)


class _View:
    """The image, rotated so that outwards is downwards."""

    def __init__(self, height: NDArray[np.float32], is_measured: NDArray[np.bool_]) -> None:
        self._height, self._is_measured = height, is_measured
        self._num_rows = len(height)
        rows = np.where(is_measured, np.arange(self._num_rows)[:, np.newaxis], self._num_rows)
        self._next = np.minimum.accumulate(rows[::-1], axis=0)[::-1]
        """For each pixel, the next row at or below it with a measurement in its column; the number of rows if there is none."""

    def jumps(self, mask: NDArray[np.bool_]) -> tuple[int, NDArray[np.float32]]:
        """For the pixels of `mask` at its lower outline: how many are at the image's edge, and the discontinuities of the others."""
        beyond = np.zeros_like(mask)
        beyond[:-JUMP_REACH] = mask[JUMP_REACH:]
        rows, columns = np.nonzero(mask & ~beyond & self._is_measured)
        below = np.minimum(rows + JUMP_REACH, self._num_rows - 1)
        found = np.where(rows + JUMP_REACH < self._num_rows, self._next[below, columns], self._num_rows)
        is_at_edge = (found == self._num_rows) & (self._num_rows - rows <= VOID)
        near, back = self._height[rows, columns], np.maximum(rows - JUMP_REACH, 0)
        has_back = mask[back, columns] & self._is_measured[back, columns]
        slope = np.where(has_back, near - self._height[back, columns], 0)
        outside = self._height[np.minimum(found, self._num_rows - 1), columns]
        outside = np.where(found == self._num_rows, -np.inf, outside)
        jumps = np.minimum(near - outside, near - outside + slope)
        return int(np.count_nonzero(is_at_edge)), jumps[~is_at_edge]


def _filled(part: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """`part` with its holes filled."""
    outlines, _ = cv2.findContours(part.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros(part.shape, np.uint8)
    cv2.drawContours(filled, outlines, -1, 1, cv2.FILLED)
    return filled.astype(np.bool_)


class _Blob(NamedTuple):
    """An object on the grid: its bounding box, and the depth code of its front."""

    box: Roi
    nearest: int


def _nearest_blobs(
    depth: NDArray[np.uint16], inverse: NDArray[np.float32], *, layer: int, outline: _Outline, most: int
) -> list[_Blob]:
    """The nearest compact parts of `depth` that are separate; `layer` is in depth codes."""
    half = layer // 2
    counts = np.bincount(depth[depth > 0] // half, minlength=1)
    enough = np.flatnonzero(counts + np.append(counts[1:], 0) >= MIN_AREA * depth.size)
    found: list[_Blob] = []
    for start in enough[:MAX_LAYERS]:
        for _ in range(MAX_IN_LAYER):
            part = _separate_part(depth, start=int(start) * half, layer=layer, outline=outline)
            if part is None:
                break
            box = Roi(*cv2.boundingRect(part.astype(np.uint8)))
            found.append(_Blob(box, int(np.percentile(depth[part], 2))))
            depth = np.where(_body(part, depth, inverse), 0, depth).astype(np.uint16)
        if len(found) >= most:
            break
    return sorted(found, key=lambda blob: blob.nearest)[:most]


def _separate_part(depth: NDArray[np.uint16], *, start: int, layer: int, outline: _Outline) -> NDArray[np.bool_] | None:
    """The part of the layer that begins at the code `start`, as a mask; None if there is none, or it is not separate."""
    part = _largest_part(depth, nearest=start, layer=layer)
    if part is None:
        return None
    # The layer began at its histogram bin. Begin it at the object's front instead, so as not to cut off its back.
    complete = _largest_part(depth, nearest=int(np.percentile(depth[part], 2)), layer=layer)
    part = part if complete is None else complete
    return part if outline.is_separate(part) else None


def _body(part: NDArray[np.bool_], depth: NDArray[np.uint16], inverse: NDArray[np.float32]) -> NDArray[np.bool_]:
    """`part` and all that is connected with it without a discontinuity of depth, as a mask: a hand and its arm are one object."""
    kernel = np.ones((3, 3), np.uint8)
    steps = cv2.dilate(inverse, kernel) - cv2.erode(inverse, kernel)
    smooth = ((depth > 0) & (steps < BODY_STEP_PER_M)) | part
    _, parts = cv2.connectedComponents(smooth.astype(np.uint8), connectivity=8, ltype=cv2.CV_16U)
    whole = np.isin(parts, np.unique(parts[part])).astype(np.uint8)
    return np.asarray(cv2.dilate(whole, kernel) > 0)


def _largest_part(depth: NDArray[np.uint16], *, nearest: int, layer: int) -> NDArray[np.bool_] | None:
    """The largest connected part of the layer that is large and compact enough, as a mask."""
    mask = cv2.inRange(depth, max(nearest, 1), nearest + layer - 1)
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8, ltype=cv2.CV_16U)
    areas = stats[1:, cv2.CC_STAT_AREA]
    sides = stats[1:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1, initial=1)
    fits = (areas >= MIN_AREA * depth.size) & (areas >= MIN_COMPACTNESS * sides.astype(np.float64) ** 2)
    if not fits.any():
        return None
    return np.asarray(parts == 1 + int(np.argmax(np.where(fits, areas, 0))))
