"""Augmentation of RGB-D pairs for training: geometry, background, light and colour, depth scale, holes, missing sensors.

Every crop uses `edgefuse.framing.fit`, so that training resizes exactly as live does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import MAX_DEPTH_CODE, bytes_from_codes, codes_from_bytes
from edgefuse.data.foreground import FOCAL_LENGTHS, Pair, layers_of, replace_background, restyle, turn_near_layer
from edgefuse.data.sensor_coverage import rgb_is_missing
from edgefuse.errors import UserError
from edgefuse.framing import Framed, Roi, fit
from edgefuse.limits import check_limits, limited, one_of

TURNED = 0.5
"""Fraction of the pairs whose near layer is turned."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Strength of each augmentation; 0 (or False) turns it off.

    Attributes:
        rotation_deg: rotate by up to this angle in either direction.
        zoom: enlarge or shrink by up to this fraction.
        shift: translate by up to this fraction of the image's sides.
        flip: mirror half of the pairs. Right only if a mirrored image has the same label. None = training mirrors unless a class
            name contains a side such as left (`edgefuse.data.mirrored_labels`).
        background: fraction of the pairs whose object is put in front of another background, where depth separates them. Right only if
            the background says nothing about the class.
        turn_deg: turn the near layer out of the image plane by up to this angle, in half of the pairs (`edgefuse.data.foreground`).
        style: move the colours towards those of another pair by up to this fraction.
        brightness, contrast, gamma, saturation: colour jitter of RGB, as fractions around 1.
        white_balance: scale each colour channel by up to this fraction.
        grey: fraction of pairs whose RGB becomes grey.
        depth_scale: move the scene nearer or farther by up to this fraction.
        blur: largest standard deviation of a blur of RGB, as a fraction of the side; most pairs get much less.
        holes: largest fraction of a depth map that loses its measurement in blobs; most lose much less.
        misalignment: shift depth against RGB by up to this fraction of the sides.
        rgb_dropout, depth_dropout: fraction of pairs with black RGB, or without any depth measurement.
    """

    rotation_deg: float = limited(60.0, 0, 180)
    zoom: float = limited(0.25, 0, 0.9)
    shift: float = limited(0.1, 0, 1)
    flip: bool | None = field(default=None, metadata=one_of((True, False, None)))
    background: float = limited(0.5, 0, 1)
    turn_deg: float = limited(0.0, 0, 60)
    style: float = limited(0.0, 0, 1)
    brightness: float = limited(0.3, 0, 1)
    contrast: float = limited(0.3, 0, 1)
    gamma: float = limited(0.3, 0, 1)
    saturation: float = limited(0.3, 0, 1)
    white_balance: float = limited(0.2, 0, 1)
    grey: float = limited(0.15, 0, 1)
    blur: float = limited(0.03, 0, 0.5)
    depth_scale: float = limited(0.1, 0, 0.9)
    holes: float = limited(0.9, 0, 1)
    misalignment: float = limited(0.04, 0, 1)
    rgb_dropout: float = limited(0.1, 0, 1)
    depth_dropout: float = limited(0.1, 0, 1)

    def __post_init__(self) -> None:
        check_limits(self, prefix="augmentation.")
        if self.rgb_dropout + self.depth_dropout > 1:
            raise UserError(
                f"augmentation.rgb_dropout and depth_dropout are {self.rgb_dropout:g} and {self.depth_dropout:g}: "
                "together at most 1 was expected"
            )


def augment(
    rgb: NDArray[np.uint8],
    depth: NDArray[np.uint16],
    *,
    size: int,
    depth_unit_m: float,
    augmentation: Augmentation,
    rng: np.random.Generator,
    depth_window_m: float = 0.3,
    other: Callable[[], Framed] | None = None,
) -> Framed:
    """Augment one pair.

    Args:
        rgb: uint8 [H, W, 3].
        depth: uint16 [H, W] in codes of `depth_unit_m`.
        size: S, side of the result in pixels.
        rng: random generator; the same state gives the same sample.
        depth_window_m: range of the near layer behind the nearest surface, as in the model.
        other: returns a framed pair of another sequence, for its background and colours; None = backgrounds are generated, and the
            colours are not moved.

    Returns:
        `Framed` images of side S that share no memory with the arguments.
    """
    height, width = depth.shape
    if augmentation.rotation_deg or augmentation.zoom or augmentation.shift:
        rgb, depth = move(
            rgb,
            depth,
            angle_deg=augmentation.rotation_deg * rng.uniform(-1, 1),
            scale=1 + augmentation.zoom * rng.uniform(-1, 1),
            shift_xy=augmentation.shift * rng.uniform(-1, 1, 2) * (width, height),
        )
    framed = fit(rgb, depth, size=size, roi=_whole(height, width), depth_unit_m=depth_unit_m)
    codes = codes_from_bytes(framed.depth)
    rgb_SS3, codes = _vary_layers(
        Pair(framed.rgb, codes), augmentation=augmentation, rng=rng, depth_window_m=depth_window_m, other=other
    )
    if augmentation.flip is not False and rng.random() < 0.5:
        rgb_SS3, codes = rgb_SS3[:, ::-1], codes[:, ::-1]
    rgb_SS3, codes = _vary_sensors(rgb_SS3, codes, augmentation=augmentation, rng=rng)
    return Framed(np.ascontiguousarray(rgb_SS3), bytes_from_codes(codes))


def _vary_layers(
    pair: Pair,
    *,
    augmentation: Augmentation,
    rng: np.random.Generator,
    depth_window_m: float,
    other: Callable[[], Framed] | None,
) -> Pair:
    """Turn the near layer, and give the pair the background and the colours of another one. RGB that is missing stays as it is."""
    turned = augmentation.turn_deg > 0 and rng.random() < TURNED
    replaced = rng.random() < augmentation.background
    if not (turned or replaced or augmentation.style):
        return pair
    layers = layers_of(pair.codes, depth_window_m=depth_window_m) if turned or replaced else None
    missing = pair.rgb if rgb_is_missing(pair.rgb) else None
    if turned and layers is not None:
        yaw, pitch = augmentation.turn_deg * rng.uniform(-1, 1, 2)
        pair = turn_near_layer(pair, layers, angles_deg=(yaw, pitch), focal_length=rng.uniform(*FOCAL_LENGTHS))
        layers = layers_of(pair.codes, depth_window_m=depth_window_m)
    framed = other() if other is not None and (augmentation.style or replaced) else None
    another = None if framed is None or rgb_is_missing(framed.rgb) else Pair(framed.rgb, codes_from_bytes(framed.depth))
    if replaced and layers is not None:
        pair = replace_background(pair, layers, another, rng)
    if augmentation.style and another is not None:
        pair = Pair(restyle(pair.rgb, another.rgb, amount=augmentation.style * rng.random()), pair.codes)
    return pair if missing is None else Pair(missing, pair.codes)


def _vary_sensors(
    rgb_SS3: NDArray[np.uint8], codes: NDArray[np.uint16], *, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Light and colour, blur, misalignment, depth scale, holes, and missing sensors."""
    size = len(codes)
    rgb_SS3 = jitter_colour(rgb_SS3, augmentation=augmentation, rng=rng)
    if augmentation.blur:
        rgb_SS3 = blur_colour(rgb_SS3, sigma_px=augmentation.blur * size * rng.random() ** 3)
    if augmentation.misalignment:
        codes = shift_depth(codes, *(round(size * augmentation.misalignment * rng.uniform(-1, 1)) for _ in range(2)))
    codes = scale_depth(codes, factor=1 + augmentation.depth_scale * rng.uniform(-1, 1))
    if augmentation.holes:
        codes = punch_holes(codes, fraction=augmentation.holes * rng.random() ** 4, rng=rng)
    dropout = rng.random()
    if dropout < augmentation.rgb_dropout:
        rgb_SS3 = np.zeros_like(rgb_SS3)
    elif dropout < augmentation.rgb_dropout + augmentation.depth_dropout:
        codes = np.zeros_like(codes)
    return rgb_SS3, codes


