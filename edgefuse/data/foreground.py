"""Augmentation of the near layer: the object in front of other backgrounds, from slightly different directions, in the colours of other pairs.

Owns how depth separates an object from what is behind it, and these three changes; only augmentation and the checks before a training
use it. Images are framed: rgb uint8 [S, S, 3], codes uint16 [S, S] in millimetres, 0 = no measurement.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import MAX_DEPTH_CODE

Rgb = NDArray[np.uint8]
Codes = NDArray[np.uint16]
Map = NDArray[np.float32]
Image = NDArray[Any]

BLOCKS_ACROSS = 12
"""The nearest surface is the smallest mean of these blocks, as in `edgefuse.model.encoding`, so that a stray pixel does not count as one."""
LEAST_NEAR, MOST_NEAR, LEAST_FAR = 0.02, 0.75, 0.5
"""Depth separates object and background if the near layer covers more than `LEAST_NEAR` and less than `MOST_NEAR` of the image, and at least
the fraction `LEAST_FAR` of the other pixels is measured behind it."""
GAP_MM = 100.0
"""A new background begins at least this far behind the near layer."""
GENERATED = 0.25
"""Fraction of the new backgrounds that are generated from noise; the others come from other sequences."""
FOCAL_LENGTHS = (2.5, 5.0)
"""Range of the focal length in image sides, for turning: a crop of 128 pixels from a camera with a focal length of 600 pixels has 4.7."""


class Layers(NamedTuple):
    """near, far: bool [S, S], measured pixels of the near layer and behind it; `start_mm` and `end_mm`: where the near layer begins and ends."""

    near: NDArray[np.bool_]
    far: NDArray[np.bool_]
    start_mm: float
    end_mm: float


class Pair(NamedTuple):
    """One framed pair."""

    rgb: Rgb
    codes: Codes


def layers_of(codes: Codes, *, depth_window_m: float) -> Layers | None:
    """The near layer, which reaches `depth_window_m` behind the nearest surface; None if depth does not separate it from a background."""
    size = len(codes)
    across = min(BLOCKS_ACROSS, size)
    both = cv2.merge([codes.astype(np.float32), (codes > 0).astype(np.float32)])
    total, measured = cv2.split(cv2.resize(both, (across, across), interpolation=cv2.INTER_AREA))
    dense = measured > 0.5
    if not dense.any():
        return None
    start_mm = float((total[dense] / measured[dense]).min())
    end_mm = start_mm + 1000 * depth_window_m
    near, far = (codes > 0) & (codes < end_mm), codes >= end_mm
    num_near, num_far = np.count_nonzero(near), np.count_nonzero(far)
    if not LEAST_NEAR < num_near / near.size < MOST_NEAR or num_far < LEAST_FAR * (near.size - num_near):
        return None
    return Layers(near, far, start_mm, end_mm)


def replace_background(pair: Pair, layers: Layers, other: Pair | None, rng: np.random.Generator) -> Pair:
    """The near layer of a pair in front of another background.

    The edge of the object is blended over one pixel. Pixels without a measurement beside it, which a stereo camera cannot see with both
    eyes, keep none. The new background is moved back if it is nearer than the object.

    Args:
        other: the new background, without its own near layer. None, or if depth does not separate it: a generated background.
    """
    window_m = (layers.end_mm - layers.start_mm) / 1000
    of_other = None if other is None else layers_of(other.codes, depth_window_m=window_m)
    if other is None or of_other is None or rng.random() < GENERATED:
        behind = _generated(len(pair.codes), rng)
    else:
        behind = without_near_layer(other, of_other)
    outline = _outline(layers.near)
    rgb = _blend(pair.rgb, behind.rgb, cv2.GaussianBlur(outline, (0, 0), 0.8))
    distances, measured = behind.codes.astype(np.float32), behind.codes > 0
    start_mm = layers.end_mm + GAP_MM
    if measured.any():
        distances += max(0.0, start_mm - float(np.percentile(distances[measured], 5)))
    far = np.where(measured, np.clip(distances, start_mm, MAX_DEPTH_CODE), 0)
    codes = np.where(outline > 0.5, np.where(layers.near, pair.codes, 0), far).astype(np.uint16)
    codes[_shadow(pair.codes, layers.near)] = 0
    return Pair(rgb, codes)


def turn_near_layer(pair: Pair, layers: Layers, *, angles_deg: tuple[float, float], focal_length: float) -> Pair:
    """The near layer turned about its centre, as a small motion of the camera would show it: re-projected through depth.

    Nearer parts move more than farther ones and cover them; the background is filled in where the object was.

    Args:
        angles_deg: about the vertical and the horizontal axis.
        focal_length: in image sides.
    """
    body = _outline(layers.near) > 0.5
    depth = _smooth_depth(pair.codes, layers.near)
    rows, columns = np.nonzero(body)
    source = _turned(
        rows, columns, depth[body], angles_deg=angles_deg, focal_px=focal_length * len(depth), size=len(depth)
    )
    hit = source[..., 3] > 0
    covered = cv2.morphologyEx(hit.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)) > 0
    blurred = cv2.GaussianBlur(source, (0, 0), 1.0)  # closes the gaps between stretched pixels
    filled = np.where(hit[..., None], source[..., :3], blurred[..., :3] / np.maximum(blurred[..., 3:], 1e-6))
    columns_map, rows_map, distance = (np.ascontiguousarray(filled[..., k], np.float32) for k in range(3))

    def looked_up(image: Image, interpolation: int) -> Image:
        return np.asarray(cv2.remap(image, columns_map, rows_map, interpolation, borderMode=cv2.BORDER_REPLICATE))

    behind = without_near_layer(pair, layers)
    rgb = _blend(
        looked_up(pair.rgb, cv2.INTER_LINEAR), behind.rgb, cv2.GaussianBlur(covered.astype(np.float32), (0, 0), 0.8)
    )
    relief = np.where(layers.near, np.clip(pair.codes - depth, -30, 30), 0).astype(np.float32)
    near = np.where(
        looked_up(layers.near.astype(np.uint8), cv2.INTER_NEAREST) > 0,
        distance + looked_up(relief, cv2.INTER_NEAREST),
        0,
    )
    codes = np.where(covered, near, behind.codes)
    codes[_shadow(pair.codes, layers.near) & ~covered] = 0
    return Pair(rgb, np.clip(codes, 0, MAX_DEPTH_CODE).astype(np.uint16))


def restyle(rgb: Rgb, other: Rgb, *, amount: float) -> Rgb:
    """Mean and standard deviation of each colour channel moved by the fraction `amount` towards those of another image."""
    mean, deviation = (np.asarray(value)[:, 0] for value in cv2.meanStdDev(rgb))
    other_mean, other_deviation = (np.asarray(value)[:, 0] for value in cv2.meanStdDev(other))
    gain = np.clip((1 - amount) + amount * other_deviation / (deviation + 1e-3), 0.4, 2.5)
    levels = (np.arange(256)[:, None] - mean) * gain + mean + amount * (other_mean - mean)
    table = np.rint(np.clip(levels, 0, 255)).astype(np.uint8)
    return np.asarray(cv2.LUT(np.ascontiguousarray(rgb), table[None]), np.uint8)


def without_near_layer(pair: Pair, layers: Layers) -> Pair:
    """A pair whose near layer is filled in: RGB from its surroundings, depth with the median behind it."""
    size = len(pair.codes)
    margin = max(1, round(size / 16))
    kept = 1 - cv2.dilate(layers.near.astype(np.float32), np.ones((margin, margin), np.uint8))
    small = (max(2, size // 8),) * 2
    weight = cv2.GaussianBlur(cv2.resize(kept, small, interpolation=cv2.INTER_AREA), (0, 0), 2)[..., None]
    colour = cv2.resize(pair.rgb * kept[..., None], small, interpolation=cv2.INTER_AREA)
    counted = kept > 0 if kept.any() else layers.far
    mean = np.array(cv2.mean(pair.rgb, counted.view(np.uint8))[:3], np.float32)  # far from all that is kept
    surroundings = cv2.resize((cv2.GaussianBlur(colour, (0, 0), 2) + 1e-3 * mean) / (weight + 1e-3), (size, size))
    codes = pair.codes.copy()
    codes[layers.near] = round(float(np.median(pair.codes[layers.far])))
    return Pair(_blend(pair.rgb, cv2.convertScaleAbs(surroundings), kept), codes)


def _outline(near: NDArray[np.bool_]) -> Map:
    """1 inside the object: the near layer without its small holes, and a little wider, because depth misses edges."""
    side = max(1, round(len(near) / 40))
    closed = cv2.morphologyEx(near.astype(np.float32), cv2.MORPH_CLOSE, np.ones((2 * side + 1, 2 * side + 1), np.uint8))
    return np.asarray(cv2.dilate(closed, np.ones((side, side), np.uint8)), np.float32)


def _shadow(codes: Codes, near: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels without a measurement next to the near layer."""
    side = 2 * max(1, len(codes) // 12) + 1
    around = cv2.dilate(near.astype(np.uint8), np.ones((side, side), np.uint8))
    return np.asarray((codes == 0) & (around > 0))


def _smooth_depth(codes: Codes, near: NDArray[np.bool_]) -> Map:
    """Distance in mm of the near layer without noise, continued over its holes and beyond its edges."""
    kept = cv2.medianBlur(np.where(near, codes, np.uint16(0)), 5).astype(np.float32)
    kept = kept if kept.any() else np.where(near, codes, 0).astype(np.float32)
    middle = np.median(kept[kept > 0])  # far from all that is kept
    (fine, fine_weight), (wide, wide_weight) = (
        (cv2.GaussianBlur(kept, (0, 0), sigma), cv2.GaussianBlur((kept > 0).astype(np.float32), (0, 0), sigma))
        for sigma in (1.5, len(codes) / 20)
    )
    continued = (wide + 1e-6 * middle) / (wide_weight + 1e-6)
    return np.asarray(np.where(fine_weight > 0.2, fine / (fine_weight + 1e-6), continued), np.float32)


def _turned(
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    depth: Map,
    *,
    angles_deg: tuple[float, float],
    focal_px: float,
    size: int,
) -> Map:
    """[S, S, 4]: for each pixel of the turned image the column and row that it comes from, its new distance, and 1; 0 where nothing is."""
    middle_row, middle_column, middle = rows.mean(), columns.mean(), float(np.median(depth))
    x, y, z = (columns - middle_column) * depth / focal_px, (rows - middle_row) * depth / focal_px, depth - middle
    (cos_v, cos_h), (sin_v, sin_h) = np.cos(np.deg2rad(angles_deg)), np.sin(np.deg2rad(angles_deg))
    x, z = cos_v * x + sin_v * z, cos_v * z - sin_v * x
    y, z = cos_h * y - sin_h * z, cos_h * z + sin_h * y
    distance = np.maximum(z + middle, 1)
    to_column = np.rint(x * focal_px / distance + middle_column).astype(int)
    to_row = np.rint(y * focal_px / distance + middle_row).astype(int)
    inside = (to_column >= 0) & (to_column < size) & (to_row >= 0) & (to_row < size)
    order = np.flatnonzero(inside)[
        np.argsort(-distance[inside], kind="stable")
    ]  # far first, so that near pixels cover them
    found = np.zeros((size, size, 4), np.float32)
    found[to_row[order], to_column[order]] = np.stack(
        [columns[order], rows[order], distance[order], np.ones(len(order))], 1
    )
    return found


def _generated(size: int, rng: np.random.Generator) -> Pair:
    """A background of coloured noise at several scales, 1 to 3 m away."""
    image: Image = np.zeros((1, 1, 3), np.float32)
    for across in (2, 4, 8, 16, 32):  # only the last image has the size of the result: a quarter of the time
        noise = rng.standard_normal((across, across, 3), dtype=np.float32)
        coarser = cv2.resize(image, (across, across), interpolation=cv2.INTER_CUBIC)
        image = coarser + np.float32(rng.uniform(0, 1)) * noise
    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)
    grey = cv2.transform(image, np.full((1, 3), 1 / 3, np.float32))[..., None]
    image = rng.uniform(40, 215) + rng.uniform(10, 60) * (grey + rng.uniform(0, 1) * (image - grey))
    relief = cv2.resize(rng.standard_normal((3, 3), dtype=np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    return Pair(np.clip(image, 0, 255).astype(np.uint8), np.clip(2000 + 400 * relief, 1000, 3000).astype(np.uint16))


def _blend(front: Image, behind: Image, alpha: Image) -> Rgb:
    """alpha * front + (1 - alpha) * behind, uint8 [S, S, 3]; alpha is float32 [S, S] in 0..1."""
    return np.asarray(cv2.blendLinear(front, behind, alpha, 1 - alpha), np.uint8)
