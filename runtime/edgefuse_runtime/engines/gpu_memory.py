"""The protocol for GPU memory, copies, streams, events and CUDA graphs, and its errors. `pycuda_memory` implements it.

Use an instance in one thread. It owns everything that it returns, and frees it when it is closed. Every call except `properties`
must be inside `with memory.active():`, which makes the GPU's primary context (also used by torch and ONNX Runtime) current for the
block. A thread that ends with a context still pushed terminates the process.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgefuse.errors import UserError


class GpuError(UserError):
    """The CUDA driver failed. The message has the driver's error and what to do."""


class GpuOutOfMemoryError(GpuError):
    """Out of memory on the GPU, or of page-locked memory on the host."""


class CaptureError(GpuError):
    """A CUDA graph could not be captured or replayed. The kernels can still be launched without it."""


@dataclass(frozen=True, kw_only=True)
class GpuProperties:
    """Properties of a GPU according to the driver.

    Attributes:
        name: such as "Orin".
        compute_capability: such as "8.7".
        integrated: whether it shares the host's memory (Jetson), so that mapped host memory needs no copies.
        total_bytes: size of its memory.
    """

    name: str
    compute_capability: str
    integrated: bool
    total_bytes: int


@dataclass(frozen=True, kw_only=True)
class HostBuffer:
    """Page-locked host memory.

    Attributes:
        array: the memory as an array. Do not access it after its owner is closed.
        device_address: address of the same bytes for the GPU; None if not mapped.
    """

    array: NDArray[Any]
    device_address: int | None


class Stream(Protocol):
    """A queue of work on the GPU."""

    @property
    def handle(self) -> int:
        """The driver's CUstream as an integer."""


class Event(Protocol):
    """A CUDA event."""

    def record(self, stream: Any) -> object:
        """Record it in `stream`, after the work queued so far."""

    def time_since(self, earlier: Any) -> float:
        """Milliseconds since an earlier event; both must have completed."""


class GpuMemory(Protocol):
    """One GPU. The constructor does not access it; see the module for ownership."""

    @property
    def properties(self) -> GpuProperties:
        """The GPU's properties; also before `with`, and without a context.

        Raises:
            MissingPackageError: pycuda or the CUDA driver is missing.
            GpuError: the driver finds no device.
        """

    def active(self) -> AbstractContextManager[None]:
        """Make the GPU's primary context current in this thread for the block, and pop it in any case."""

    def allocate(self, num_bytes: int) -> int:
        """Allocate device memory, and return its address.

        Raises:
            GpuOutOfMemoryError: not enough memory.
        """

    def pinned(self, shape: tuple[int, ...], dtype: type[np.generic], *, mapped: bool) -> HostBuffer:
        """Allocate page-locked host memory, filled with zeros.

        Args:
            mapped: map it into the GPU's address space.

        Raises:
            GpuOutOfMemoryError: not enough memory.
        """

    def to_device(self, address: int, source: NDArray[Any], stream: Any) -> None:
        """Queue a copy of a pinned array to the device."""

    def to_host(self, target: NDArray[Any], address: int, stream: Any) -> None:
        """Queue a copy from the device into a pinned array."""

    def stream(self) -> Stream:
        """A new stream that does not synchronise with the default stream."""

    def event(self) -> Event:
        """A new event."""

    def synchronise(self, stream: Any) -> None:
        """Wait for all queued work. Other Python threads continue to run."""

    def capture(self, stream: Any, work: Callable[[], None]) -> object:
        """Capture the work that `work` queues on `stream`, without running it, as a graph for `launch`.

        Raises:
            CaptureError: cuda-bindings is missing, or the work cannot be captured. The stream remains usable.
        """

    def launch(self, graph: Any, stream: Any) -> None:
        """Queue a captured graph.

        Raises:
            CaptureError: the driver failed to launch it.
        """

    def __enter__(self) -> GpuMemory: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
