"""The spatial gate: a per-pixel mask of the RGB image, computed from depth, in front of the RGB backbone.

Equation 6 with W as a 1x1 convolution over maps computed from depth, and the RGB half of equation 7 on the image:

    G = sigmoid(W * maps + theta)   [N, 1, S, S]   1 = this pixel is masked
    rgb * (1 - G)                   [N, 3, S, S]   masked pixels have the mean colour, 0 after normalisation

The gate over feature vectors that follows is in `edgefuse.model.fusion`, the gate of a frame in `edgefuse.model.frame_gate`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgefuse.model.encoding import RelativeDepth
from edgefuse.model.frame_gate import masked_fraction
from edgefuse.model.full_precision import in_fp32
from edgefuse.model.pooling import smoothed_maximum

LAYER_GAIN = 20.0
"""A pixel belongs fully to the near layer from a nearness of 1 / 20 on, so up to 1 / 20 before the end of the depth window."""

AVAILABLE_GAIN = 20.0
"""Depth counts as available from 1 / 20 valid pixels on."""

WIDENING = 40
"""The near layer is dilated by 1 / 40 of the image side, because depth misses edges and fingertips."""

TRUSTED_FRACTION, DOUBTED_FRACTION = 0.45, 0.2
"""At this fraction of valid pixels or more, a pixel without a measurement counts as background (borders and shadows of objects have none);
at the second fraction or less, it counts as unknown and is not masked. In between, linearly."""


class SpatialGate(nn.Module):
    """A mask of the RGB image from depth, which keeps the near layer.

    Training leaves its four weights as they are (`edgefuse.training.loop.prepare`): a gradient for them would have to pass the frozen part of
    the RGB backbone. Older runs have trained ones.

    Without any depth measurement nothing is masked, so RGB stays complete if the depth sensor is missing. If most measurements
    are missing, only pixels that were measured as background are masked.
    """

    def __init__(self, encoding: RelativeDepth, *, size: int) -> None:
        super().__init__()
        self.encoding = encoding
        self.widening = max(1, round(size / WIDENING))
        self.W = nn.Conv2d(3, 1, kernel_size=1)  # weight W and bias theta
        with torch.no_grad():
            # near layer: -4 - 8 + 8 = -4, the rest: -4 + 8 = 4, no depth at all: -4; so G is 0.02, 0.98 and 0.02
            self.W.weight.copy_(torch.tensor([0.0, -8.0, 8.0]).view(1, 3, 1, 1))
            self.W.bias.fill_(-4.0)  # type: ignore[union-attr]

    def forward(
        self, rgb_N3SS: Tensor, depth_N2SS: Tensor, nearest_m: Tensor, frame_gate: Tensor | None = None
    ) -> Tensor:
        """The normalised image with masked pixels at the mean colour."""
        shown = 1 - self.mask(depth_N2SS, nearest_m, frame_gate)
        # Flat: OpenVINO would fuse the product with everything before it, and compute that for each colour, with the channels last.
        return (rgb_N3SS.flatten(2) * shown.flatten(2)).reshape(rgb_N3SS.shape)

    @in_fp32
    def mask(self, depth_N2SS: Tensor, nearest_m: Tensor, frame_gate: Tensor | None = None) -> Tensor:
        """The masked fraction of each pixel, [N, 1, S, S]: G, and less where the frame gate [N, 1] does not trust depth."""
        G = self.gate(depth_N2SS, nearest_m)
        return G if frame_gate is None else G * masked_fraction(frame_gate)[:, :, None, None]

    def gate(self, depth_N2SS: Tensor, nearest_m: Tensor) -> Tensor:
        """G, [N, 1, S, S] in (0, 1), from the decoded depth and the distance of its nearest surface, [N, 1]."""
        nearness, valid = self.encoding.nearness(depth_N2SS, nearest_m)
        layer = torch.clamp(LAYER_GAIN * nearness, 0, 1)
        layer = smoothed_maximum(layer, radius=self.widening)
        fraction = valid.mean((2, 3), keepdim=True)
        available = torch.clamp(AVAILABLE_GAIN * fraction, 0, 1)
        doubt = torch.clamp((TRUSTED_FRACTION - fraction) / (TRUSTED_FRACTION - DOUBTED_FRACTION), 0, 1)
        layer = torch.maximum(layer, doubt * (1 - valid))
        # W as a weighted sum: engines for CPUs take ten times as long for a concatenation and a convolution of single channels.
        of_nearness, of_layer, of_available = self.W.weight.unbind(dim=1)
        theta = of_available * available + self.W.bias[:, None, None]  # type: ignore[index]
        return torch.sigmoid(of_nearness * nearness + of_layer * layer + theta)
