"""GPU memory on the host: the functions of `GpuMemory` for tests without a GPU, for use with `FakeTensorRT`.

"Device" memory is NumPy arrays, queued work runs immediately, and a captured graph is the list of queued work.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse_runtime.engines.gpu_memory import (
    CaptureError,
    GpuError,
    GpuOutOfMemoryError,
    GpuProperties,
    HostBuffer,
)
from fake_tensorrt import FakeTensorRT


@dataclass(kw_only=True)
class HostStream:
    """A stream: a number."""

    handle: int


@dataclass(kw_only=True)
class HostEvent:
    """An event: the time at which it was recorded."""

    time_ms: float = 0.0

    def record(self, stream: Any) -> None:
        self.time_ms = time.perf_counter() * 1e3

    def time_since(self, earlier: HostEvent) -> float:
        return self.time_ms - earlier.time_ms


@dataclass(kw_only=True)
class HostMemory:
    """See `GpuMemory`.

    Attributes:
        fake: whose executions a capture collects.
        missing: raised at the first access to the driver.
        compute_capability: of the "device".
        num_free_bytes: what is left on it.
        drops_copies_of_graphs: captured copies are lost, as when a graph holds only half of the work.
    """

    fake: FakeTensorRT
    integrated: bool = False
    compute_capability: str = "8.7"
    missing: Exception | None = None
    num_free_bytes: int = 1 << 30
    drops_copies_of_graphs: bool = False
    launches_fail: bool = False
    active_threads: list[int] = field(default_factory=list)
    num_copies: int = 0
    num_launches: int = 0
    is_open: bool = False
    _device: dict[int, NDArray[np.uint8]] = field(default_factory=dict)

    @property
    def properties(self) -> GpuProperties:
        if self.missing is not None:
            raise self.missing
        return GpuProperties(
            name=self.fake.device,
            compute_capability=self.compute_capability,
            integrated=self.integrated,
            total_bytes=1 << 30,
        )

    def __enter__(self) -> HostMemory:
        self.is_open = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert not self.active_threads
        self._device.clear()
        self.is_open = False

    @contextmanager
    def active(self) -> Iterator[None]:
        assert self.is_open
        self.active_threads.append(threading.get_ident())
        try:
            yield
        finally:
            self.active_threads.pop()

    def allocate(self, num_bytes: int) -> int:
        self._check_active()
        if num_bytes > self.num_free_bytes:
            raise GpuOutOfMemoryError(f"the GPU does not have enough memory for {num_bytes:,} bytes")
        self.num_free_bytes -= num_bytes
        buffer = np.zeros(num_bytes, np.uint8)
        self._device[buffer.ctypes.data] = buffer
        return buffer.ctypes.data

    def pinned(self, shape: tuple[int, ...], dtype: type[np.generic], *, mapped: bool) -> HostBuffer:
        self._check_active()
        array = np.zeros(shape, dtype)
        return HostBuffer(array=array, device_address=array.ctypes.data if mapped else None)

    def to_device(self, address: int, source: NDArray[Any], stream: HostStream) -> None:
        assert address in self._device
        self._queue(lambda: ctypes.memmove(address, source.ctypes.data, source.nbytes), stream)

    def to_host(self, target: NDArray[Any], address: int, stream: HostStream) -> None:
        assert address in self._device
        self._queue(lambda: ctypes.memmove(target.ctypes.data, address, target.nbytes), stream)

    def stream(self) -> HostStream:
        self._check_active()
        return HostStream(handle=7)

    def event(self) -> HostEvent:
        self._check_active()
        return HostEvent()

    def synchronise(self, stream: HostStream) -> None:
        self._check_active()
        assert stream.handle not in self.fake.captures, "a stream cannot be waited for while it is captured"

    def capture(self, stream: HostStream, work: Callable[[], None]) -> object:
        self._check_active()
        self.fake.captures[stream.handle] = []
        try:
            work()
        except GpuError as error:
            raise CaptureError(str(error)) from error
        finally:
            graph = self.fake.captures.pop(stream.handle)
        return graph

    def launch(self, graph: list[Callable[[], None]], stream: HostStream) -> None:
        self._check_active()
        if self.launches_fail:
            raise CaptureError("cuGraphLaunch: CUDA_ERROR_INVALID_VALUE")
        self.num_launches += 1
        for step in graph:
            step()

    def _queue(self, copy: Callable[[], object], stream: HostStream) -> None:
        self._check_active()
        self.num_copies += 1
        captured = self.fake.captures.get(stream.handle)
        if captured is None:
            copy()
        elif not self.drops_copies_of_graphs:
            captured.append(lambda: copy() and None)

    def _check_active(self) -> None:
        assert self.active_threads, "the context is not active"
        assert self.active_threads[-1] == threading.get_ident()
