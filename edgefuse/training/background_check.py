"""Whether depth separates the objects of a data set from their backgrounds, and the message before a training that follows from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgefuse.contract import codes_from_bytes
from edgefuse.data.dataset import RgbdDataset, spread_evenly
from edgefuse.data.foreground import layers_of
from edgefuse.framing import fit
from edgefuse.training.recipe import TrainConfig

NUM_SAMPLED = 100
ENOUGH = 0.5
"""Backgrounds are said to be kept if depth separates the object in a smaller fraction of the pairs."""


def separable_fraction(rgbd: RgbdDataset, indices: Sequence[int], *, size: int, depth_window_m: float) -> float:
    """The fraction of the pairs, of a sample of at most `NUM_SAMPLED`, whose near layer depth separates from a background; 0 without pairs."""
    found = [
        layers_of(
            codes_from_bytes(
                fit(rgbd.rgb[i], rgbd.depth[i], size=size, depth_unit_m=rgbd.dataset.samples[i].depth_unit_m).depth
            ),
            depth_window_m=depth_window_m,
        )
        for i in (indices[k] for k in spread_evenly(len(indices), NUM_SAMPLED))
    ]
    return float(np.mean([layers is not None for layers in found])) if found else 0.0


def background_line(rgbd: RgbdDataset, indices: Sequence[int], *, config: TrainConfig) -> str:
    """Whether training replaces backgrounds, and why, such as "backgrounds are kept, as requested"."""
    replaced = config.augmentation.background
    if not replaced:
        return "backgrounds are kept, as requested"
    fraction = separable_fraction(rgbd, indices, size=config.size, depth_window_m=config.depth_window_m)
    why = f"depth separates object and background in {fraction:.0%} of the sampled pairs"
    if fraction < ENOUGH:
        kept = "backgrounds are kept" if not fraction else "most backgrounds are kept"
        return (
            f"{kept}: {why}; the nearest surface must be the object, with {config.depth_window_m:g} m or more behind it"
        )
    return f"{replaced * fraction:.0%} of the backgrounds are replaced: {why} (--background keep turns it off)"
