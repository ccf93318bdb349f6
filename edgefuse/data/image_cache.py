"""A cache of decoded images: in memory as far as they fit, read from their files beyond that.

Owns what is cached; `edgefuse.data.dataset.load` fills it.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from edgefuse.errors import UserError
from edgefuse.io.images import image_size, read_bytes
from edgefuse.io.memory import available_bytes

KEPT_FRACTION = 0.5
RESERVED_BYTES = 1 << 30
"""Fraction of the available memory for images, after subtracting what the model, its optimiser, the batches and threads need."""

LARGE_PIXELS = 16_000_000
"""Pairs with more pixels than this are decoded one at a time."""
_LARGE = Lock()

T = TypeVar("T")


class Budget:
    """Bytes that are still available for images (`left`). Threads may share it; parallel processes need one each."""

    def __init__(self, num_bytes: int | None = None) -> None:
        """Start with `num_bytes`; by default `KEPT_FRACTION` of the memory available now, after subtracting `RESERVED_BYTES`."""
        self.left = int(KEPT_FRACTION * (available_bytes() - RESERVED_BYTES)) if num_bytes is None else num_bytes
        self._lock = Lock()

    def take(self, num_bytes: int) -> bool:
        """Reserve `num_bytes`. Returns False, and reserves nothing, if fewer are left."""
        with self._lock:
            if num_bytes > self.left:
                return False
            self.left -= num_bytes
            return True


class OnDisk:
    """An image that is read on every access. It must not change after the first reading."""

    def __init__(self, path: Path, data: bytes, read: Callable[[Path, bytes], NDArray[Any]]) -> None:
        self._path, self._read, self._sha256 = path, read, hashlib.sha256(data).digest()

    def __call__(self) -> NDArray[Any]:
        """Read the image.

        Raises:
            UserError: it cannot be read any more, or its bytes changed.
        """
        data = read_bytes(self._path)
        if hashlib.sha256(data).digest() != self._sha256:
            raise UserError(
                f"{self._path} changed while it was in use: start again, and do not change the data meanwhile"
            )
        return self._read(self._path, data)


class Images(Sequence[NDArray[Any]]):
    """Decoded images by index, each from memory or from its file."""

    def __init__(self, images: Sequence[NDArray[Any] | OnDisk]) -> None:
        self._images = tuple(images)

    def __len__(self) -> int:
        return len(self._images)

    @overload
    def __getitem__(self, index: int) -> NDArray[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[NDArray[Any]]: ...
    def __getitem__(self, index: int | slice) -> NDArray[Any] | Sequence[NDArray[Any]]:
        if isinstance(index, slice):
            return Images(self._images[index])
        image = self._images[index]
        return image() if isinstance(image, OnDisk) else image

    def num_on_disk(self) -> int:
        """Number of images that are read from their files on every access."""
        return sum(isinstance(image, OnDisk) for image in self._images)


class Subset(Sequence[T]):
    """Some of the items of a sequence, fetched on access."""

    def __init__(self, items: Sequence[T], indices: Sequence[int]) -> None:
        self._items, self._indices = items, tuple(indices)

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return Subset(self._items, self._indices[index])
        return self._items[self._indices[index]]


@contextmanager
def one_at_a_time(*data: bytes) -> Iterator[None]:
    """Let threads decode large images one after the other, because several at the same time may not fit into memory."""
    num_pixels = sum(width * height for width, height in filter(None, map(image_size, data)))
    with _LARGE if num_pixels > LARGE_PIXELS else nullcontext():
        yield


def digest_of_pixels(rgb: NDArray[np.uint8], depth: NDArray[np.uint16]) -> bytes:
    """A fast 64-bit digest plus the size; equal for pairs with the same pixels, regardless of their file formats."""
    checksums = [zlib.crc32(np.ascontiguousarray(image).data) for image in (rgb, depth)]
    return struct.pack(">4Q", *rgb.shape[:2], *checksums)


def rgb_part(digest: bytes) -> bytes:
    """The part of `digest_of_pixels` for the RGB image."""
    return digest[:24]
