"""The pooling of few channels has the values of PyTorch's pooling."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from edgefuse.model.pooling import average_3x3, block_averages, maximum, smoothed_maximum

SHAPES = [(2, 1, 24, 24), (1, 2, 17, 30), (3, 3, 5, 4)]


def image(shape: tuple[int, ...]) -> torch.Tensor:
    return (
        torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 0.5
    )  # negative too: padding with 0 would show


def usual_average(image_NCHW: torch.Tensor) -> torch.Tensor:
    return functional.avg_pool2d(functional.pad(image_NCHW, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_values_are_those_of_square_windows(shape: tuple[int, ...]) -> None:
    x = image(shape)
    torch.testing.assert_close(average_3x3(x), usual_average(x))
    for radius in (1, 2, 6):
        expected = functional.max_pool2d(functional.pad(x, 4 * (radius,), value=-1), 2 * radius + 1, stride=1)
        assert torch.equal(maximum(x, radius=radius), expected)
        torch.testing.assert_close(smoothed_maximum(x, radius=radius), usual_average(expected))
    for side in (1, 3, 4):
        torch.testing.assert_close(block_averages(x, side=side), functional.avg_pool2d(x, side))


def test_gradients_reach_every_pixel() -> None:
    x = image(SHAPES[0]).requires_grad_()
    average_3x3(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad.sum(), torch.tensor(float(x.numel())))
