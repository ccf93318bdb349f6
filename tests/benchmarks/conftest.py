"""Small real bundles and recordings for the benchmark tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from toy_bundle import make_toy_bundle


@pytest.fixture(scope="session")
def bench_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy bundle: its two classes differ in redness and in distance."""
    return make_toy_bundle(tmp_path_factory.mktemp("bench") / "toy").folder


@pytest.fixture(scope="session")
def bench_recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 frames of 64x48 at 60 fps, each brighter and further away than the one before."""
    from edgefuse_runtime.recording.write_db3 import write_recording

    pairs = [(np.full((48, 64, 3), 5 * i, np.uint8), np.full((48, 64), 500 + 50 * i, np.uint16)) for i in range(1, 25)]
    for rgb, _ in pairs:
        rgb[..., 1] = np.arange(64)  # a uniform image would count as a missing sensor; the bundle does not use green
    return write_recording(tmp_path_factory.mktemp("bench") / "bright.db3", pairs, fps=60)
