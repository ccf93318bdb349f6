"""Sensor failures by name and severity: pure functions on one aligned pair.

    rgb    uint8  [H, W, 3]   RGB order; linear light is (code / 255) ** 2.2
    codes  uint16 [H, W]      depth in codes of 1 mm, 0 = no measurement

Pixels are those of the input pair; the evaluation passes framed pairs, [S, S]. The same seed gives the same image, and a higher severity
adds to a lower one: the holes of 10 % are among those of 25 %.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple
from zlib import crc32

import cv2
import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import MAX_DEPTH_CODE
from edgefuse.data.augmentation import punch_holes, shift_depth
from edgefuse.errors import UserError
from edgefuse.synth.sensor_models import DISPARITY_PX_M, SUBPIXEL

Rgb = NDArray[np.uint8]
Codes = NDArray[np.uint16]
Sensor = Literal["rgb", "depth"]

GAMMA = 2.2
READ_NOISE = 0.002
SHOT_NOISE = 2e-4
"""For linear light in [0, 1]: standard deviation of the read noise, and variance of the shot noise per unit of light."""

DAYLIGHT_K = 6500
EDGE_JUMP = 1.05
"""Neighbours whose depths differ by more than this factor have an edge between them."""


class Scene(NamedTuple):
    """Input of a corruption: the pair itself and, for stopped streams, the stale pair that the sensor still shows."""

    rgb: Rgb
    codes: Codes
    stale_rgb: Rgb
    stale_codes: Codes


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """One kind of failure.

    Attributes:
        name: in reports and tables.
        sensor: the one that fails; the image of the other is unchanged.
        unit: of the severity; "" for a failure without degrees, whose severity is 1.
        severities: from mild to severe.
        apply: (scene, severity, rng) -> image of the failing sensor.
        stale: source of the stale pair: "late" = earlier in the same sequence by `severity` frames, or "another" sequence.
    """

    name: str
    sensor: Sensor
    unit: str
    severities: tuple[float, ...]
    apply: Callable[[Scene, float, np.random.Generator], NDArray[np.uint8] | NDArray[np.uint16]]
    stale: Literal["no", "late", "another"] = "no"


def corrupt(corruption: Corruption, scene: Scene, *, severity: float, seed: tuple[int, ...]) -> tuple[Rgb, Codes]:
    """Apply a corruption to one pair.

    Args:
        severity: in the unit of the corruption; not only the listed ones.
        seed: the same numbers give the same image.

    Returns:
        rgb uint8 [H, W, 3] and codes uint16 [H, W]. The arrays of the scene are not modified; that of the healthy sensor is returned.
    """
    rng = np.random.default_rng((*seed, crc32(corruption.name.encode())))
    failed = corruption.apply(scene, severity, rng)
    if corruption.sensor == "rgb":
        return np.asarray(failed, np.uint8), scene.codes
    return scene.rgb, np.asarray(failed, np.uint16)


def by_name(name: str) -> Corruption:
    """The corruption with that name.

    Raises:
        UserError: unknown name; the message lists the known ones.
    """
    for corruption in CORRUPTIONS:
        if corruption.name == name:
            return corruption
    raise UserError(f"corruption is {name!r}: one of {', '.join(c.name for c in CORRUPTIONS)} was expected")


def no_rgb(scene: Scene, severity: float, rng: np.random.Generator) -> Rgb:
    """Missing RGB: black."""
    return np.zeros_like(scene.rgb)


def no_depth(scene: Scene, severity: float, rng: np.random.Generator) -> Codes:
    """Missing depth: no measurement anywhere."""
    return np.zeros_like(scene.codes)


def dark_rgb(scene: Scene, severity: float, rng: np.random.Generator) -> Rgb:
    """Light is scaled by 2 ** -severity (severity in stops), with unchanged sensor noise.

    Noise of linear light x: standard deviation sqrt(0.002 ** 2 + 2e-4 x), then half the read noise is subtracted as the
    black level: the sensor model of the built-in data set (`edgefuse.synth.sensor_models`).
    """
    light = _light(scene.rgb) * np.float32(2.0**-severity)
    noise = rng.standard_normal(light.shape, dtype=np.float32)
    noisy = light + noise * np.sqrt(np.float32(READ_NOISE**2) + np.float32(SHOT_NOISE) * light)
    return _image(noisy - np.float32(READ_NOISE / 2))


def overexposed_rgb(scene: Scene, severity: float, rng: np.random.Generator) -> Rgb:
    """Exposure is 2 ** severity times too long (severity in stops): bright pixels saturate."""
    return _image(_light(scene.rgb) * np.float32(2.0**severity))


def blur_rgb(scene: Scene, severity: float, rng: np.random.Generator) -> Rgb:
    """Out of focus: a Gaussian of standard deviation `severity` pixels."""
    return np.asarray(cv2.GaussianBlur(scene.rgb, (0, 0), severity), np.uint8)


def coloured_light(scene: Scene, severity: float, rng: np.random.Generator) -> Rgb:
    """Light of `severity` kelvin on a camera that is balanced for 6500 K; green is unchanged.

    The gains of linear red and blue follow Planck's law at 600, 540 and 450 nm, relative to green and to 6500 K.
    """
    return _image(_light(scene.rgb) * light_gains(severity))


def depth_holes(scene: Scene, severity: float, rng: np.random.Generator) -> Codes:
    """No measurement in blobs that cover the fraction `severity` (0..1) of the image."""
    return punch_holes(scene.codes, fraction=severity, rng=rng)


def depth_edge_holes(scene: Scene, severity: float, rng: np.random.Generator) -> Codes:
    """No measurement within `severity` pixels of an edge of depth, where stereo matching is ambiguous."""
    valid = scene.codes > 0
    window = np.ones((3, 3), np.uint8)
    farthest = cv2.dilate(scene.codes, window).astype(np.float32)
    nearest = cv2.erode(np.where(valid, scene.codes, np.uint16(MAX_DEPTH_CODE)), window).astype(np.float32)
    edge = valid & (farthest > nearest * EDGE_JUMP)
    distance_px = cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.where(distance_px < severity, np.uint16(0), scene.codes)


def depth_noise(scene: Scene, severity: float, rng: np.random.Generator) -> Codes:
    """Noise of a D4xx camera at `severity` metres.

    Standard deviation in metres: severity ** 2 * subpixel / (focal length * baseline), with 0.08 px, 385 px and 0.05 m: a
    constant disparity error, so 4 mm at 1 m and 66 mm at 4 m. The error of neighbours is correlated. Valid pixels stay valid.
    """
    sigma_mm = 1000 * depth_noise_m(severity)
    error = cv2.GaussianBlur(rng.standard_normal(scene.codes.shape, dtype=np.float32), (0, 0), 1.0)
    # The squared weights of a Gaussian blur add up to 1 / (4 pi sigma^2).
    error = error * np.float32(2 * np.sqrt(np.pi) * sigma_mm)
    noisy = np.clip(np.rint(scene.codes + error), 1, MAX_DEPTH_CODE).astype(np.uint16)
    return np.where(scene.codes > 0, noisy, np.uint16(0))


def shifted_depth(scene: Scene, severity: float, rng: np.random.Generator) -> Codes:
    """Depth is shifted `severity` pixels to the right of RGB, as after a knock on the camera; the left edge has no measurement."""
    return shift_depth(scene.codes, min(round(severity), scene.codes.shape[1]), 0)


def stale_rgb(scene: Scene, severity: float, rng: np.random.Generator) -> Rgb:
    """A stopped RGB stream: the stale image."""
    return scene.stale_rgb


def stale_depth(scene: Scene, severity: float, rng: np.random.Generator) -> Codes:
    """A stopped depth stream: the stale image."""
    return scene.stale_codes


def depth_noise_m(distance_m: float) -> float:
    """Standard deviation in metres of a D4xx camera's depth at a distance in metres."""
    return distance_m**2 * SUBPIXEL / DISPARITY_PX_M


