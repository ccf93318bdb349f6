"""The input contract: dtype, shape, unit, range and channel order of a model's inputs and outputs.

    rgb    uint8 [N, S, S, 3]   RGB order, 0..255
    depth  uint8 [N, S, S, 2]   little-endian uint16 codes of 1 mm, viewed as bytes; code 0 = no measurement
    ->
    probabilities  float32 [N, C]
    gate           float32 [N, d]   0 = all from RGB, 1 = all from depth
    nearest_m      float32 [N, 1]   metres to the nearest surface, clipped to [near, far]; 0 = no measurement

Older bundles have no `nearest_m`. `edgefuse.model.encoding.NearestSurface` computes it.
Depth travels as bytes because TensorRT has UINT8 but no UINT16. Inside the graph, in FP32:
bytes -> codes -> metres -> clip to [near, far] -> [0, 1], with a validity mask as second channel.

Owns these values and a NumPy version of the decoding. Imports NumPy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgefuse.errors import UserError
from edgefuse.io.json_files import Optional, check_fields
from edgefuse.io.text import printable

RGB_INPUT = "rgb"
DEPTH_INPUT = "depth"
PROBABILITIES_OUTPUT = "probabilities"
GATE_OUTPUT = "gate"
NEAREST_OUTPUT = "nearest_m"

_OUTPUTS: dict[str, dict[str, Any]] = {
    PROBABILITIES_OUTPUT: {"dtype": "float32"},
    GATE_OUTPUT: {"dtype": "float32"},
    NEAREST_OUTPUT: {"dtype": "float32", "shape": ["N", 1], "unit": "m", "no_measurement": 0.0},
}
OUTPUTS = tuple(_OUTPUTS)
OUTPUTS_OF_OLDER_BUNDLES = (PROBABILITIES_OUTPUT, GATE_OUTPUT)

DEPTH_UNIT_M = 0.001
"""Metres per depth code. `edgefuse.framing` converts the codes of cameras with another unit."""

MAX_DEPTH_CODE = 65535

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Align = Literal["color", "depth"]


@dataclass(frozen=True, kw_only=True)
class InputContract:
    """The meaning of the model's inputs.

    Attributes:
        size: S, side of the square model input in pixels.
        near_m, far_m: depth range in metres that maps to [0, 1]; measurements outside are clipped to it.
        align: the common view of both images: "color" (depth aligned to colour) or "depth" (colour aligned to depth).
        outputs: names of the model's outputs; `OUTPUTS`, or without the distance in older bundles.

    Example:
        >>> import edgefuse
        >>> contract = edgefuse.InputContract(size=224, far_m=1.5)
        >>> contract.to_json()["inputs"]["rgb"]
        {'dtype': 'uint8', 'shape': ['N', 224, 224, 3]}
    """

    size: int
    near_m: float = 0.2
    far_m: float = 2.0
    align: Align = "color"
    outputs: tuple[str, ...] = OUTPUTS

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 1024:
            raise UserError(f"input size is {self.size} pixels: 16 to 1024 was expected")
        if not 0.0 <= self.near_m < self.far_m <= MAX_DEPTH_CODE * DEPTH_UNIT_M:
            raise UserError(
                f"depth range is {self.near_m} to {self.far_m} m: 0 <= near < far <= {MAX_DEPTH_CODE * DEPTH_UNIT_M} was expected"
            )
        if self.align not in ("color", "depth"):
            raise UserError(f"align is {self.align!r}: 'color' or 'depth' was expected")
        if self.outputs not in (OUTPUTS, OUTPUTS_OF_OLDER_BUNDLES):
            raise UserError(f"outputs are {', '.join(self.outputs)}: {', '.join(OUTPUTS)} were expected")

    def to_json(self) -> dict[str, Any]:
        """The contract as a JSON object. It includes the constants, for programs in other languages."""
        return {
            **asdict(self),
            "depth_unit_m": DEPTH_UNIT_M,
            "depth_no_measurement_code": 0,
            "rgb_order": "RGB",
            "rgb_mean": list(IMAGENET_MEAN),
            "rgb_std": list(IMAGENET_STD),
            "inputs": {
                RGB_INPUT: {"dtype": "uint8", "shape": ["N", self.size, self.size, 3]},
                DEPTH_INPUT: {
                    "dtype": "uint8",
                    "shape": ["N", self.size, self.size, 2],
                    "layout": "uint16 little-endian",
                },
            },
            "outputs": {name: _OUTPUTS[name] for name in self.outputs},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> InputContract:
        """The inverse of `to_json`.

        Raises:
            UserError: a field is missing or has the wrong type, or a constant differs from this version's.
        """
        spec = {"size": int, "near_m": float, "far_m": float, "align": str, "outputs": Optional(dict)}
        check_fields(value, spec, what="the contract")
        outputs = OUTPUTS if NEAREST_OUTPUT in (value.get("outputs") or {}) else OUTPUTS_OF_OLDER_BUNDLES
        values = {field.name: value[field.name] for field in fields(cls) if field.name != "outputs"}
        contract = cls(**values, outputs=outputs)
        for name, own in contract.to_json().items():
            if value.get(name, own) != own:
                raise UserError(
                    f"the contract has {name} = {printable(repr(value[name]))[:80]}, but this version of edgefuse implements "
                    f"{own!r}"
                )
        return contract


class Outputs(NamedTuple):
    """The model's outputs for n pairs: probabilities [n, C], gate [n, d], nearest_m [n, 1]; None if the bundle has no distance."""

    probabilities: NDArray[np.float32]
    gate: NDArray[np.float32]
    nearest_m: NDArray[np.float32] | None = None