def move(
    rgb: NDArray[np.uint8],
    depth: NDArray[np.uint16],
    *,
    angle_deg: float = 0.0,
    scale: float = 1.0,
    shift_xy: NDArray[np.float64] | tuple[float, float] = (0.0, 0.0),
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Rotate and scale both images about their centre, then shift them by pixels. Their size does not change.

    RGB is interpolated linearly. Depth uses the nearest pixel, so that no depth is invented. Borders are replicated.
    """
    height, width = depth.shape
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle_deg, scale)
    matrix[:, 2] += np.asarray(shift_xy)
    moved_rgb = cv2.warpAffine(rgb, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    moved = cv2.warpAffine(depth, matrix, (width, height), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved_rgb, np.uint8), np.asarray(moved, np.uint16)


def jitter_colour(rgb: NDArray[np.uint8], *, augmentation: Augmentation, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Jitter light and colour of a uint8 [H, W, 3] image: one table look-up per pixel and channel, then saturation."""
    brightness, contrast, gamma, saturation = (
        1 + amount * rng.uniform(-1, 1)
        for amount in (augmentation.brightness, augmentation.contrast, augmentation.gamma, augmentation.saturation)
    )
    levels = np.linspace(0, 1, 256) ** gamma
    lit = ((levels - 0.5) * contrast + 0.5) * brightness
    gains = 1 + augmentation.white_balance * rng.uniform(-1, 1, 3)
    table = np.rint(np.clip(lit[:, None] * gains, 0, 1) * 255).astype(np.uint8)
    varied = cv2.LUT(np.ascontiguousarray(rgb), table[None])
    if rng.random() < augmentation.grey:
        saturation = 0.0
    if augmentation.saturation or augmentation.grey:
        grey = cv2.cvtColor(cv2.cvtColor(varied, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        varied = cv2.addWeighted(varied, saturation, grey, 1 - saturation, 0)
    return np.asarray(varied, np.uint8)


def blur_colour(rgb: NDArray[np.uint8], *, sigma_px: float) -> NDArray[np.uint8]:
    """A Gaussian blur. Below a third of a pixel it would change nothing, so the image itself is returned."""
    if sigma_px < 1 / 3:
        return rgb
    return np.asarray(cv2.GaussianBlur(np.ascontiguousarray(rgb), (0, 0), sigma_px), np.uint8)


def shift_depth(codes: NDArray[np.uint16], right: int, down: int) -> NDArray[np.uint16]:
    """The depth map shifted by whole pixels. The uncovered border has no measurement."""
    height, width = codes.shape
    moved = np.zeros_like(codes)
    target = moved[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)]
    target[...] = codes[max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)]
    return moved


def scale_depth(codes: NDArray[np.uint16], *, factor: float) -> NDArray[np.uint16]:
    """Scale the distance of the scene: codes times `factor`; 0 stays 0, and a measurement stays within 1..65535."""
    scaled: NDArray[np.uint16] = np.clip(np.rint(codes * np.float32(factor)), 1, MAX_DEPTH_CODE).astype(np.uint16)
    scaled[codes == 0] = 0
    return scaled


def punch_holes(codes: NDArray[np.uint16], *, fraction: float, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Remove the measurement in blobs that cover about `fraction` of the image."""
    height, width = codes.shape
    if fraction <= 0:
        return codes
    # Thresholded coarse noise is cheap and gives irregular blobs like the holes of a depth camera.
    coarse = rng.random((max(2, height // 8), max(2, width // 8)), dtype=np.float32)
    noise = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.where(noise < np.quantile(noise[::2, ::2], fraction), np.uint16(0), codes)


def _whole(height: int, width: int) -> Roi:
    """The square around the image."""
    side = max(height, width)
    return Roi((width - side) // 2, (height - side) // 2, side, side)
