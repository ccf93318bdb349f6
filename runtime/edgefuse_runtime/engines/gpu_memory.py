"""What an engine needs of a GPU beside the network itself: memory, copies, a stream, events, CUDA graphs.

Owns the protocol and its errors; `pycuda_memory` is the one implementation, and whatever replaces pycuda is another.

Whoever opens it owns it, for one thread. It owns all that it hands out, and frees it when it is closed. Every call but
`properties` stands inside `with memory.active():`, which makes the GPU's primary context (the one that torch and ONNX
Runtime use too) the thread's own for so long and no longer: a thread that ends with a pushed context ends the process.
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
    """The CUDA driver refused something; the message has its words and what to do."""


class GpuOutOfMemoryError(GpuError):
    """No memory left on the GPU, or no page-locked memory on the host."""


class CaptureError(GpuError):
    """A CUDA graph could not be made or replayed. The same work can still be launched plainly."""


@dataclass(frozen=True, kw_only=True)
class GpuProperties:
    """A GPU, as the driver tells it.

    Attributes:
        name: such as "Orin".
        compute_capability: such as "8.7".
        integrated: it shares the host's memory (Jetson), so that mapped host memory saves the copies.
        total_bytes: of its memory.
    """

    name: str
    compute_capability: str
    integrated: bool
    total_bytes: int


@dataclass(frozen=True, kw_only=True)
class HostBuffer:
    """Page-locked memory of the host.

    Attributes:
        array: it, as NumPy sees it; not to be touched once its owner is closed.
        device_address: where the GPU sees the same bytes; None when it was not mapped.
    """

    array: NDArray[Any]
    device_address: int | None


class Stream(Protocol):
    """A queue of work on the GPU."""

    @property
    def handle(self) -> int:
        """The driver's CUstream, as a number."""


class Event(Protocol):
    """A moment in a stream."""

    def record(self, stream: Any) -> object:
        """Place it behind what `stream` holds now."""

    def time_since(self, earlier: Any) -> float:
        """Milliseconds from an earlier event; both have passed."""


class GpuMemory(Protocol):
    """One GPU. The constructor touches nothing; see the module for who owns what."""

    @property
    def properties(self) -> GpuProperties:
        """Which GPU; also before `with`, and without a context.

        Raises:
            MissingPackageError: pycuda or the CUDA driver is missing.
            GpuError: the driver finds no device.
        """

    def active(self) -> AbstractContextManager[None]:
        """The GPU's primary context for this thread, popped at the end whatever happens."""

    def allocate(self, num_bytes: int) -> int:
        """Device memory: its address.

        Raises:
            GpuOutOfMemoryError: there is not so much.
        """

    def pinned(self, shape: tuple[int, ...], dtype: type[np.generic], *, mapped: bool) -> HostBuffer:
        """Page-locked host memory of zeros.

        Args:
            mapped: let the GPU see it at an address of its own.

        Raises:
            GpuOutOfMemoryError: there is not so much.
        """

    def to_device(self, address: int, source: NDArray[Any], stream: Any) -> None:
        """Queue a copy of a pinned array to the device."""

    def to_host(self, target: NDArray[Any], address: int, stream: Any) -> None:
        """Queue a copy from the device into a pinned array."""

    def stream(self) -> Stream:
        """A new stream that does not wait for the default stream of others."""

    def event(self) -> Event:
        """A new event."""

    def synchronise(self, stream: Any) -> None:
        """Wait until all that is queued has been done; other threads of Python go on meanwhile."""

    def capture(self, stream: Any, work: Callable[[], None]) -> object:
        """Record what `work` queues on `stream`, without doing it, as a graph that `launch` does at once.

        Raises:
            CaptureError: cuda-bindings is missing, or something in it cannot be recorded. The stream is usable again.
        """

    def launch(self, graph: Any, stream: Any) -> None:
        """Queue a captured graph.

        Raises:
            CaptureError: the driver refused it.
        """

    def __enter__(self) -> GpuMemory: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
