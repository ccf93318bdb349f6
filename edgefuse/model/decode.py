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
        return self.of_rgb(rgb_NHWC), self.of_depth(depth_NHW2)

    def of_rgb(self, rgb_NHWC: Tensor) -> Tensor:
        """The RGB half of `forward`."""
        rgb = rgb_NHWC.float().permute(0, 3, 1, 2).contiguous() / 255.0
        return (rgb - self.mean) / self.std

    def of_depth(self, depth_NHW2: Tensor) -> Tensor:
        """The depth half of `forward`."""
        # Transposed first: ONNX Runtime and OpenVINO take three to five times as long to split the last axis.
        low, high = depth_NHW2.float().permute(0, 3, 1, 2).chunk(2, dim=1)
        return self.of_codes(low + 256.0 * high)

    def of_codes(self, code: Tensor) -> Tensor:
        """Depth codes of 1 mm as float32 [N, 1, S, S] -> the depth half of `forward`."""
        valid = torch.clamp(code, 0, 1)  # codes are whole numbers
        depth_m = torch.clamp(code * DEPTH_UNIT_M, self.near_m, self.far_m)
        scaled = (depth_m - self.near_m) / (self.far_m - self.near_m)
        return torch.cat([scaled * valid, valid], dim=1)
