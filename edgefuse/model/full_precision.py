"""Keeps a part of the model in FP32 while the rest runs under `torch.autocast`. Owns that decorator; only the model imports it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

Forward = TypeVar("Forward", bound=Callable[..., Any])


def in_fp32(forward: Forward) -> Forward:
    """`forward` of a module of `FusionClassifier.fp32_modules`: under autocast, it runs in FP32, with its arguments cast to FP32.

    Autocast would run the convolution of the spatial gate and the layers of the frame gate in bfloat16, which has 8 bits of precision.
    """

    @wraps(forward)
    def run(self: Any, *arguments: Any) -> Any:
        device = arguments[0].device.type
        if not torch.is_autocast_enabled(device):
            return forward(self, *arguments)
        with torch.autocast(device, enabled=False):
            return forward(self, *(one.float() if _is_half(one) else one for one in arguments))

    return run  # type: ignore[return-value]


def _is_half(value: object) -> bool:
    return isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