def outputs_of(arrays: Mapping[str, NDArray[np.float32]], *, num_pairs: int) -> Outputs:
    """The outputs by their names in the graph, without the padding of a batch."""
    return Outputs(**{name: arrays[name][:num_pairs] for name in OUTPUTS if name in arrays})


def bytes_from_codes(codes: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """View depth codes [..., H, W] as the contract's bytes [..., H, W, 2]. Copies only when `codes` is not contiguous."""
    little_endian = np.ascontiguousarray(codes, dtype="<u2")
    return little_endian.view(np.uint8).reshape(*codes.shape, 2)


def codes_from_bytes(depth: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """The inverse of `bytes_from_codes`: bytes [..., H, W, 2] -> codes [..., H, W]."""
    return np.ascontiguousarray(depth).view("<u2").reshape(depth.shape[:-1]).astype(np.uint16, copy=False)


def decode_depth(depth: NDArray[np.uint8], contract: InputContract) -> NDArray[np.float32]:
    """The graph's depth decoding in NumPy: bytes [N, S, S, 2] -> float32 [N, 2, S, S] (depth in [0, 1], validity 0 or 1)."""
    codes = codes_from_bytes(depth)
    valid = (codes > 0).astype(np.float32)
    depth_m = np.clip(codes.astype(np.float32) * np.float32(DEPTH_UNIT_M), contract.near_m, contract.far_m)
    scaled = (depth_m - np.float32(contract.near_m)) / np.float32(contract.far_m - contract.near_m)
    return np.stack([scaled * valid, valid], axis=1).astype(np.float32)


def decode_rgb(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The graph's RGB decoding in NumPy: bytes [N, S, S, 3] -> float32 [N, 3, S, S], ImageNet-normalised."""
    mean, std = np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)
    scaled = (rgb.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


MAX_CLIPPED = 0.05
"""Warn if more than this fraction of the measured pixels is outside the depth range."""


class Clipped(NamedTuple):
    """Fractions of the measured pixels, 0 to 1, that are clipped to the near and the far limit."""

    nearer: float
    farther: float

    def warning(self, *, near_m: float, far_m: float) -> str | None:
        """A one-line warning if more than `MAX_CLIPPED` of the measurements are clipped; else None."""
        parts = [
            f"{fraction:.0%} of the measured depth is {where} {limit:g} m"
            for fraction, where, limit in ((self.nearer, "nearer than", near_m), (self.farther, "beyond", far_m))
            if fraction > MAX_CLIPPED
        ]
        if not parts:
            return None
        options = " and ".join(
            option for option, fraction in (("--near", self.nearer), ("--far", self.farther)) if fraction > MAX_CLIPPED
        )
        return f"{' and '.join(parts)} and is clipped; if that depth matters, train with another {options}"


def clipped(codes: NDArray[np.uint16], *, depth_unit_m: float, near_m: float, far_m: float) -> Clipped:
    """Fractions of a depth image that are out of range.

    Args:
        codes: uint16 of any shape, in codes of `depth_unit_m` metres, 0 = no measurement.
    """
    num_measured = int(np.count_nonzero(codes))
    if not num_measured:
        return Clipped(0.0, 0.0)
    num_nearer = int(np.count_nonzero(codes < near_m / depth_unit_m)) - (codes.size - num_measured) * (near_m > 0)
    num_farther = int(np.count_nonzero(codes > far_m / depth_unit_m))
    return Clipped(num_nearer / num_measured, num_farther / num_measured)


def check_batch(rgb: NDArray[np.uint8], depth: NDArray[np.uint8], contract: InputContract) -> None:
    """Check a batch against the contract.

    Raises:
        UserError: a dtype, size or channel count differs.
    """
    side = contract.size
    for name, array, channels in ((RGB_INPUT, rgb, 3), (DEPTH_INPUT, depth, 2)):
        expected = (len(rgb), side, side, channels)
        if array.dtype != np.uint8 or array.shape != expected:
            raise UserError(
                f"{name} is {array.dtype} {list(array.shape)}, but the contract requires uint8 {list(expected)}: "
                f"prepare the images with edgefuse.framing.fit(rgb, depth, size={side})"
            )
