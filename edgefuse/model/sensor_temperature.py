"""The temperature of each sensor state: both sensors available, RGB missing, depth missing.

The model divides the logits by one temperature (`FusionClassifier.probabilities`). This module scales them first, if a sensor is missing,
so that together they are divided by the temperature of that state. Runs in FP32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgefuse.contract import IMAGENET_MEAN, IMAGENET_STD
from edgefuse.model.full_precision import in_fp32

PRESENT = 1e-3
"""A sensor counts as present from this mean brightness, or fraction of measured pixels; below, linearly less. Live gives the model a
black image, or no measurement, for a missing sensor."""

ROUNDING = 0.01
"""Fraction of `PRESENT` that counts as 0: decoding a black pixel leaves a rounding error, which differs between engines."""


class SensorTemperature(nn.Module):
    """Scales logits by the ratio of two temperatures where a sensor is missing.

    Args:
        both, no_rgb, no_depth: temperatures of the states.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, both: float, no_rgb: float, no_depth: float) -> None:
        super().__init__()
        self.no_rgb, self.no_depth = both / no_rgb, both / no_depth
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    @in_fp32
    def forward(self, logits: Tensor, rgb_N3SS: Tensor, depth_N2SS: Tensor) -> Tensor:
        """Logits [N, C] and the decoded images -> logits for the temperature `both`."""
        # Decoded before the mean: the mean of the normalised pixels of a black image has a rounding error that is not small against `PRESENT`.
        brightness = (rgb_N3SS * self.std + self.mean).mean((2, 3)).mean(1, keepdim=True)
        no_rgb = 1 - torch.clamp(brightness / PRESENT - ROUNDING, 0, 1)
        no_depth = 1 - torch.clamp(depth_N2SS.chunk(2, dim=1)[1].mean((2, 3)) / PRESENT, 0, 1)
        return logits * (1 + no_rgb * (self.no_rgb - 1)) * (1 + no_depth * (self.no_depth - 1))
