"""Small images with a known prediction, and paths of real data, for the runtime's tests."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

Pair = tuple[NDArray[np.uint8], NDArray[np.uint16]]


def real_data(relative: str) -> Path:
    """A file of the real data, which is not in the repository. Without it the test is skipped, except in CI."""
    path = DATA / relative
    if not path.exists():
        message = f"real data is absent: {path}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


def draw_pair(label: str, *, brightness: int = 0) -> Pair:
    """A 64x48 pair that the toy bundle classifies correctly: "near" is red and close, "far" is dark and far away.

    Green, which the bundle ignores, increases to the right: a uniform image would count as a missing sensor.
    """
    rgb = np.zeros((48, 64, 3), np.uint8)
    rgb[..., 1] = np.arange(64)
    rgb[..., 0] = (200 if label == "near" else 20) + brightness
    depth = np.full((48, 64), 300 if label == "near" else 1800, np.uint16)
    return rgb, depth


def labels_of(num_frames: int) -> list[str]:
    return ["near" if index % 3 else "far" for index in range(num_frames)]
