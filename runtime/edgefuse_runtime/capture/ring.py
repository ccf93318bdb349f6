"""A ring of frames in shared memory, from one writer to one reader, in one process or in two.

Each slot has one owner at a time, who is handed over through a pipe, as one byte per frame: no image is ever read while it is written,
whatever the memory model of the processor, and the reader sleeps until a byte arrives. If the reader is slow, the writer takes the
oldest frame that is still in the pipe back, so that the newest one wins.

The memory has no name (memfd_create): when both processes are gone, however they ended, nothing is left. It is as large as the largest
images that fit, but only pages that are written to use memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import select
import threading
import time
import weakref
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgefuse.errors import UserError
from edgefuse_runtime.camera import Counters, Frame
from edgefuse_runtime.capture.slot_header import read_header, write_header

NUM_SLOTS = 6
"""One is being written, one is the newest; the others can be held by the reader's frames."""
MAX_HELD = NUM_SLOTS - 3
"""If the reader holds more frames than this, further ones are copied."""
MAX_PIXELS = 3840 * 2160
"""Of one image."""

_PAGE = 4096
_SLOT_BYTES = _PAGE * (3 + 5 * MAX_PIXELS // _PAGE)  # the header, and two images
MEMORY_BYTES = _PAGE + NUM_SLOTS * _SLOT_BYTES

_NEXT = 255
"""The byte of the reader for "send one frame"."""

_SlotBytes = ctypes.c_ubyte * _SLOT_BYTES


class RingFiles(NamedTuple):
    """File descriptors of the memory and the ends of the two pipes."""

    memory: int
    ready_in: int
    ready_out: int
    free_in: int
    free_out: int

    @classmethod
    def create(cls) -> RingFiles:
        """Create a ring. Pages of the memory are zeros until they are written to.

        Raises:
            UserError: a limit of the system is too low.
        """
        memory = os.memfd_create("edgefuse-capture")
        try:
            os.ftruncate(memory, MEMORY_BYTES)
        except OSError as error:  # also a limit on the size of files
            os.close(memory)
            raise UserError(
                f"shared memory of {MEMORY_BYTES >> 20} MB for the camera's images cannot be created ({error.strerror})",
                "Raise the limit on the size of files: ulimit -f unlimited, or LimitFSIZE= of the service",
            ) from error
        files = cls(memory, *os.pipe(), *os.pipe())
        for file in files[1:]:
            os.set_blocking(file, False)
        return files


class Writer:
    """The camera's end. Use it in one thread."""

    def __init__(self, files: RingFiles) -> None:
        self.memory = mmap.mmap(files.memory, MEMORY_BYTES)
        self._files = files
        self._free = list(range(NUM_SLOTS))
        self._slot: int | None = None
        self._num_used = _PAGE  # bytes of the slot; its first page has the header
        self._requests = 0
        self._allocated: list[tuple[NDArray[Any], int]] = []  # arrays in this slot, and where they are

    def allocate(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An array in the slot of the next frame, so that `publish` need not copy it; only valid until then."""
        if self._slot is None:
            self._slot, self._num_used = self._take_slot(), _PAGE
        start = self._num_used
        num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if start + num_bytes > _SLOT_BYTES:
            raise UserError(f"an image of {shape[1]}x{shape[0]} was given: at most {MAX_PIXELS} pixels were expected")
        self._num_used = start + num_bytes + -num_bytes % 64
        array = np.ndarray(shape, dtype, buffer=self.memory, offset=_start_of(self._slot) + start)
        self._allocated.append((array, start))
        return array

    def publish(self, frame: Frame, counters: Counters) -> None:
        """Hand a frame to the reader, with the counts up to it."""
        rgb_at, depth_at = self._stored(frame.rgb), self._stored(frame.depth)
        slot = cast("int", self._slot)
        write_header(self.memory, _start_of(slot), frame, counters, rgb_at=rgb_at, depth_at=depth_at)
        self._slot = None
        self._allocated.clear()
        os.write(self._files.ready_out, bytes([slot]))

    def discard(self) -> None:
        """Reuse the memory of arrays from `allocate` that will not be published."""
        self._num_used = _PAGE
        self._allocated.clear()

    def wait_for_request(self, timeout_s: float) -> bool:
        """Wait until the reader requests one more frame than were returned as requested here; False if it does not."""
        self._collect()
        if not self._requests:
            select.select([self._files.free_in], [], [], timeout_s)
            self._collect()
        if not self._requests:
            return False
        self._requests -= 1
        return True

    def _stored(self, image: NDArray[Any]) -> int:
        """Where the image is in the slot, after copying it there unless it is from `allocate`."""
        for array, start in self._allocated:
            if array is image:
                return start
        np.copyto(self.allocate(image.shape, image.dtype), image)
        return self._allocated[-1][1]

    def _take_slot(self) -> int:
        """A slot that nobody reads. The oldest frame that the reader has not taken is dropped if there is no other."""
        while True:
            self._collect()
            if self._free:
                return self._free.pop()
            # The reader holds fewer than all slots, so this fails only between its taking of a frame and its return.
            with contextlib.suppress(BlockingIOError):
                return os.read(self._files.ready_in, 1)[0]
            time.sleep(0.0005)

    def _collect(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for byte in os.read(self._files.free_in, 4096):
                if byte == _NEXT:
                    self._requests += 1
                else:
                    self._free.append(byte)


class Reader:
    """The consumer's end. Its frames use the ring's memory; their slot is free again when their arrays are garbage-collected."""

    def __init__(self, files: RingFiles) -> None:
        self.memory = mmap.mmap(files.memory, MEMORY_BYTES)
        self._ready_in, self._free_out = files.ready_in, files.free_out
        self._num_held = 0
        self._leases: dict[int, weakref.ref[Any]] = {}  # slot -> its bytes: it is released when no array uses them
        self._lock = threading.RLock()  # arrays may be collected in any thread, and while this one has the lock
        self._is_closed = False

    @property
    def ready_file(self) -> int:
        """Readable when a frame has arrived."""
        return self._ready_in

    def take(self) -> tuple[Frame, Counters] | None:
        """The newest frame and the counts up to it, or None if there is no new one. Older ones are dropped."""
        try:
            slots = os.read(self._ready_in, NUM_SLOTS)
        except BlockingIOError:
            return None
        if not slots:
            return None
        self._send(slots[:-1])
        return self._frame_in(slots[-1])

    def request(self) -> None:
        """Ask for one frame, from a writer that waits for it."""
        self._send(bytes([_NEXT]))

    def close(self) -> None:
        """Frames that were taken stay valid."""
        with self._lock:
            self._is_closed = True

    def _frame_in(self, slot: int) -> tuple[Frame, Counters]:
        lease = _SlotBytes.from_buffer(self.memory, _start_of(slot))
        frame, counters = read_header(lease)
        if self._num_held >= MAX_HELD:
            frame = replace(frame, rgb=frame.rgb.copy(), depth=frame.depth.copy())
            self._send(bytes([slot]))
            return frame, counters
        with self._lock:
            self._num_held += 1
        self._leases[slot] = weakref.ref(lease, partial(self._release, slot))
        return frame, counters

    def _release(self, slot: int, lease: object) -> None:
        with self._lock:
            self._num_held -= 1
        self._send(bytes([slot]))

    def _send(self, data: bytes) -> None:
        with self._lock:
            if data and not self._is_closed:
                with contextlib.suppress(OSError):  # the writer is gone
                    os.write(self._free_out, data)


def _start_of(slot: int) -> int:
    return _PAGE + slot * _SLOT_BYTES
