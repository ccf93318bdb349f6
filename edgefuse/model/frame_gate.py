"""The frame gate: how far depth is to be trusted in one pair, from statistics of both images, before the backbones run.

    s = statistics of the RGB image and of the depth map      [N, 14]   `ImageStatistics`
    G = sigmoid(W relu(V s + v) + theta)                       [N, 1]    0 = trust RGB, 1 = trust depth

It is equation 6 with image statistics in place of the features, and a hidden layer. It is not trained with the classifier but after it,
on pairs with one corrupted sensor (`edgefuse.training.frame_gate`), so it reports which image is damaged and how much, not which class the
sensors agree on. It cannot see that a good image shows another moment or another scene. Everything here runs in FP32.

`spatial` uses G twice: the answer weighs the two heads by 1 - G and G (equation 7), and where depth is not trusted, the spatial gate
masks nothing, because a wrong mask would also damage what the RGB backbone sees.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgefuse.contract import IMAGENET_MEAN, IMAGENET_STD, InputContract
from edgefuse.model.full_precision import in_fp32
from edgefuse.model.pooling import average_3x3, block_averages, maximum

NUM_STATISTICS = 14
NUM_HIDDEN = 16

TRUSTED = 0.55
"""G of two good images: training centres it there. On held-out sequences of people who were trained on, constant gates of 0.5 and 0.55
gave the same accuracy on good pairs, and with 0.55 depth also outvotes the RGB image of another scene."""
MASK_FROM, MASK_FULLY = 0.45, 0.5
"""The spatial gate masks nothing up to the first G, and as without a frame gate from the second on."""

MAX_STEP_M = 0.02
"""Depth that differs from its neighbourhood by more is an edge, not noise."""


class ImageStatistics(nn.Module):
    """Fourteen numbers that tell a damaged image from a good one, of any scene."""

    mean: Tensor
    std: Tensor

    def __init__(self, contract: InputContract) -> None:
        super().__init__()
        self.span_m = contract.far_m - contract.near_m
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, rgb_N3SS: Tensor, depth_N2SS: Tensor) -> Tensor:
        """Decoded images (`InputDecoder`) -> [N, 14]."""
        return torch.cat([self.of_rgb(rgb_N3SS * self.std + self.mean), self.of_depth(depth_N2SS)], dim=1)

    def of_rgb(self, rgb_N3SS: Tensor) -> Tensor:
        """[N, 10] of RGB in [0, 1]: brightness, contrast, saturated and black pixels, detail (fine, and fine to coarse), colour cast."""
        red, green, blue = rgb_N3SS.chunk(3, dim=1)
        grey = (red + green + blue) / 3
        brightness = grey.mean((2, 3))
        variance = ((grey - brightness[:, :, None, None]) ** 2).mean((2, 3))
        # Not amax: see `edgefuse.model.encoding.NearestSurface`.
        brightest = torch.maximum(torch.maximum(red, green), blue)
        saturated = torch.clamp(20 * (brightest - 0.95), 0, 1).mean((2, 3))
        black = torch.clamp(1 - 20 * grey, 0, 1).mean((2, 3))
        fine = torch.log(_detail(grey) + 3e-4)
        coarse = torch.log(_detail(block_averages(grey, side=4)) + 3e-4)
        channels = rgb_N3SS.mean((2, 3))
        mean_red, mean_green, mean_blue = channels.chunk(3, dim=1)
        red_blue = (torch.cat([mean_red, mean_blue], dim=1) - mean_green) / (channels.mean(1, keepdim=True) + 0.02)
        light = torch.cat([torch.log(brightness + 1e-3), 0.5 * torch.log(variance + 1e-6), saturated, black], dim=1)
        return torch.cat([light, fine, fine - coarse, red_blue, red_blue.abs()], dim=1)

    def of_depth(self, depth_N2SS: Tensor) -> Tensor:
        """[N, 4] of decoded depth: measured pixels, those next to a hole, noise and edges where it is dense."""
        scaled, valid = depth_N2SS.chunk(2, dim=1)
        # In whole millimetres, and so exact: rounding errors of a flat surface would be noise, and would differ between engines.
        depth_mm = torch.round(1000 * self.span_m * scaled)
        step_m = (9 * depth_mm - torch.round(9 * average_3x3(depth_mm))).abs() / 9000
        dense = 1 - maximum(1 - valid, radius=1)  # 1 where all of 3 x 3 pixels are measured
        step_m = step_m * dense
        measured, fully = valid.mean((2, 3)), dense.mean((2, 3))
        num_dense = fully + 1e-3
        noise_m = torch.clamp(step_m, max=MAX_STEP_M).mean((2, 3)) / num_dense
        edges = torch.clamp(step_m / MAX_STEP_M - 1, 0, 1).mean((2, 3)) / num_dense
        return torch.cat([measured, measured - fully, torch.log(noise_m + 2e-4), torch.log(edges + 1e-3)], dim=1)


class FrameGate(nn.Module):
    """G of a pair. It is constant, `TRUSTED`, until it is trained."""

    def __init__(self, contract: InputContract) -> None:
        super().__init__()
        self.statistics = ImageStatistics(contract)
        self.V = nn.Linear(NUM_STATISTICS, NUM_HIDDEN)
        self.W = nn.Linear(NUM_HIDDEN, 1)  # weight W and bias theta
        nn.init.zeros_(self.W.weight)
        nn.init.constant_(self.W.bias, float(torch.logit(torch.tensor(TRUSTED))))

    @in_fp32
    def forward(self, rgb_N3SS: Tensor, depth_N2SS: Tensor) -> Tensor:
        """Decoded images -> G, [N, 1]. In train mode it is `TRUSTED`, because it is trained after the classifier."""
        if self.training:
            return rgb_N3SS.new_full((len(rgb_N3SS), 1), TRUSTED)
        return torch.sigmoid(self.logit(self.statistics(rgb_N3SS, depth_N2SS)))

    def logit(self, statistics: Tensor) -> Tensor:
        """Statistics [N, 14] -> G before the sigmoid, [N, 1]."""
        return self.W(functional.relu(self.V(statistics)))  # type: ignore[no-any-return]


def masked_fraction(G: Tensor) -> Tensor:
    """How much of the mask of the spatial gate applies at a frame gate G, 0 to 1."""
    return torch.clamp((G - MASK_FROM) / (MASK_FULLY - MASK_FROM), 0, 1)


def _detail(image_N1SS: Tensor) -> Tensor:
    """Mean difference of a pixel from its neighbourhood, [N, 1]."""
    return (image_N1SS - average_3x3(image_N1SS)).abs().mean((2, 3))
