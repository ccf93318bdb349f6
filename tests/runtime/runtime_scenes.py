"""Small images with a known prediction, a result, and paths of real data, for the runtime's tests."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgefuse.framing import Roi
from edgefuse_runtime.frame_times import FrameTimes
from edgefuse_runtime.results import Result

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

Pair = tuple[NDArray[np.uint8], NDArray[np.uint16]]

TIMES = FrameTimes(
    waiting_ns=9_000_000,
    arrival_ns=10_000_000,
    ready_ns=10_200_000,
    dequeued_ns=10_250_000,
    framed_ns=10_550_000,
    engine_start_ns=10_560_000,
    engine_end_ns=14_060_000,
    published_ns=14_250_000,
    published_unix_ms=1_795_676_889_123.0,
    sensor_ms=1_795_676_889_081.8,
    sensor_clock="hardware",
)
RESULT = Result(
    index=4,
    frame=37,
    name="37",
    label="palm",
    probability=0.93,
    top=(("palm", 0.93), ("stop", 0.05)),
    gate_mean=0.41,
    expected=None,
    roi=Roi(1, 2, 3, 4),
    times=TIMES,
    valid_depth=0.875,
    dropped=2,
    stale=1,
)


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


def spans_of(path: Path) -> list[dict[str, Any]]:
    """The complete events of a trace, in the order of the file."""
    return [event for event in json.loads(path.read_text())["traceEvents"] if event["ph"] == "X"]
