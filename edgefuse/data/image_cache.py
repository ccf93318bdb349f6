"""Decoded images, in memory as far as they fit, and read again from their files beyond that.

Owns what is kept and what is read again; `edgefuse.data.dataset.load` fills it.
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
"""Images may take this share of the available memory beyond what the model, its optimiser, the batches and their threads need."""

LARGE_PIXELS = 16_000_000
"""Pixels of a pair from which on it is decoded alone."""
_LARGE = Lock()

T = TypeVar("T")


class Budget:
    """Bytes that may still be kept (`left`); threads share it, processes that run side by side each need a part of it."""

    def __init__(self, num_bytes: int | None = None) -> None:
        """Begin with `num_bytes`; by default `KEPT_SHARE` of what is available now beyond `RESERVED_BYTES`."""
        self.left = int(KEPT_FRACTION * (available_bytes() - RESERVED_BYTES)) if num_bytes is None else num_bytes
        self._lock = Lock()

    def take(self, num_bytes: int) -> bool:
        """Take so many bytes; False, and nothing is taken, where they are not left."""
        with self._lock:
            if num_bytes > self.left:
                return False
            self.left -= num_bytes
            return True


class OnDisk:
    """An image that is read when it is asked for, and that must not have changed since its first reading."""

    def __init__(self, path: Path, data: bytes, read: Callable[[Path, bytes], NDArray[Any]]) -> None:
        self._path, self._read, self._sha256 = path, read, hashlib.sha256(data).digest()

    def __call__(self) -> NDArray[Any]:
        """Read it.

        Raises:
            UserError: it cannot be read any more, or its bytes are others.
        """
        data = read_bytes(self._path)
        if hashlib.sha256(data).digest() != self._sha256:
            raise UserError(
                f"{self._path} changed while it was in use: start again, and leave the data as it is meanwhile"
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
        """Images that are read from their files each time."""
        return sum(isinstance(image, OnDisk) for image in self._images)


class Subset(Sequence[T]):
    """Some of the items of a sequence, each fetched when it is asked for."""

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
    """Let threads decode large images one after the other: together their copies would need more memory than one set of them."""
    num_pixels = sum(width * height for width, height in filter(None, map(image_size, data)))
    with _LARGE if num_pixels > LARGE_PIXELS else nullcontext():
        yield


def digest_of_pixels(rgb: NDArray[np.uint8], depth: NDArray[np.uint16]) -> bytes:
    """The same for two pairs of the same pixels, however their files store them; 64 bits besides their size, and quick."""
    checksums = [zlib.crc32(np.ascontiguousarray(image).data) for image in (rgb, depth)]
    return struct.pack(">4Q", *rgb.shape[:2], *checksums)


def rgb_part(digest: bytes) -> bytes:
    """What `digest_of_pixels` says of the RGB image alone."""
    return digest[:24]
