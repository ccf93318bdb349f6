"""The model with its layers in half precision, for the strongly typed FP16 file. Owns which modules stay in FP32.

Every module that computes has one precision of its own, and casts what it is given to it as it is entered. So the borders
between FP32 and half stand in the torch module, and the exported graph has them as Cast nodes. What a module computes in its
own `forward` (not in its parts) is in that module's precision as well; a module that only hands on casts nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edgefuse.errors import UserError
from edgefuse.model.classifier import FusionClassifier, predict
from edgefuse_export.onnx.activation_statistics import TorchActivationObserver
from edgefuse_export.onnx.check_precision import inside

FP32_MODULES = ("decode",)
"""Always in FP32, as glob patterns on module names: in half, depth would lose up to 8 mm and code 65535 would be infinite.

A model adds its own with an attribute `fp32_modules`, such as what it computes from depth before the backbone."""

FP16_MAX = 65504.0
"""The largest finite number in half precision."""


@dataclass(frozen=True, kw_only=True)
class Fp16Model:
    """A model whose layers are in half.

    Attributes:
        model: in eval mode, on the CPU; its inputs are the contract's bytes.
        fp32_modules: the modules that stay in FP32, each with all its parts; outermost names only.
    """

    model: FusionClassifier
    fp32_modules: tuple[str, ...]


def fp16_from_model(
    model: FusionClassifier, *, rgb_NHWC: Tensor, depth_NHW2: Tensor, keep_fp32: Sequence[str] = ()
) -> Fp16Model:
    """A copy of the model in half, with the input decoding and what was asked for in FP32.

    Batch normalisations are folded into their convolutions before, in FP32: their variances may lie outside of what half
    holds, and TensorRT folds them anyhow.

    Args:
        model: in eval mode, on the CPU; it stays as it is.
        rgb_NHWC, depth_NHW2: any batch, to see which modules compute, and which convolution feeds which normalisation.
        keep_fp32: further modules, as glob patterns on their names (`*` matches dots too).

    Raises:
        UserError: a pattern matches no module.
    """
    half = fold_frozen_batchnorm(model, rgb_NHWC, depth_NHW2)
    islands = fp32_modules(half, keep_fp32=keep_fp32)
    with TorchActivationObserver().on(half) as seen:
        predict(half, rgb_NHWC, depth_NHW2)
    for name, module in half.named_modules():
        if not name:
            continue  # the classifier itself casts nothing: between its parts each tensor keeps the precision it has
        dtype = torch.float32 if inside(name, islands) else torch.float16
        _convert(module, dtype)
        if name in seen.largest:
            module.register_forward_pre_hook(_Cast(dtype), with_kwargs=True)
    return Fp16Model(model=half, fp32_modules=islands)


def fold_frozen_batchnorm(model: FusionClassifier, rgb_NHWC: Tensor, depth_NHW2: Tensor) -> FusionClassifier:
    """A copy of the model, in its own precision, with its batch normalisations folded into their convolutions."""
    found = copy.deepcopy(model).eval()
    fold_batchnorm(found, rgb_NHWC, depth_NHW2)
    return found


def fp32_modules(model: nn.Module, *, keep_fp32: Sequence[str] = ()) -> tuple[str, ...]:
    """The outermost modules of `model` that stay in FP32, in the order of the model.

    Raises:
        UserError: a pattern of `keep_fp32` matches no module; a few names are given.
    """
    names = [name for name, _ in model.named_modules() if name]
    for pattern in keep_fp32:
        if not any(fnmatchcase(name, pattern) for name in names):
            some = [name for name in names if name.count(".") <= 1][:12]
            raise UserError(f"--keep-fp32 {pattern!r} matches no module; there are {', '.join(some)} and their parts")
    patterns = (*FP32_MODULES, *getattr(model, "fp32_modules", ()), *keep_fp32)
    found: list[str] = []
    for name in names:
        if any(fnmatchcase(name, pattern) for pattern in patterns) and not inside(name, found):
            found.append(name)
    return tuple(found)


@torch.no_grad()
def fold_batchnorm(model: nn.Module, *inputs: Tensor) -> None:
    """Fold each BatchNorm2d into the Conv2d that feeds it, in place.

    The pairs are found by running the model once: a normalisation whose input is the very tensor that a convolution gave.
    A convolution that runs twice is left alone.
    """
    made: list[tuple[Tensor, nn.Conv2d]] = []  # holds the tensors, so that no identity is given out twice
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def convolved(module: Any, _args: Any, result: Tensor) -> None:
        made.append((result, module))

    def normalises(module: Any, args: tuple[Tensor, ...]) -> None:
        pairs.extend((conv, module) for result, conv in made if result is args[0])

    handles = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(convolved))
        elif isinstance(module, nn.BatchNorm2d):
            handles.append(module.register_forward_pre_hook(normalises))
    try:
        model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    for conv, norm in pairs:
        if sum(c is conv for _, c in made) == 1 and sum(n is norm for _, n in pairs) == 1:
            _replace(model, conv, fuse_conv_bn_eval(conv, norm))
            _replace(model, norm, nn.Identity())


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child is old:
                setattr(parent, name, new)


def _convert(module: nn.Module, dtype: torch.dtype) -> None:
    """The module's own parameters and buffers; its parts' are converted when it is their turn."""
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.to(dtype)
    for name, buffer in list(module.named_buffers(recurse=False)):
        if buffer.is_floating_point():
            setattr(module, name, buffer.to(dtype))


@dataclass(frozen=True)
class _Cast:
    """A hook that casts the floating-point tensors a module is given."""

    dtype: torch.dtype

    def __call__(self, _module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return torch.utils._pytree.tree_map(self._cast, (args, kwargs))  # type: ignore[no-any-return]

    def _cast(self, value: Any) -> Any:
        return value.to(self.dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
