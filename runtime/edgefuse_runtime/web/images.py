"""The images of the page: depth in colours, JPEG files."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edgefuse.io.images import jpeg_bytes

MAX_WIDTH_PX = 640
STRIPE_PX = 6
"""Pixels without a measurement are striped, so that they differ from every distance without relying on colour."""
_STRIPES = np.array([[38, 38, 46], [92, 92, 104]], np.uint8)
_COLOURS = cv2.applyColorMap(np.arange(255, -1, -1, dtype=np.uint8)[:, np.newaxis], cv2.COLORMAP_TURBO)[:, 0, ::-1]
"""[256, 3]: near is red, far is blue, as in the RealSense viewer."""


def rgb_jpeg(rgb: NDArray[np.uint8]) -> bytes:
    """A colour image, at most `MAX_WIDTH_PX` wide."""
    return jpeg_bytes(_narrow(rgb))


def depth_jpeg(depth: NDArray[np.uint16], *, depth_unit_m: float, range_m: tuple[float, float]) -> bytes:
    """A depth image in colours from the near to the far end of `range_m`, at most half of `MAX_WIDTH_PX` wide."""
    while depth.shape[1] > MAX_WIDTH_PX // 2:
        depth = depth[::2, ::2]
    return jpeg_bytes(depth_colours(depth, depth_unit_m=depth_unit_m, range_m=range_m))


def depth_colours(depth: NDArray[np.uint16], *, depth_unit_m: float, range_m: tuple[float, float]) -> NDArray[np.uint8]:
    """Depth in colours, uint8 [H, W, 3] in RGB order; nearer and farther than `range_m` have the colours of its ends."""
    near_m, far_m = range_m
    place = (depth.astype(np.float32) * depth_unit_m - near_m) * (255.0 / max(far_m - near_m, 1e-6))
    colours = _COLOURS[np.clip(place, 0, 255).astype(np.uint8)]
    height, width = depth.shape
    stripe = (np.arange(height)[:, np.newaxis] + np.arange(width)) // STRIPE_PX % 2
    return np.asarray(np.where((depth == 0)[..., np.newaxis], _STRIPES[stripe], colours), np.uint8)


def _narrow(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    if width <= MAX_WIDTH_PX:
        return image
    size = (MAX_WIDTH_PX, max(1, round(height * MAX_WIDTH_PX / width)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
