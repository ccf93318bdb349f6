"""Bundles, recordings and data sets for the runtime's tests. librealsense writes the recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from runtime_scenes import Pair, draw_pair, labels_of, real_data

from edgefuse.bundle import Bundle
from edgefuse.data.dataset import write_description, write_pair
from edgefuse_runtime.recording.write_db3 import write_recording
from toy_bundle import make_toy_bundle


@pytest.fixture(scope="session")
def gestures_recording() -> Path:
    return real_data("recordings/gestures_s1.db3")


@pytest.fixture(scope="session")
def gestures_regions() -> Path:
    return real_data("recordings/gestures_s1.json")


@pytest.fixture(scope="session")
def d435_bag() -> Path:
    return real_data("recordings/d435_640x480.bag")


@pytest.fixture(scope="session")
def noise_pairs() -> list[Pair]:
    """45 pairs of noise over the full range of values, so that any lossy step is noticed."""
    rng = np.random.default_rng(11)
    return [
        (rng.integers(0, 256, (480, 640, 3), dtype=np.uint8), rng.integers(0, 65536, (480, 640), dtype=np.uint16))
        for _ in range(45)
    ]


@pytest.fixture(scope="session")
def noise_recording(noise_pairs: list[Pair], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recording(tmp_path_factory.mktemp("noise") / "noise.db3", noise_pairs, fps=120)


@pytest.fixture(scope="session")
def small_recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 frames of 64x48 at 60 frames/s. `labels_of(30)` has their classes; frame n is n - 1 levels brighter."""
    pairs = [draw_pair(label, brightness=index) for index, label in enumerate(labels_of(30))]
    return write_recording(tmp_path_factory.mktemp("small") / "small.db3", pairs, fps=60)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_toy_bundle(tmp_path_factory.mktemp("toy") / "bundle")


@pytest.fixture
def near_far_folder(tmp_path: Path) -> Path:
    """A data set of two classes with one sequence of four pairs each, with a depth unit of 0.5 mm."""
    root = tmp_path / "near_far"
    write_description(root, depth_unit_m=0.0005)
    for label in ("near", "far"):
        for number in range(4):
            rgb, depth = draw_pair(label, brightness=number)
            write_pair(root / label / "take1", f"frame_{number}", rgb, (depth * 2).astype(np.uint16))
    return root
