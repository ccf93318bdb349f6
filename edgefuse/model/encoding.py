"""What the depth side sees of a decoded depth map: absolute range, or the surface that is nearest to the camera.

    depth    float [N, 2, S, S]   range in [0, 1] over the contract's near..far, validity 0 or 1   (`InputDecoder`)
    encoded  float [N, e, S, S]   e = `num_channels`

Owns the encodings and the estimate of the nearest surface. Everything here is computed in FP32, like the decoding:
a difference of two ranges would lose its millimetres in half precision.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgefuse.contract import InputContract

BLOCKS_ACROSS = 12
"""The nearest surface is looked for in this many blocks across the picture, so that one stray pixel is no surface."""

MARGIN = 0.1
"""The layer starts this share of the reach in front of the estimate, which is a block's mean and not its nearest point."""

SLOPE_GAIN = 4.0
"""Slopes of a surface are small against its nearness; this brings both to the same order."""

FAR = 1e3
"""Stands for the distance of blocks without a measurement, in metres: no camera sees as far."""


REVISION = 2
"""Of the estimate of the nearest surface. 1, of runs from before November 2026, takes blocks that are measured by half alone; where
there are none, everything measured counts as nearest."""

HALF, THIRD = 0.5, 0.33
DENSE, SPARSE = 1.0, 0.75
"""A block counts that has more than this share of the measurements of the best one: half of a whole block, a third where the best
block lacks a quarter of its measurements or more. A third and no less, so that stray pixels are no surface in sparse depth either."""


class AbsoluteDepth(nn.Module):
    """Range and validity as they are decoded: for classes that a distance to the camera tells apart."""

    num_channels = 2

    def forward(self, depth_N2SS: Tensor) -> Tensor:
        return depth_N2SS


class RelativeDepth(nn.Module):
    """Depth behind the nearest surface, which does not change when the same thing is held nearer or farther.

    Four channels: nearness (1 at the nearest surface, 0 from `depth_window_m` behind it on, 0 without a measurement), validity, and
    the slopes of nearness to the right and downwards, which are the surface's normal up to scale.
    """

    num_channels = 4

    def __init__(self, contract: InputContract, *, depth_window_m: float, revision: int = REVISION) -> None:
        super().__init__()
        self.revision = revision
        self.near_m = contract.near_m
        self.span_m = contract.far_m - contract.near_m
        self.block = max(1, contract.size // BLOCKS_ACROSS)
        self.depth_window_m = depth_window_m

    def forward(self, depth_N2SS: Tensor) -> Tensor:
        nearness, valid = self.nearness(depth_N2SS)
        smooth = functional.avg_pool2d(functional.pad(nearness, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
        wide = functional.pad(smooth, (1, 1, 1, 1), mode="replicate")
        slope_x = wide[:, :, 1:-1, 2:] - wide[:, :, 1:-1, :-2]
        slope_y = wide[:, :, 2:, 1:-1] - wide[:, :, :-2, 1:-1]
        return torch.cat([nearness, valid, SLOPE_GAIN * slope_x, SLOPE_GAIN * slope_y], dim=1)

    def nearness(self, depth_N2SS: Tensor) -> tuple[Tensor, Tensor]:
        """Nearness in [0, 1] and validity, [N, 1, S, S] each."""
        scaled, valid = depth_N2SS[:, :1], depth_N2SS[:, 1:]
        depth_m = self.near_m + self.span_m * scaled
        behind_m = depth_m - self.nearest_m(depth_m, valid) + MARGIN * self.depth_window_m
        return (1 - torch.clamp(behind_m / self.depth_window_m, 0, 1)) * valid, valid

    def nearest_m(self, depth_m: Tensor, valid: Tensor) -> Tensor:
        """Distance of the nearest surface, [N, 1, 1, 1] in metres: the least mean of a block among the well measured ones.

        Well measured: for more than half where a block is whole, and measured by the best ones' measure where depth is
        sparse. Without any measurement it is `FAR`.
        """
        fraction = functional.avg_pool2d(valid, self.block)
        if self.revision == 1:
            mean_m = functional.avg_pool2d(depth_m * valid, self.block) / torch.clamp(fraction, min=0.5)
            return torch.where(fraction > 0.5, mean_m, FAR).amin((2, 3), keepdim=True)
        best = fraction.amax((2, 3), keepdim=True)
        least = best * (THIRD + (HALF - THIRD) * torch.clamp((best - SPARSE) / (DENSE - SPARSE), 0, 1))
        mean_m = functional.avg_pool2d(depth_m * valid, self.block) / torch.clamp(fraction, min=1e-6)
        return torch.where(fraction > least, mean_m, FAR).amin((2, 3), keepdim=True)
