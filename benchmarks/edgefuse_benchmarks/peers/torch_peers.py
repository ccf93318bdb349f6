"""PyTorch with the transforms of torchvision: eager, and compiled with `torch.compile`. Needs the run, for its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgefuse.contract import IMAGENET_MEAN, IMAGENET_STD, Outputs
from edgefuse.errors import UserError
from edgefuse.model.classifier import FusionClassifier
from edgefuse.model.decode import InputDecoder
from edgefuse.training.run import open_run
from edgefuse_benchmarks.peers.peer import NUM_THREADS, Peer, Source

Infer = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


class FloatInputs(nn.Module):
    """In place of the decoder, for inputs that transforms have prepared: normalised RGB [N, 3, S, S], depth [N, S, S] in millimetres."""

    def __init__(self, decode: InputDecoder) -> None:
        super().__init__()
        self.decode = decode

    def forward(self, rgb: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        """What `InputDecoder` returns."""
        return rgb, self.decode.of_codes(depth[:, None])


@contextmanager
def torch_peer(source: Source, *, is_compiled: bool) -> Iterator[Peer]:
    """The network of the run, with one thread.

    Raises:
        UserError: no run was given, or it cannot be opened.
    """
    if source.run_folder is None:
        raise UserError("it needs the run that the bundle was exported from: --run RUN")
    model = open_run(source.run_folder).build_model()
    model.decode = FloatInputs(model.decode)  # type: ignore[assignment]
    infer = partial(_infer, model)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(NUM_THREADS)
    try:
        size = source.bundle.manifest.contract.size
        run = torch.compile(infer) if is_compiled else infer
        ready = [torch.from_numpy(array) for array in source.ready()]
        yield Peer(
            classify=partial(_classify, run, size),
            outputs=lambda found: Outputs(*(tensor.numpy() for tensor in found)),
            network=torch.inference_mode()(partial(run, *ready)),
        )
    finally:
        torch.set_num_threads(num_threads)


def _infer(model: FusionClassifier, rgb: Tensor, depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    logits, gate, nearest_m = model(rgb, depth)
    return model.probabilities(logits), gate, nearest_m


@torch.inference_mode()
def _classify(
    run: Infer, size: int, rgb: NDArray[np.uint8], depth: NDArray[np.uint16]
) -> tuple[Tensor, Tensor, Tensor]:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    side = min(depth.shape)
    image = functional.center_crop(torch.from_numpy(rgb).permute(2, 0, 1), [side, side])
    image = functional.resize(image, [size, size], antialias=True)
    image = functional.to_dtype(image, torch.float32, scale=True)
    image = functional.normalize(image, list(IMAGENET_MEAN), list(IMAGENET_STD))
    codes = functional.center_crop(torch.from_numpy(depth)[None], [side, side]).float()
    codes = functional.resize(codes, [size, size], interpolation=InterpolationMode.NEAREST_EXACT)
    return run(image[None], codes)
