"""Finding the nearest compact thing in a depth image: what `--roi nearest` looks at.

Owns the method: remove the surface that things stand on or hang before, search from near to far for compact parts, and accept
only one that stands out: behind most of its outline, depth jumps. A belt, a floor, a wall or noise has no such part, so that nothing
is found there. Work is bounded whatever the image holds. Only `edgefuse_runtime.regions.region` imports it.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
from numpy.typing import NDArray

from edgefuse.framing import Roi

GRID = 120
"""Pixels of the shorter side that are searched: enough for a box, and 1 ms instead of 20."""

LAYER_M = 0.12
"""How deep a thing may be."""

MAX_LAYERS = 12
"""Layers that are searched, from near to far: what bounds the time on depth that is spread over many distances."""

MIN_AREA = 0.003
"""Least fraction of the image's pixels: smaller ones are speckles."""

MIN_COMPACTNESS = 0.2
"""Least fraction of its bounding square that a thing fills: the edge of a table is more elongated."""

PADDING = 0.1
"""Margin on each side, as a fraction of the square's side."""

NUM_PLANES = 64
NUM_POINTS = 800
MIN_SURFACE = 0.3
"""Least fraction of the measured pixels that a surface holds."""

SURFACE_TOLERANCE_PER_M = 0.015
"""How far from the surface a pixel still belongs to it, in 1/m: 1.5 cm at 1 m, 6 cm at 2 m, growing as a stereo camera's noise does."""

JUMP_REACH = 2
"""Grid pixels from the outline inwards and outwards between which a jump is measured."""

JUMP_NOISE = 5.0
"""Least size of a jump, in median deviations of the image from smoothness."""

MIN_JUMPING = 0.4
"""Least fraction of an outline with a jump behind it: a thing touches the table on one side, a piece of floor goes on."""

MAX_AT_EDGE = 0.5
"""Largest fraction of an outline on the image's edge: what is cut off by more of it is a surface."""

VOID = 12
"""Grid pixels without measurement up to the image's edge that are nothing, and not a hole in what is behind."""


def nearest_thing(depth: NDArray[np.uint16], *, depth_unit_m: float) -> Roi | None:
    """The square around the nearest compact thing, inside the image; None where nothing stands out.

    Args:
        depth: uint16 [H, W] in codes of `depth_unit_m` metres, 0 = no measurement.
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
    found = None
    if surface is not None:
        things = np.where(height_over > SURFACE_TOLERANCE_PER_M, small, 0).astype(np.uint16)
        found = _nearest_blob(things, layer=layer, outline=outline)
    if found is None:  # the largest surface may be the thing itself
        found = _nearest_blob(small, layer=layer, outline=outline)
    if found is None:
        return None
    side = min(round(max(found.w, found.h) * step * (1 + 2 * PADDING)), height, width)
    x = found.x * step + (found.w * step - side) // 2
    y = found.y * step + (found.h * step - side) // 2
    return Roi(min(max(x, 0), width - side), min(max(y, 0), height - side), side, side)


def _surface(inverse: NDArray[np.float32], is_measured: NDArray[np.bool_]) -> NDArray[np.float32] | None:
    """The largest plane of the image, as what 1/z (in 1/m) is on it at each pixel; None where no plane is large.

    1/z of a plane is linear in the pixel's coordinates whatever the lens, so that no intrinsics are needed.
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
    upright = np.abs(normals[:, 2]) > 1e-9  # three corners on a line span no plane over the image
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
    """Tells whether a part of the image stands out from what surrounds it.

    A jump is how much farther the image is outside than the part's own slope would take it, in 1/m: a plane has none in any
    direction, also across its holes. An area without measurement up to the image's edge counts as far away.
    """

    def __init__(self, height: NDArray[np.float32], is_measured: NDArray[np.bool_]) -> None:
        """Prepare for the parts of one image.

        Args:
            height: float32 [H, W], 1/z over the largest surface, in 1/m; larger is nearer.
        """
        bends = np.abs(2 * height[:, 2:-2] - height[:, :-4] - height[:, 4:])
        bends = bends[is_measured[:, 2:-2] & is_measured[:, :-4] & is_measured[:, 4:]]
        self._least = max(SURFACE_TOLERANCE_PER_M, JUMP_NOISE * float(np.median(bends)) if len(bends) else 0.0)
        self._height, self._is_measured = height, is_measured

    @functools.cached_property
    def _views(self) -> list[_View]:
        return [_View(np.rot90(self._height, turns), np.rot90(self._is_measured, turns)) for turns in range(4)]

    def stands_out(self, part: NDArray[np.bool_]) -> bool:
        """Does depth jump behind most of the outline of `part`, a mask? Its holes do not count."""
        inside = _filled(part)
        num_outline = num_jumps = num_at_edge = 0
        for turns, view in enumerate(self._views):
            at_edge, jumps = view.jumps(np.rot90(inside, turns))
            num_at_edge += at_edge
            num_outline += at_edge + len(jumps)
            num_jumps += int(np.count_nonzero(jumps > self._least))
        return num_at_edge <= MAX_AT_EDGE * num_outline and num_jumps >= MIN_JUMPING * max(num_outline - num_at_edge, 1)


class _View:
    """The image turned so that outwards is down."""

    def __init__(self, height: NDArray[np.float32], is_measured: NDArray[np.bool_]) -> None:
        self._height, self._is_measured = height, is_measured
        self._num_rows = len(height)
        rows = np.where(is_measured, np.arange(self._num_rows)[:, np.newaxis], self._num_rows)
        self._next = np.minimum.accumulate(rows[::-1], axis=0)[::-1]
        """The nearest row at or below each pixel that has a measurement in its column; the number of rows where none has."""

    def jumps(self, mask: NDArray[np.bool_]) -> tuple[int, NDArray[np.float32]]:
        """Of the pixels with the outline of `mask` below them: how many have the image's edge there, and the others' jumps."""
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
    """`part` with its holes."""
    outlines, _ = cv2.findContours(part.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros(part.shape, np.uint8)
    cv2.drawContours(filled, outlines, -1, 1, cv2.FILLED)
    return filled.astype(np.bool_)


def _nearest_blob(depth: NDArray[np.uint16], *, layer: int, outline: _Outline) -> Roi | None:
    """Bounding box of the nearest compact part of `depth` that stands out; `layer` is in its codes."""
    half = layer // 2
    counts = np.bincount(depth[depth > 0] // half, minlength=1)
    enough = np.flatnonzero(counts + np.append(counts[1:], 0) >= MIN_AREA * depth.size)
    for start in enough[:MAX_LAYERS]:
        part = _largest_part(depth, nearest=int(start) * half, layer=layer)
        if part is None:
            continue
        # The layer began wherever its bin did; begin it again at the thing's own front, so as not to cut its back off.
        whole = _largest_part(depth, nearest=int(np.percentile(depth[part], 2)), layer=layer)
        part = part if whole is None else whole
        if outline.stands_out(part):
            return Roi(*cv2.boundingRect(part.astype(np.uint8)))
    return None


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
