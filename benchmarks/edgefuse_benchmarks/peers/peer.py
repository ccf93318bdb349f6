"""One way to serve the trained network, and what it is made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.bundle import Bundle
from edgefuse.contract import IMAGENET_MEAN, IMAGENET_STD, Outputs, codes_from_bytes
from edgefuse.evaluation.compare_outputs import FP32_TOLERANCE, Tolerance
from edgefuse.evaluation.metrics import Predictor

INSTALL = "pip install --group peers (in a checkout)"
NUM_THREADS = 1

Classify = Callable[[NDArray[np.uint8], NDArray[np.uint16]], Any]
"""A complete frame, RGB uint8 [H, W, 3] and depth uint16 [H, W] in millimetres -> what the way returns."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The trained network, and frames.

    Attributes:
        run_folder: the run that the bundle was exported from; None = not given.
        rgb, depth: framed pairs, uint8 [n, S, S, 3] and [n, S, S, 2].
    """

    bundle: Bundle
    run_folder: Path | None
    rgb: NDArray[np.uint8]
    depth: NDArray[np.uint8]

    def ready(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The first pair as inputs of a network without decoder: normalised RGB [1, 3, S, S], depth [1, S, S] in millimetres."""
        mean, std = np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)
        rgb = (self.rgb[:1].astype(np.float32) / 255 - mean) / std
        return np.ascontiguousarray(rgb.transpose(0, 3, 1, 2)), codes_from_bytes(self.depth[:1]).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Peer:
    """An opened way from a complete frame to probabilities.

    Attributes:
        classify: this is timed. It crops the centre square.
        outputs: the model's outputs of what `classify` returned; None = another network, whose outputs cannot be compared.
        framed: the outputs for framed pairs, to compare them; None = `classify` with frames of the input's size, where a resize changes
            nothing.
        network: one run of the network alone, on inputs that are ready; None if the preparation is a part of it.
        tolerance: of the comparison.
    """

    classify: Classify
    outputs: Callable[[Any], Outputs] | None = lambda found: found
    framed: Predictor | None = None
    network: Callable[[], object] | None = None
    tolerance: Tolerance = FP32_TOLERANCE

    def predictor(self) -> Predictor:
        """The way as a predictor for framed pairs, one at a time."""
        if self.framed is not None:
            return self.framed
        classify, outputs = self.classify, self.outputs
        assert outputs is not None
        return lambda rgb, depth: outputs(classify(rgb[0], codes_from_bytes(depth)[0]))
