"""Models of a D4xx camera: noisy RGB codes, and depth codes with noise and holes, from a rendered view.

Owns the two sensor models; `edgefuse.synth.rendered_set` calls them. Depth comes from stereo matching: the error is in disparity, in
pixels, so that the error in metres and the depth steps grow with the square of the distance (Intel's RMS formula for D400 cameras:
distance^2 * subpixel / (focal length * baseline), subpixel 0.08 px).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import cv2
import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import DEPTH_UNIT_M
from edgefuse.synth.shapes import Array

BASELINE_M = 0.05
DISPARITY_PX_M = 385 * BASELINE_M
"""Disparity in pixels of a point one metre away, for the depth imagers at 640x480 (their focal length is about 385 px)."""

SUBPIXEL = 0.08
DISPARITY_STEP_PX = 1 / 32
NEAREST_DEPTH_M = 0.2
MATCHING_SIGMA_PX = 1.5
"""Correlation length of the error: neighbouring pixels use overlapping matching windows."""

LENS_SIGMA_PX = 0.6
"""Blur of the lens and of the demosaicing."""


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """Degradation of each sensor in one frame.

    Attributes:
        exposure: factor on the light, 1 = well lit, below 0.01 nearly black.
        warmth: relative red gain, and blue loss, of the light's colour temperature.
        depth_missing: no depth frame at all.
        blob_fraction: fraction of the view in irregular holes.
        speckle_fraction: fraction of single pixels without depth.
    """

    exposure: float
    warmth: float
    depth_missing: bool
    blob_fraction: float
    speckle_fraction: float


def rgb_codes(radiance: Array, *, degradation: Degradation, rng: np.random.Generator) -> NDArray[np.uint8]:
    """sRGB-like codes [H, W, 3] of linear radiance [H, W, 3]: lens, shot noise, read noise, black level, gamma 2.2."""
    gains = np.array([1 + degradation.warmth, 1.0, 1 - degradation.warmth], np.float32) * np.float32(
        degradation.exposure
    )
    light = cv2.GaussianBlur(radiance, (5, 5), LENS_SIGMA_PX) * gains
    noise = rng.standard_normal(light.shape, dtype=np.float32)
    light = light + noise * np.sqrt(np.float32(0.002**2) + np.float32(2e-4) * light)
    linear = np.clip(light - np.float32(0.001), 0, 1)
    return np.asarray(np.rint(linear ** np.float32(1 / 2.2) * 255), np.uint8)


def depth_codes(
    depth_m: Array, *, focal_px: float, degradation: Degradation, rng: np.random.Generator
) -> NDArray[np.uint16]:
    """Codes of 1 mm [H, W] of true depth [H, W] in metres; 0 = no measurement.

    Args:
        focal_px: focal length of the view in pixels.
    """
    if degradation.depth_missing:
        return np.zeros(depth_m.shape, np.uint16)
    disparity = np.float32(DISPARITY_PX_M) / depth_m
    hole = _shadow(depth_m, focal_px=focal_px) | _ragged_edge(disparity, rng=rng)
    hole |= _blobs(depth_m.shape, fraction=degradation.blob_fraction, rng=rng)
    hole |= rng.random(depth_m.shape, dtype=np.float32) < degradation.speckle_fraction
    disparity = disparity + np.float32(SUBPIXEL) * _matching_error(depth_m.shape, rng=rng)
    step = np.float32(DISPARITY_STEP_PX)
    measured_m = np.float32(DISPARITY_PX_M) / np.maximum(np.rint(disparity / step) * step, step)
    codes = np.rint(measured_m / np.float32(DEPTH_UNIT_M))
    hole |= (measured_m < NEAREST_DEPTH_M) | (codes > np.iinfo(np.uint16).max)
    return np.where(hole, 0, codes).astype(np.uint16)


def _shadow(depth_m: Array, *, focal_px: float) -> NDArray[np.bool_]:
    """Points that the second imager, BASELINE_M to the right, does not see, because something to their right covers them."""
    column = np.arange(depth_m.shape[1], dtype=np.float32)
    there = column - np.float32(focal_px * BASELINE_M) / depth_m
    leftmost = np.minimum.accumulate(there[:, ::-1], axis=1)[:, ::-1]
    covered = np.zeros(depth_m.shape, bool)
    covered[:, :-1] = leftmost[:, 1:] < there[:, :-1]
    return covered


def _ragged_edge(disparity: Array, *, rng: np.random.Generator, jump_px: float = 1.0) -> NDArray[np.bool_]:
    """Most pixels at a disparity step, where matching is ambiguous."""
    window = np.ones((3, 3), np.uint8)
    jump = cv2.dilate(disparity, window) - cv2.erode(disparity, window) > jump_px
    return np.asarray(jump & (rng.random(disparity.shape, dtype=np.float32) < 0.7), bool)


def _blobs(shape: tuple[int, ...], *, fraction: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Irregular holes over about `fraction` of the view."""
    if fraction <= 0:
        return np.zeros(shape, bool)
    field = _smooth_field(shape, sigma_px=9.0, rng=rng)
    return field > NormalDist().inv_cdf(1 - fraction)


def _matching_error(shape: tuple[int, ...], *, rng: np.random.Generator) -> Array:
    """Error with a standard deviation of 1, correlated between neighbours."""
    white = rng.standard_normal(shape, dtype=np.float32)
    error: Array = (
        np.float32(0.95) * _smooth_field(shape, sigma_px=MATCHING_SIGMA_PX, rng=rng) + np.float32(0.3) * white
    )
    return error


def _smooth_field(shape: tuple[int, ...], *, sigma_px: float, rng: np.random.Generator) -> Array:
    """Gaussian noise with a standard deviation of 1, smoothed over `sigma_px`; its distribution is the same at the borders."""
    margin = int(np.ceil(3 * sigma_px))
    white = rng.standard_normal((shape[0] + 2 * margin, shape[1] + 2 * margin), dtype=np.float32)
    smooth = cv2.GaussianBlur(white, (2 * margin + 1, 2 * margin + 1), sigma_px)
    # The squared weights of a Gaussian blur add up to 1 / (4 pi sigma^2).
    unit = smooth[margin:-margin, margin:-margin] * np.float32(2 * np.sqrt(np.pi) * sigma_px)
    return np.asarray(unit, np.float32)
