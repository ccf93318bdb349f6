"""Images to torch batches. Owns order and randomness: the same seed and epoch give the same batches."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from edgefuse.data.augmentation import Augmentation, augment
from edgefuse.data.dataset import RgbdDataset


class Batch(NamedTuple):
    """rgb uint8 [N, S, S, 3], depth uint8 [N, S, S, 2], labels int64 [N], and positions of the pairs in the data set, int64 [N]."""

    rgb: Tensor
    depth: Tensor
    labels: Tensor
    indices: Tensor


class AugmentedDataset(Dataset[Batch]):
    """Augmented samples of a loaded data set; call `start_epoch` before each pass."""

    def __init__(self, rgbd: RgbdDataset, *, size: int, augmentation: Augmentation, seed: int) -> None:
        self.rgbd = rgbd
        self.size = size
        self.augmentation = augmentation
        self.seed = seed
        self.epoch = 0

    def start_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rgbd.rgb)

    def __getitem__(self, index: int) -> Batch:
        sample = self.rgbd.dataset.samples[index]
        framed = augment(
            self.rgbd.rgb[index],
            self.rgbd.depth[index],
            size=self.size,
            depth_unit_m=sample.depth_unit_m,
            augmentation=self.augmentation,
            rng=np.random.default_rng((self.seed, self.epoch, index)),
        )
        return Batch(
            rgb=torch.from_numpy(framed.rgb),
            depth=torch.from_numpy(framed.depth),
            labels=torch.tensor(sample.label),
            indices=torch.tensor(index),
        )


def build_loader(samples: AugmentedDataset, *, batch_size: int, seed: int) -> DataLoader[Batch]:
    """A shuffling loader. A last batch of one sample is dropped, because BatchNorm needs two."""
    return DataLoader(
        samples,
        batch_size=batch_size,
        shuffle=True,
        generator=torch.Generator().manual_seed(seed),
        drop_last=len(samples) > batch_size and len(samples) % batch_size == 1,
    )
