"""JPEG files of a pair for pages: small ones for the grid, larger ones for one pair, and the whole images around its region."""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edgefuse.framing import Roi
from edgefuse.io.images import jpeg_bytes
from edgefuse_runtime.browse.index import Entry
from edgefuse_runtime.regions.region import MAX_COORDINATE
from edgefuse_runtime.web.images import depth_colours

Kind = Literal["rgb", "depth"]
WIDTHS_PX = {"small": 240, "large": 640, "whole": 640}
PERCENTILES = (2, 98)
"""Without a model, the colours of a depth image go over this part of its own distances."""


def pair_jpeg(entry: Entry, *, kind: str, size: str, range_m: tuple[float, float] | None) -> bytes:
    """One image of a pair.

    Args:
        kind: "rgb" or "depth".
        size: "small", "large", or "whole": the whole image with the region marked, as large.
        range_m: distances of the first and the last colour of depth; None = by the image itself.

    Raises:
        UserError: the pair cannot be read, or has no whole images.
    """
    is_whole = size == "whole"
    rgb, depth = entry.read_whole() if is_whole else entry.read()
    roi, scale = entry.roi if is_whole else None, min(WIDTHS_PX[size] / rgb.shape[1], 1.0)
    if kind == "rgb":
        return jpeg_bytes(_marked(_narrow(rgb, WIDTHS_PX[size], cv2.INTER_AREA), roi, scale))
    unit_m = entry.source.depth_unit_m
    depth = _narrow(depth, WIDTHS_PX[size], cv2.INTER_NEAREST)
    if range_m is None:
        measured = depth[depth > 0]
        near, far = np.percentile(measured, PERCENTILES) if len(measured) else (0, 1)
        range_m = float(near) * unit_m, float(far) * unit_m
    return jpeg_bytes(_marked(depth_colours(depth, depth_unit_m=unit_m, range_m=range_m), roi, scale))


def _marked(image: NDArray[np.uint8], roi: Roi | None, scale: float) -> NDArray[np.uint8]:
    """The image with the outline of a region, white on black, which is visible on every colour."""
    if roi is None:
        return image
    marked = image.copy()
    x, y, w, h = (
        round(max(min(value, MAX_COORDINATE), -MAX_COORDINATE) * scale) for value in roi
    )  # OpenCV has 32 bits
    for grey, thickness in ((0, 5), (255, 2)):
        cv2.rectangle(marked, (x, y), (x + w, y + h), (grey,) * 3, thickness)
    return marked


def _narrow(image: NDArray[Any], width: int, interpolation: int) -> NDArray[Any]:
    if image.shape[1] <= width:
        return image
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation))
