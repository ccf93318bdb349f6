"""Finding the nearest compact thing in a depth picture: what `--roi nearest` looks at.

Owns the method: take away the surface that things stand on or hang before, then look from near to far. Only
`edgefuse_runtime.regions` imports it.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edgefuse.framing import Roi

GRID = 120
"""Pixels of the shorter side that are looked at: enough for a box, and 1 ms instead of 20."""

LAYER_M = 0.12
"""How deep a thing may be."""

MIN_AREA = 0.004
"""Least share of the picture's pixels: smaller ones are speckles."""

MIN_COMPACTNESS = 0.2
"""Least share of its bounding square that a thing fills: the edge of a table is more elongated."""

PADDING = 0.1
"""Margin on each side, as a share of the square's side."""

NUM_PLANES = 64
NUM_POINTS = 800
MIN_SURFACE = 0.3
"""Least share of the measured pixels that a surface holds."""

SURFACE_TOLERANCE_PER_M = 0.015
"""How far from the surface a pixel still belongs to it, in 1/m: 1.5 cm at 1 m, 6 cm at 2 m, growing as a stereo camera's noise does."""


def nearest_thing(depth: NDArray[np.uint16], *, depth_unit_m: float) -> Roi | None:
    """The square around the nearest compact thing, inside the picture; None where there is none.

    Args:
        depth: uint16 [H, W] in codes of `depth_unit_m` metres, 0 = no measurement.
    """
    height, width = depth.shape
    step = max(1, min(height, width) // GRID)
    small = np.asarray(cv2.medianBlur(np.ascontiguousarray(depth[::step, ::step]), 5), np.uint16)
    layer = max(2, round(LAYER_M / depth_unit_m))
    found = _nearest_blob(_without_surface(small, depth_unit_m=depth_unit_m), layer=layer)
    if found is None:
        found = _nearest_blob(small, layer=layer)
    if found is None:
        return None
    side = min(round(max(found.w, found.h) * step * (1 + 2 * PADDING)), height, width)
    x = found.x * step + (found.w * step - side) // 2
    y = found.y * step + (found.h * step - side) // 2
    return Roi(min(max(x, 0), width - side), min(max(y, 0), height - side), side, side)


def _without_surface(depth: NDArray[np.uint16], *, depth_unit_m: float) -> NDArray[np.uint16]:
    """`depth` with 0 for what lies on its largest plane or behind it; unchanged where no plane is large.

    1/z of a plane is linear in the pixel's coordinates whatever the lens, so that no intrinsics are needed.
    """
    rows, columns = np.nonzero(depth)
    if len(rows) < 3:
        return depth
    points = np.stack([columns, rows, 1.0 / (depth[rows, columns] * depth_unit_m)], axis=1)
    rng = np.random.default_rng(0)
    sample = points[rng.integers(0, len(points), NUM_POINTS)]
    corners = sample[rng.integers(0, len(sample), (NUM_PLANES, 3))]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    upright = np.abs(normals[:, 2]) > 1e-9  # three corners on a line span no plane over the picture
    if not upright.any():
        return depth
    corners, normals = corners[upright], normals[upright]
    slopes = -normals[:, :2] / normals[:, 2:]
    offsets = corners[:, 0, 2] - (slopes * corners[:, 0, :2]).sum(axis=1)
    errors = np.abs(sample[:, 2] - slopes @ sample[:, :2].T - offsets[:, np.newaxis])
    num_near = (errors < SURFACE_TOLERANCE_PER_M).sum(axis=1)
    best = int(np.argmax(num_near))
    if num_near[best] < MIN_SURFACE * len(sample):
        return depth
    on_plane = sample[errors[best] < SURFACE_TOLERANCE_PER_M]
    design = np.column_stack([on_plane[:, :2], np.ones(len(on_plane))])
    plane, *_ = np.linalg.lstsq(design, on_plane[:, 2], rcond=None)
    before = points[:, 2] - points[:, :2] @ plane[:2] - plane[2] > SURFACE_TOLERANCE_PER_M
    things = np.zeros_like(depth)
    things[rows[before], columns[before]] = depth[rows[before], columns[before]]
    return things


def _nearest_blob(depth: NDArray[np.uint16], *, layer: int) -> Roi | None:
    """Bounding box of the nearest compact part of `depth`; `layer` is in its codes."""
    half = layer // 2
    counts = np.bincount(depth[depth > 0] // half, minlength=1)
    enough = np.flatnonzero(counts + np.append(counts[1:], 0) >= MIN_AREA * depth.size)
    for start in enough:
        part = _largest_part(depth, nearest=int(start) * half, layer=layer)
        if part is None:
            continue
        # The layer began wherever its bin did; begin it again at the thing's own front, so as not to cut its back off.
        whole = _largest_part(depth, nearest=int(np.percentile(depth[part], 2)), layer=layer)
        return Roi(*cv2.boundingRect((part if whole is None else whole).astype(np.uint8)))
    return None


def _largest_part(depth: NDArray[np.uint16], *, nearest: int, layer: int) -> NDArray[np.bool_] | None:
    """The largest connected part of the layer that is large and compact enough, as a mask."""
    mask = ((depth > 0) & (depth >= nearest) & (depth < nearest + layer)).astype(np.uint8)
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    sides = stats[1:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]].max(axis=1, initial=1)
    fits = (areas >= MIN_AREA * depth.size) & (areas >= MIN_COMPACTNESS * sides.astype(np.float64) ** 2)
    if not fits.any():
        return None
    return np.asarray(parts == 1 + int(np.argmax(np.where(fits, areas, 0))))
