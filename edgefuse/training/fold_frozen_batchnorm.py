"""Folds frozen BatchNorm layers into frozen convolutions during training: the same outputs in less time.

Measured on a CPU core at 128 px, batches of 16, 13 of MobileNetV2's 19 stages frozen: a step takes 0.72 (RGB only), 0.82 (naive) and 0.75
(spatial) of the time without folding.

Weights, statistics and their names do not change.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


@contextmanager
def fold_frozen_batchnorm(module: nn.Module) -> Iterator[None]:
    """Inside the context, each frozen convolution of `module` includes the frozen BatchNorm that follows it, which becomes the identity.

    Frozen: no parameter requires a gradient, and the BatchNorm is in eval mode. Layers follow each other in the order of their
    registration, which is the order of execution in the backbones of `edgefuse.model.choices` (tested).
    """
    leaves = [layer for layer in module.modules() if not any(layer.children())]
    pairs: list[tuple[Any, Any]] = [(conv, norm) for conv, norm in itertools.pairwise(leaves) if _can_fold(conv, norm)]
    for conv, norm in pairs:
        # Set on the instance, so state dicts do not contain it.
        weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        conv.forward = partial(conv._conv_forward, weight=weight.detach(), bias=bias.detach())
        norm.forward = _identity
    try:
        yield
    finally:
        for layer in itertools.chain(*pairs):
            del layer.forward


@contextmanager
def for_prediction(model: nn.Module) -> Iterator[None]:
    """Inside the context, a model in eval mode predicts in a quarter of the time on a CPU: all BatchNorm layers folded, channels-last memory.

    Its weights need no gradients from then on.
    """
    model.requires_grad_(False).to(memory_format=torch.channels_last)
    with fold_frozen_batchnorm(model):
        yield


def _can_fold(conv: nn.Module, norm: nn.Module) -> bool:
    if not (isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)):
        return False
    if "forward" in vars(conv):  # folded by a context around this one
        return False
    is_trained = any(p.requires_grad for layer in (conv, norm) for p in layer.parameters())
    return not is_trained and not norm.training and conv.out_channels == norm.num_features


def _identity(tensor: Tensor) -> Tensor:
    return tensor
