"""Fixtures for the tests of several packages."""

from __future__ import annotations

import os
import signal
from pathlib import Path

# The models of the tests are tiny: one thread is faster than several that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts jobs in the background with Ctrl-C ignored, and children inherit that: the tests of Ctrl-C would never end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
import pytest
from numpy.typing import NDArray

from edgefuse.data.dataset import write_description, write_pair

SIDE = 40

# nohup and some services ignore these too, and child processes inherit that.
for number in (signal.SIGHUP, signal.SIGTERM):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)


def draw_pair(kind: str, *, rng: np.random.Generator, side: int = SIDE) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """An RGB-D pair whose class needs both sensors: red or blue in RGB, near or far in depth."""
    colour, distance = kind.split("_")
    rgb = rng.integers(40, 90, (side, side, 3), dtype=np.uint8)
    depth = rng.integers(1500, 1540, (side, side)).astype(np.uint16)
    top, left = rng.integers(4, side // 2, 2)
    place = (slice(top, top + side // 2 - 4), slice(left, left + side // 2 - 4))
    rgb[(*place, 0 if colour == "red" else 2)] = 220
    depth[place] = (600 if distance == "near" else 1200) + rng.integers(-20, 20)
    depth[rng.random(depth.shape) < 0.02] = 0
    return rgb, depth


@pytest.fixture(scope="session")
def colour_and_range(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of three classes with four sequences of five frames each; the classes share sequence names."""
    root = tmp_path_factory.mktemp("data") / "colour_and_range"
    rng = np.random.default_rng(7)
    for kind in ("red_near", "red_far", "blue_near"):
        for sequence in range(4):
            for number in range(5):
                write_pair(root / kind / f"take{sequence}", f"frame_{number}", *draw_pair(kind, rng=rng))
    write_description(root)
    return root