def light_gains(kelvin: float) -> NDArray[np.float32]:
    """Gains [3] of linear red, green and blue under light of `kelvin` on a camera that is balanced for `DAYLIGHT_K`."""
    metres = np.array([600e-9, 540e-9, 450e-9])
    second_radiation_constant_mK = 0.014387769
    energy = [1 / np.expm1(second_radiation_constant_mK / (metres * t)) for t in (kelvin, DAYLIGHT_K)]
    gains = energy[0] / energy[1]
    return np.asarray(gains / gains[1], np.float32)


def _light(rgb: Rgb) -> NDArray[np.float32]:
    levels = (np.arange(256, dtype=np.float32) / np.float32(255)) ** np.float32(GAMMA)
    return levels[rgb]


def _image(light: NDArray[np.float32]) -> Rgb:
    return np.asarray(np.rint(np.clip(light, 0, 1) ** np.float32(1 / GAMMA) * 255), np.uint8)


_LATE = "frames late"

CORRUPTIONS: tuple[Corruption, ...] = (
    Corruption(name="no_rgb", sensor="rgb", unit="", severities=(1,), apply=no_rgb),
    Corruption(name="no_depth", sensor="depth", unit="", severities=(1,), apply=no_depth),
    Corruption(
        name="dark_rgb", sensor="rgb", unit="stops less light", severities=(1, 2, 3, 4, 5, 6, 7, 8), apply=dark_rgb
    ),
    Corruption(
        name="overexposed_rgb",
        sensor="rgb",
        unit="stops over",
        severities=(1, 2, 3, 4),
        apply=overexposed_rgb,
    ),
    Corruption(name="blur_rgb", sensor="rgb", unit="pixels sigma", severities=(1, 2, 4, 8), apply=blur_rgb),
    Corruption(name="warm_light", sensor="rgb", unit="K", severities=(5000, 4000, 3000, 2000), apply=coloured_light),
    Corruption(name="cold_light", sensor="rgb", unit="K", severities=(8000, 10000, 15000, 25000), apply=coloured_light),
    Corruption(name="frozen_rgb", sensor="rgb", unit=_LATE, severities=(1, 4, 16), apply=stale_rgb, stale="late"),
    Corruption(name="foreign_rgb", sensor="rgb", unit="", severities=(1,), apply=stale_rgb, stale="another"),
    Corruption(
        name="depth_holes",
        sensor="depth",
        unit="of the image",
        severities=(0.1, 0.25, 0.5, 0.75, 0.9),
        apply=depth_holes,
    ),
    Corruption(name="depth_edge_holes", sensor="depth", unit="pixels", severities=(1, 2, 4, 8), apply=depth_edge_holes),
    Corruption(name="depth_noise", sensor="depth", unit="m away", severities=(1, 2, 3, 4), apply=depth_noise),
    Corruption(name="depth_shift", sensor="depth", unit="pixels", severities=(1, 2, 4, 8, 16), apply=shifted_depth),
    Corruption(name="frozen_depth", sensor="depth", unit=_LATE, severities=(1, 4, 16), apply=stale_depth, stale="late"),
    Corruption(name="foreign_depth", sensor="depth", unit="", severities=(1,), apply=stale_depth, stale="another"),
)
"""All corruptions, with the severities of `edgefuse evaluate --corruptions`."""
