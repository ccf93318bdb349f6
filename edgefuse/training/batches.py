"""Images to torch batches. Owns order and randomness: the same seed and epoch give the same batches."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler, default_collate

from edgefuse.data.augmentation import augment
from edgefuse.data.dataset import RgbdDataset
from edgefuse.errors import UserError
from edgefuse.framing import Framed, fit
from edgefuse.training.recipe import TrainConfig

MAX_TRIES = 8
"""Random pairs that are looked at for one of another sequence; a data set of one sequence has none."""

MAX_WORKERS = 4
"""Processes that prepare batches for a GPU."""

SHARED_MEMORY = Path("/dev/shm")
BYTES_PER_PIXEL = 5


class Batch(NamedTuple):
    """rgb uint8 [N, S, S, 3], depth uint8 [N, S, S, 2], labels int64 [N], and positions of the pairs in the data set, int64 [N]."""

    rgb: Tensor
    depth: Tensor
    labels: Tensor
    indices: Tensor


class AugmentedDataset(Dataset["Batch | UserError"]):
    """Augmented samples of a loaded data set, by epoch and position. An error of the data is returned: from a worker process it would be text."""

    def __init__(self, rgbd: RgbdDataset, *, config: TrainConfig) -> None:
        self.rgbd = rgbd
        self.config = config

    def __len__(self) -> int:
        return len(self.rgbd.rgb)

    def __getitem__(self, at: tuple[int, int]) -> Batch | UserError:
        try:
            return self._augmented(*at)
        except UserError as error:
            return error

    def _augmented(self, epoch: int, index: int) -> Batch:
        sample = self.rgbd.dataset.samples[index]
        rng = np.random.default_rng((self.config.seed, epoch, index))
        framed = augment(
            self.rgbd.rgb[index],
            self.rgbd.depth[index],
            size=self.config.size,
            depth_unit_m=sample.depth_unit_m,
            augmentation=self.config.augmentation,
            rng=rng,
            depth_window_m=self.config.depth_window_m,
            other=partial(self._of_another_sequence, index, rng),
        )
        return Batch(
            rgb=torch.from_numpy(framed.rgb),
            depth=torch.from_numpy(framed.depth),
            labels=torch.tensor(sample.label),
            indices=torch.tensor(index),
        )

    def _of_another_sequence(self, index: int, rng: np.random.Generator) -> Framed:
        """A random pair; of another sequence than pair `index`, unless a few tries find none."""
        samples = self.rgbd.dataset.samples
        for _ in range(MAX_TRIES):
            found = int(rng.integers(len(samples)))
            if samples[found].sequence != samples[index].sequence:
                break
        return fit(
            self.rgbd.rgb[found],
            self.rgbd.depth[found],
            size=self.config.size,
            depth_unit_m=samples[found].depth_unit_m,
        )


class _Shuffled(Sampler[tuple[int, int]]):
    """The positions of a data set in random order, each with its epoch, so that the worker processes can stay for all epochs."""

    def __init__(self, samples: AugmentedDataset, *, generator: torch.Generator) -> None:
        self.positions = RandomSampler(samples, generator=generator)
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        # DataLoader drew a value here when it shared this generator; without it, each seed would have another order than before.
        torch.empty((), dtype=torch.int64).random_(generator=self.positions.generator)
        return ((self.epoch, position) for position in self.positions)


class Batches:
    """Shuffled, augmented batches of a data set. A last batch of one pair is dropped, because BatchNorm needs two.

    Args:
        num_workers: processes that prepare them, 0 = the caller.
    """

    def __init__(self, rgbd: RgbdDataset, *, config: TrainConfig, num_workers: int = 0) -> None:
        samples, size = AugmentedDataset(rgbd, config=config), config.batch_size
        self._sampler = _Shuffled(samples, generator=torch.Generator().manual_seed(config.seed))
        self._loader = DataLoader(
            samples,
            batch_size=size,
            sampler=self._sampler,
            generator=torch.Generator(),  # of its own: how often it is used depends on the number of processes
            collate_fn=_batch_of,
            drop_last=len(samples) > size and len(samples) % size == 1,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            worker_init_fn=_start_worker,
        )

    def __len__(self) -> int:
        return len(self._loader)

    def of_epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, from 0.

        Raises:
            UserError: a pair cannot be read any more.
        """
        self._sampler.epoch = epoch
        for batch in self._loader:
            if isinstance(batch, UserError):
                raise batch
            yield batch


def _batch_of(samples: list[Batch | UserError]) -> Batch | UserError:
    """One batch of single samples, or the first error."""
    return next((one for one in samples if isinstance(one, UserError)), None) or default_collate(samples)


def _start_worker(number: int) -> None:
    """OpenCV's threads do not survive the fork of a process."""
    cv2.setNumThreads(0)


def num_workers(device: torch.device, *, config: TrainConfig) -> int:
    """Processes that prepare batches: some on a GPU with a CPU of several threads, else none.

    Their batches pass through shared memory, of which a container may have too little (Docker: 64 MB without --shm-size); then none.
    """
    if device.type == "cpu" or not SHARED_MEMORY.is_dir():
        return 0
    ready = 2 * MAX_WORKERS * config.batch_size * config.size**2 * BYTES_PER_PIXEL  # each worker prepares up to two
    return min(MAX_WORKERS, torch.get_num_threads() // 2) if 2 * ready < shutil.disk_usage(SHARED_MEMORY).free else 0


def prefetched(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The same batches in the same order; a thread prepares the next one while the caller uses the last.

    Only with a core to spare and without worker processes. If PyTorch uses all cores, its threads wait for the one that shares its core:
    with two threads on two cores, a step took 184 ms, and 150 ms without.
    """
    source = iter(batches)
    with ThreadPoolExecutor(max_workers=1) as pool:
        following = pool.submit(next, source, None)
        while (batch := following.result()) is not None:
            following = pool.submit(next, source, None)
            yield batch
