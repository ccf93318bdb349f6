"""Emulates FP16 on a CPU: FP32 kernels between tensors in FP16.

PyTorch's FP16 kernels for the CPU are some twelve times slower than those for FP32. This is also nearer to tensor cores, which
accumulate in FP32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map


class EmulatedFp16(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Computes every operation on FP16 tensors in FP32 and rounds its result to FP16; beyond 65504 it becomes infinite.

    Inputs, weights and results thus are FP16, as in the FP16 file, and operations on FP32 tensors are unchanged. Views and casts round
    nothing, and operations in place (activations, sums) already compute in FP32 and round.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.is_view or func._schema.is_mutable:
            return func(*args, **kwargs)
        leaves = leaves_of((*args, *kwargs.values()))
        floats = {leaf.dtype for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()}
        has_dtype = any(isinstance(leaf, torch.dtype) for leaf in leaves)  # a cast
        if floats != {torch.float16} or has_dtype:
            return func(*args, **kwargs)
        args, kwargs = tree_map(_to_fp32, (args, kwargs))
        return tree_map(_to_fp16, func(*args, **kwargs))


def leaves_of(values: Sequence[Any]) -> list[Any]:
    """The arguments or results of an operation, with those in lists; torch's `tree_leaves` takes twenty times as long."""
    return [leaf for value in values for leaf in (value if isinstance(value, (list, tuple)) else (value,))]


def _to_fp32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.float16 else value


def _to_fp16(value: Any) -> Any:
    return value.half() if isinstance(value, Tensor) and value.dtype == torch.float32 else value
