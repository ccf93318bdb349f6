"""Converts the layers of a model to FP16, for the strongly typed FP16 file. Owns which modules stay in FP32.

Every module that computes has one precision, and casts its inputs to it. The casts between FP32 and FP16 are thus part of the
PyTorch module and become Cast nodes of the exported graph. What a module computes in its own `forward` has that module's
precision too; a module that only passes tensors on casts nothing.
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
"""Always in FP32, as glob patterns on module names: FP16 would round depth by up to 8 mm and make code 65535 infinite.

A model adds modules with an attribute `fp32_modules`, such as those that process depth before the backbone."""

FP16_MAX = 65504.0
"""The largest finite FP16 number."""


@dataclass(frozen=True, kw_only=True)
class Fp16Model:
    """A model whose layers are in FP16.

    Attributes:
        model: in eval mode, on the CPU; its inputs are the uint8 inputs of the contract.
        fp32_modules: the modules that stay in FP32, each with all its submodules; outermost names only.
    """

    model: FusionClassifier
    fp32_modules: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class FoldedModel:
    """A model in FP32 with batch normalisation folded into the convolutions, which TensorRT does in any case.

    The variances may be outside the range of FP16, so it comes before the conversion.

    Attributes:
        model: in eval mode, on the CPU.
        computing: names of the modules that compute something in their own `forward`.
    """

    model: FusionClassifier
    computing: frozenset[str]


def folded_model(model: FusionClassifier, *, rgb_NHWC: Tensor, depth_NHW2: Tensor) -> FoldedModel:
    """A copy of the model with batch normalisation folded.

    Args:
        model: in eval mode, on the CPU; not modified.
        rgb_NHWC, depth_NHW2: any batch; running it shows which modules compute, and which convolution feeds which
            normalisation.
    """
    folded = copy.deepcopy(model).eval()
    fold_batchnorm(folded, rgb_NHWC, depth_NHW2)
    with TorchActivationObserver().on(folded) as activations:
        predict(folded, rgb_NHWC, depth_NHW2)
    return FoldedModel(model=folded, computing=frozenset(activations.largest))


def fp16_from_model(
    model: FusionClassifier, *, rgb_NHWC: Tensor, depth_NHW2: Tensor, keep_fp32: Sequence[str] = ()
) -> Fp16Model:
    """`fp16_from_folded` of `folded_model`, see both."""
    return fp16_from_folded(folded_model(model, rgb_NHWC=rgb_NHWC, depth_NHW2=depth_NHW2), keep_fp32=keep_fp32)


def fp16_from_folded(folded: FoldedModel, *, keep_fp32: Sequence[str] = ()) -> Fp16Model:
    """A copy of the model in FP16, with the input decoding and the modules that match `keep_fp32` in FP32.

    Args:
        keep_fp32: more modules, as glob patterns on their names (`*` matches dots too).

    Raises:
        UserError: a pattern matches no module.
    """
    fp16 = copy.deepcopy(folded.model)
    kept = fp32_modules(fp16, keep_fp32=keep_fp32)
    for name, module in fp16.named_modules():
        if not name:
            continue  # the classifier itself casts nothing: tensors between its submodules keep their precision
        dtype = torch.float32 if inside(name, kept) else torch.float16
        _convert(module, dtype)
        if name in folded.computing:
            module.register_forward_pre_hook(_Cast(dtype), with_kwargs=True)
    return Fp16Model(model=fp16, fp32_modules=kept)


def fp32_modules(model: nn.Module, *, keep_fp32: Sequence[str] = ()) -> tuple[str, ...]:
    """The outermost modules of `model` that stay in FP32, in the order of the model.

    Raises:
        UserError: a pattern of `keep_fp32` matches no module; the message lists a few names.
    """
    names = [name for name, _ in model.named_modules() if name]
    for pattern in keep_fp32:
        if not any(fnmatchcase(name, pattern) for name in names):
            some = [name for name in names if name.count(".") <= 1][:12]
            raise UserError(
                f"--keep-fp32 {pattern!r} matches no module; modules: {', '.join(some)} and their submodules"
            )
    patterns = (*FP32_MODULES, *getattr(model, "fp32_modules", ()), *keep_fp32)
    found: list[str] = []
    for name in names:
        if any(fnmatchcase(name, pattern) for pattern in patterns) and not inside(name, found):
            found.append(name)
    return tuple(found)


@torch.no_grad()
def fold_batchnorm(model: nn.Module, *inputs: Tensor) -> None:
    """Fold each BatchNorm2d into the Conv2d that feeds it, in place.

    The pairs are found by running the model once: a normalisation whose input is the output tensor of a convolution.
    A convolution that runs twice is not folded.
    """
    outputs: list[tuple[Tensor, nn.Conv2d]] = []  # keeps the tensors alive, so that `is` cannot match a reused address
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after_conv(module: Any, _args: Any, result: Tensor) -> None:
        outputs.append((result, module))

    def before_norm(module: Any, args: tuple[Tensor, ...]) -> None:
        pairs.extend((conv, module) for result, conv in outputs if result is args[0])

    handles = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(after_conv))
        elif isinstance(module, nn.BatchNorm2d):
            handles.append(module.register_forward_pre_hook(before_norm))
    try:
        model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    for conv, norm in pairs:
        if sum(c is conv for _, c in outputs) == 1 and sum(n is norm for _, n in pairs) == 1:
            _replace(model, conv, fuse_conv_bn_eval(conv, norm))
            _replace(model, norm, nn.Identity())


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child is old:
                setattr(parent, name, new)


def _convert(module: nn.Module, dtype: torch.dtype) -> None:
    """Convert the module's own parameters and buffers, without those of its submodules."""
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.to(dtype)
    for name, buffer in list(module.named_buffers(recurse=False)):
        if buffer.is_floating_point():
            setattr(module, name, buffer.to(dtype))


@dataclass(frozen=True)
class _Cast:
    """A forward pre-hook that casts the floating-point inputs of a module."""

    dtype: torch.dtype

    def __call__(self, _module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return torch.utils._pytree.tree_map(self._cast, (args, kwargs))  # type: ignore[no-any-return]

    def _cast(self, value: Any) -> Any:
        return value.to(self.dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
