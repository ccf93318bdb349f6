"""The first layers of the model: the contract's bytes to tensors. `edgefuse.contract` has the same in NumPy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgefuse.contract import DEPTH_UNIT_M, IMAGENET_MEAN, IMAGENET_STD, InputContract


class InputDecoder(nn.Module):
    """Decode camera bytes in FP32, for any precision of the layers that follow.

    The cast to float comes first: TensorRT accepts a UINT8 input only in front of a cast.
    In FP16, depth would lose up to 8 mm, and code 65535 would become infinity.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, contract: InputContract) -> None:
        super().__init__()
        self.near_m = contract.near_m
        self.far_m = contract.far_m
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, rgb_NHWC: Tensor, depth_NHW2: Tensor) -> tuple[Tensor, Tensor]:
        """Decode one batch.

        Args:
            rgb_NHWC: uint8 [N, S, S, 3], RGB order.
            depth_NHW2: uint8 [N, S, S, 2], little-endian codes of 1 mm, 0 = no measurement.

        Returns:
            RGB float32 [N, 3, S, S], ImageNet-normalised; depth float32 [N, 2, S, S]: range in [0, 1], validity 0 or 1.
        """
        rgb = rgb_NHWC.float().permute(0, 3, 1, 2).contiguous() / 255.0
        low, high = depth_NHW2.float().unbind(dim=3)
        code = low + 256.0 * high
        valid = (code > 0).float()
        depth_m = torch.clamp(code * DEPTH_UNIT_M, self.near_m, self.far_m)
        scaled = (depth_m - self.near_m) / (self.far_m - self.near_m)
        return (rgb - self.mean) / self.std, torch.stack([scaled * valid, valid], dim=1)
