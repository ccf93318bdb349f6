"""Encodings of a decoded depth map for the depth backbone: absolute range, depth relative to the nearest surface, or its logarithm.

    depth      float [N, 2, S, S]   range in [0, 1] over the contract's near..far, validity 0 or 1   (`InputDecoder`)
    nearest_m  float [N, 1]         distance of the nearest surface in metres, 0 = no measurement    (`NearestSurface`)
    encoded    float [N, e, S, S]   e = `num_channels`

Owns the encodings and the estimate of the nearest surface. Everything here runs in FP32, like the decoder: in FP16, the difference of
two ranges would lose its millimetres.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgefuse.contract import DEPTH_UNIT_M, InputContract
from edgefuse.model.pooling import average_3x3, block_averages

BLOCKS_ACROSS = 12
"""The image is divided into this many blocks across to find the nearest surface, so that a stray pixel does not count as one."""

MARGIN = 0.1
"""The depth window starts this fraction of its length in front of the estimate, which is the mean of a block, not its nearest point."""

SLOPE_GAIN = 4.0
"""Scales slopes to the same order of magnitude as nearness; unscaled they are much smaller."""

FAR = 1e3
"""Distance in metres that blocks without a measurement get, beyond the range of any camera."""

LOG_FAR_M, LOG_NEAR_M = 100.0, 9.0
LOG_MEAN = (0.248880, 0.495620, 0.492858)
LOG_STD = (0.139357, 0.271314, 0.297177)
"""Limits of two of the channels of `LogDepth`, and its normalisation: the values of DeFM's published code (arXiv 2601.18923,
leggedrobotics/defm). The paper has 10 m instead of 9 m; its networks were trained with log(10), which is log1p(9)."""


REVISION = 2
"""Version of the estimate of the nearest surface. Version 1, in runs from before November 2026, uses only blocks with more than half of
their pixels measured; without any, everything measured counts as nearest, and the distance is 0."""

HALF, THIRD = 0.5, 0.33
DENSE, SPARSE = 1.0, 0.75
"""A block counts if its measured fraction exceeds a fraction of that of the best block: `HALF` if the best block is completely measured,
`THIRD` if the best one misses a quarter or more, interpolated in between. Not below a third, so that stray pixels in sparse depth do not
count as a surface."""


class NearestSurface(nn.Module):
    """Distance of the nearest surface: the smallest block mean among the well-measured blocks. See `HALF` and `THIRD`.

    It is an output of the exported graph, and everything that depends on it uses that output: TensorRT 11.2 was reported to fuse a
    minimum over an input with what follows, and to compute wrong outputs, unless the minimum is an output itself.
    """

    def __init__(self, contract: InputContract, *, revision: int = REVISION) -> None:
        super().__init__()
        self.revision = revision
        self.near_m = contract.near_m
        self.span_m = contract.far_m - contract.near_m
        self.block = max(1, contract.size // BLOCKS_ACROSS)

    def forward(self, depth_N2SS: Tensor) -> Tensor:
        """Decoded depth -> [N, 1] in metres; 0 without any measurement."""
        scaled, fraction = block_averages(depth_N2SS, side=self.block).chunk(2, dim=1)
        least: Tensor | float = 0.5
        if self.revision == 1:
            smallest = 0.5
        else:
            best = fraction.amax((2, 3), keepdim=True)
            least = best * (THIRD + (HALF - THIRD) * torch.clamp((best - SPARSE) / (DENSE - SPARSE), 0, 1))
            smallest = 1e-6
        mean_m = self.near_m + self.span_m * (scaled / torch.clamp(fraction, min=smallest))
        nearest_m = torch.where(fraction > least, mean_m, FAR).amin((2, 3))
        return torch.where(nearest_m < FAR, nearest_m, 0.0)


class AbsoluteDepth(nn.Module):
    """Range and validity as decoded: for classes that differ in their distance to the camera."""

    num_channels = 2

    def forward(self, depth_N2SS: Tensor, nearest_m: Tensor) -> Tensor:
        return depth_N2SS


class RelativeDepth(nn.Module):
    """Depth behind the nearest surface, which does not change when the same object is closer or farther away.

    Four channels: nearness (1 at the nearest surface, 0 at `depth_window_m` behind it and beyond, 0 without a measurement), validity,
    and the slopes of nearness to the right and downwards, which are the surface normal up to scale.
    """

    num_channels = 4

    def __init__(self, contract: InputContract, *, depth_window_m: float) -> None:
        super().__init__()
        self.near_m = contract.near_m
        self.span_m = contract.far_m - contract.near_m
        self.depth_window_m = depth_window_m

    def forward(self, depth_N2SS: Tensor, nearest_m: Tensor) -> Tensor:
        nearness, valid = self.nearness(depth_N2SS, nearest_m)
        scaled = SLOPE_GAIN * average_3x3(nearness)
        wide, high = (functional.pad(scaled, sides, mode="replicate") for sides in ((1, 1, 0, 0), (0, 0, 1, 1)))
        slope_x = wide[..., 2:] - wide[..., :-2]
        slope_y = high[..., 2:, :] - high[..., :-2, :]
        return torch.cat([nearness, valid, slope_x, slope_y], dim=1)

    def nearness(self, depth_N2SS: Tensor, nearest_m: Tensor) -> tuple[Tensor, Tensor]:
        """Nearness in [0, 1] and validity, [N, 1, S, S] each. Without a nearest surface, everything measured counts as nearest."""
        scaled, valid = depth_N2SS.chunk(2, dim=1)
        depth_m = self.near_m + self.span_m * scaled
        start_m = torch.where(nearest_m > 0, nearest_m, FAR)[:, :, None, None] - MARGIN * self.depth_window_m
        return (1 - torch.clamp((depth_m - start_m) / self.depth_window_m, 0, 1)) * valid, valid


class LogDepth(nn.Module):
    """The three logarithmic channels of DeFM, the input that its pretrained networks expect. 0 m = no measurement, as there.

        log(1 + m) / log(1 + 100)                   absolute distance m in metres
        log(1 + m) / log(1 + 9), at most 1          the near range
        log(1 + m), scaled to [0, 1] per image      0 if all pixels are equal

    Each is then normalised by `LOG_MEAN` and `LOG_STD`. A missing pixel is the smallest value of its image.

    The largest and smallest distance of an image come from max pooling over its rows and then over the column that is left, and not from
    a maximum and a minimum reduction, with which TensorRT 11.2 was reported to compute wrong outputs (see `NearestSurface`). In two
    steps, because TensorRT limits a window to 100,000 pixels. Distances that differ by less than half a depth code count as equal:
    rounding, which may differ between fused kernels, must not be scaled to the complete range.
    """

    num_channels = 3
    mean: Tensor
    std: Tensor

    def __init__(self, contract: InputContract) -> None:
        super().__init__()
        self.near_m = contract.near_m
        self.span_m = contract.far_m - contract.near_m
        self.size = contract.size
        self.register_buffer("mean", torch.tensor(LOG_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(LOG_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, depth_N2SS: Tensor, nearest_m: Tensor) -> Tensor:
        scaled, valid = depth_N2SS.chunk(2, dim=1)
        depth_m = (self.near_m + self.span_m * scaled) * valid
        largest_m, smallest_m = self._largest(depth_m), -self._largest(-depth_m)
        log, low = torch.log1p(depth_m), torch.log1p(smallest_m)
        is_flat = largest_m - smallest_m < DEPTH_UNIT_M / 2
        span = torch.where(is_flat, 1.0, torch.log1p(largest_m) - low)
        channels = [
            log / math.log1p(LOG_FAR_M),
            torch.clamp(log / math.log1p(LOG_NEAR_M), max=1),
            torch.where(is_flat, 0.0, (log - low) / span),
        ]
        return (torch.cat(channels, dim=1) - self.mean) / self.std

    def _largest(self, values_N1SS: Tensor) -> Tensor:
        """The largest value of each image, [N, 1, 1, 1]."""
        return functional.max_pool2d(functional.max_pool2d(values_N1SS, (1, self.size)), (self.size, 1))
