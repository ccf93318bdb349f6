"""A data set of several people: two classes, sequences named after the person, such as `a_0`."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np

from edgefuse.data.dataset import write_pair

PERSON = r"^(\w)_"


def people_data(
    root: Path,
    *,
    people: Iterable[str] = "abc",
    num_sequences: int = 3,
    num_frames: int = 3,
    lacks: Collection[tuple[str, str]] = (),
    no_depth: Collection[str] = (),
) -> Path:
    """Write it.

    Args:
        lacks: (person, class) without any pair.
        no_depth: people without a depth measurement.
    """
    rng = np.random.default_rng(1)
    for label in ("red_near", "blue_far"):
        for person in (person for person in people if (person, label) not in lacks):
            for sequence in range(num_sequences):
                for frame in range(num_frames):
                    rgb = rng.integers(0, 90, (32, 32, 3), dtype=np.uint8)
                    rgb[8:20, 8:20, 0 if label == "red_near" else 2] = 220
                    depth = np.full((32, 32), 0 if person in no_depth else 1500, np.uint16)
                    if person not in no_depth:
                        depth[8:20, 8:20] = 600 if label == "red_near" else 1200
                    write_pair(root / label / f"{person}_{sequence}", f"frame_{frame}", rgb, depth)
    return root
