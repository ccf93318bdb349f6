"""Folders of RGB images and depth as NumPy arrays, paired by name.

Owns what the numbers in such arrays mean. The reader returns a `Source`; images are read later.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.data.dataset import PLAUSIBLE_MEDIAN_M, UNITS_M
from edgefuse.data.layouts.pairs import MM_M, ORIENTATION_IGNORED, find_pairs_of_files, source_of
from edgefuse.data.layouts.source import Item, Pair, Source
from edgefuse.errors import UserError
from edgefuse.io.arrays import read_array
from edgefuse.io.images import has_orientation, read_bytes, read_rgb

_MAX_CODE = 65535
_UNIT_NAMES = {"m": "metres", "cm": "centimetres", "mm": "millimetres", "um": "micrometres"}


def read_npy(root: Path, *, unit_m: float | None = None, sequence_pattern: str | None = None) -> Source:
    """Like `read_pairs`, with depth as `<name>_depth.npy`: uint16 codes of `unit_m` (default 1 mm), or floats in `unit_m` (1 m).

    Floats are converted to codes of 1 mm; values that are not finite or not above 0 become 0. All arrays must have the first one's kind.
    """
    found, seen, notes = find_pairs_of_files(root, depth_suffixes=(".npy",), pattern=sequence_pattern)
    is_float = _has_floats(depth for *_, depth in found)
    given_m = unit_m if unit_m is not None else (1.0 if is_float else MM_M)
    if not is_float and given_m > 0.1:
        raise UserError(
            f"the depth unit is {given_m:g} m: the arrays are integers, for which codes of at most 0.1 m were expected"
        )
    items = [
        Item(
            label=label,
            sequence=sequence,
            name=name,
            read=partial(_read_npy_pair, rgb, depth, is_float=is_float, unit_m=given_m),
        )
        for label, sequence, name, rgb, depth in found
    ]
    out_m = MM_M if is_float else given_m
    return source_of(items, out_m, seen, notes)


def _has_floats(depth_paths: Iterable[Path]) -> bool:
    """Whether the first readable array has floats."""
    for path in depth_paths:
        with contextlib.suppress(UserError):
            return bool(np.issubdtype(read_array(path).dtype, np.floating))
    return False


def _read_npy_pair(rgb_path: Path, depth_path: Path, *, is_float: bool, unit_m: float) -> Pair:
    rgb_bytes = read_bytes(rgb_path)
    rgb, depth = read_rgb(rgb_path, rgb_bytes), read_array(depth_path)
    depth = depth.astype(depth.dtype.newbyteorder("="), copy=False)
    if depth.shape != rgb.shape[:2]:
        raise UserError(f"{depth_path}: depth is {depth.shape}, but its RGB is {rgb.shape[:2]}")
    if depth.dtype.kind in "iub" and depth.dtype != np.uint16:
        raise UserError(
            f"{depth_path}: depth is {depth.dtype}, uint16 was expected: save it with "
            "np.save(path, np.clip(depth, 0, 65535).astype(np.uint16)), codes with 0 = no measurement, or as floats in metres"
        )
    if np.issubdtype(depth.dtype, np.floating) != is_float or (not is_float and depth.dtype != np.uint16):
        raise UserError(
            f"{depth_path}: depth is {depth.dtype}, {'floats' if is_float else 'uint16'} were expected as in the first file"
        )
    num_measured = None
    if is_float:
        num_measured = int(np.count_nonzero(np.isfinite(depth) & (depth != 0)))
        codes = np.where(np.isfinite(depth) & (depth > 0), np.rint(depth.astype(np.float64) * (unit_m / MM_M)), 0)
        if codes.max(initial=0) > _MAX_CODE:
            raise UserError(
                f"{depth_path}: depth goes up to {codes.max() * MM_M:g} m: is --unit {unit_m:g} right?{_likely_unit(depth)}"
            )
        depth = codes.astype(np.uint16)
    return Pair(
        rgb=rgb,
        depth=depth,
        note=ORIENTATION_IGNORED if has_orientation(rgb_bytes) else None,
        num_measured=num_measured,
    )


def _likely_unit(depth: NDArray[Any]) -> str:
    """A question about the unit that makes the median of an array of floats plausible for a camera; "" if there is none."""
    median = float(np.median(depth[np.isfinite(depth) & (depth > 0)]))
    near_m, far_m = PLAUSIBLE_MEDIAN_M
    likely = [name for name, unit_m in UNITS_M.items() if near_m <= median * unit_m <= far_m]
    # Of two possible units, choose the one whose median is closest to 1 m, the usual distance.
    best = min(likely, key=lambda name: abs(math.log(median * UNITS_M[name])), default=None)
    return "" if best is None else f" The median is {median:g}: are these {_UNIT_NAMES[best]}, --unit {best}?"
