"""Pooling of images with one or two channels, in a form that engines for CPUs run fast: the rows are the channels of the pooling layers.

Engines vectorise pooling over channels, OpenVINO in blocks of 16, so one channel costs as much as 16. Windows of one row have the same
result if each row is a channel: [N, C, S, S] is pooled as [N, C * S, 1, S], then its transpose. Measured in `benchmarks/results/speed.md`.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def average_3x3(image_NCHW: Tensor) -> Tensor:
    """The average of each pixel and its eight neighbours; the border is repeated. Same shape."""
    return _average(_average(image_NCHW).transpose(2, 3)).transpose(2, 3)


def maximum(image_NCHW: Tensor, *, radius: int) -> Tensor:
    """The maximum over a square of 2 * radius + 1 pixels around each pixel, within the image. Same shape."""
    return _maximum(_maximum(image_NCHW, radius).transpose(2, 3), radius).transpose(2, 3)


def smoothed_maximum(image_NCHW: Tensor, *, radius: int) -> Tensor:
    """`average_3x3` of `maximum`, with two transpositions instead of four."""
    columns = _maximum(_maximum(image_NCHW, radius).transpose(2, 3), radius)
    return _average(_average(columns).transpose(2, 3))


def block_averages(image_NCHW: Tensor, *, side: int) -> Tensor:
    """`avg_pool2d` with square blocks: [N, C, H, W] -> [N, C, H // side, W // side]."""
    rows = functional.avg_pool2d(_as_channels(image_NCHW), (1, side))
    return functional.avg_pool2d(_as_rows(rows, image_NCHW), (side, 1))


def _average(image_NCHW: Tensor) -> Tensor:
    """Of each pixel and its neighbours to the left and right."""
    padded = functional.pad(_as_channels(image_NCHW), (1, 1, 0, 0), mode="replicate")
    return _as_rows(functional.avg_pool2d(padded, (1, 3), stride=1), image_NCHW)


def _maximum(image_NCHW: Tensor, radius: int) -> Tensor:
    """Over each pixel and its neighbours to the left and right."""
    rows = functional.max_pool2d(_as_channels(image_NCHW), (1, 2 * radius + 1), stride=1, padding=(0, radius))
    return _as_rows(rows, image_NCHW)


def _as_channels(image_NCHW: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C * H, 1, W]"""
    _, channels, height, width = image_NCHW.shape
    return image_NCHW.reshape(-1, channels * height, 1, width)


def _as_rows(rows: Tensor, image_NCHW: Tensor) -> Tensor:
    """The inverse of `_as_channels`, for the image that it was called with; its rows may have another length."""
    return rows.reshape(-1, *image_NCHW.shape[1:3], rows.shape[3])
