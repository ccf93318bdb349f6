"""`GpuMemory` with pycuda, and with cuda-bindings for the CUDA graphs that pycuda lacks (inducer/pycuda#424).

Names and behaviour follow the source of pycuda 2026.1 and cuda-bindings 12.8 to 13.5.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType, TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.errors import MissingPackageError, require
from edgefuse_runtime.engines.cuda_device import DRIVER_LIBRARY
from edgefuse_runtime.engines.gpu_memory import (
    CaptureError,
    Event,
    GpuError,
    GpuMemory,
    GpuOutOfMemoryError,
    GpuProperties,
    HostBuffer,
    Stream,
)
from edgefuse_runtime.engines.tensorrt_library import TENSORRT, Product, install_command

STREAM_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING of cuda.h; pycuda has no name for it

NO_DEVICE_HINT = (
    "check nvidia-smi and CUDA_VISIBLE_DEVICES; in a container start it with --gpus all (Jetson: --runtime nvidia)"
)
MEMORY_HINT = (
    "end other programs that use the GPU (nvidia-smi, on a Jetson tegrastats, lists them), or build an engine that needs "
    "less: edgefuse build BUNDLE --workspace-mib 256"
)


def open_gpu_memory(product: Product = TENSORRT) -> GpuMemory:
    """The first GPU of CUDA_VISIBLE_DEVICES. pycuda is loaded on first use.

    Args:
        product: its install command is named if pycuda is missing.
    """
    return PycudaMemory(product=product)


class PycudaMemory:
    """See `GpuMemory`. Does not use pycuda.autoinit, which creates its own context and never pops it."""

    def __init__(self, *, device: int = 0, product: Product = TENSORRT) -> None:
        self._device = device
        self._product = product
        self._cuda: ModuleType | None = None
        self._context: Any = None
        self._driver: Any = None
        self._allocations: list[Any] = []
        self._owned: list[Any] = []
        self._graphs: list[Any] = []

    @property
    def properties(self) -> GpuProperties:
        cuda = self._started()
        with _explained(cuda):
            device = cuda.Device(self._device)
            major, minor = device.compute_capability()
            return GpuProperties(
                name=device.name(),
                compute_capability=f"{major}.{minor}",
                integrated=bool(device.get_attribute(cuda.device_attribute.INTEGRATED)),
                total_bytes=device.total_memory(),
            )

    def __enter__(self) -> PycudaMemory:
        cuda = self._started()
        with _explained(cuda):
            self._context = cuda.Device(self._device).retain_primary_context()
        self._driver = _graph_driver()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        driver = self._driver
        with self.active():
            for graph in self._graphs:
                with suppress(CaptureError):
                    _called(driver, "cuGraphExecDestroy", graph)
            self._graphs.clear()
            # Device memory is freed explicitly; arrays and streams with their last reference, so that no array becomes invalid.
            for allocation in self._allocations:
                allocation.free()
            self._allocations.clear()
            self._owned.clear()
        context, self._context = self._context, None
        before = _current_context()
        # Explicitly: pycuda's destructor calls cuCtxDetach, which is invalid for a primary context, and leaks the reference.
        context.detach()
        # detach() pushes the context before it releases it, and does not pop it (pycuda 2026.1, cuda.hpp).
        if _current_context() != before:
            _pop_context()

    @contextmanager
    def active(self) -> Iterator[None]:
        if self._context is None:
            raise RuntimeError("GPU memory is used outside of `with`")
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def allocate(self, num_bytes: int) -> int:
        cuda = self._started()
        with _explained(cuda, requested=f"{num_bytes:,} bytes on the GPU"):
            buffer = cuda.mem_alloc(num_bytes)
        self._allocations.append(buffer)
        return int(buffer)

    def pinned(self, shape: tuple[int, ...], dtype: type[np.generic], *, mapped: bool) -> HostBuffer:
        cuda = self._started()
        flags = cuda.host_alloc_flags.DEVICEMAP if mapped else 0
        with _explained(cuda, requested=f"page-locked memory for {np.dtype(dtype)} {list(shape)}"):
            array = cuda.pagelocked_empty(shape, dtype, mem_flags=flags)
            address = int(array.base.get_device_pointer()) if mapped else None
        array.fill(0)
        self._owned.append(array)
        return HostBuffer(array=array, device_address=address)

    def to_device(self, address: int, source: NDArray[Any], stream: Any) -> None:
        cuda = self._started()
        with _explained(cuda):
            cuda.memcpy_htod_async(address, source, stream)

    def to_host(self, target: NDArray[Any], address: int, stream: Any) -> None:
        cuda = self._started()
        with _explained(cuda):
            cuda.memcpy_dtoh_async(target, address, stream)

    def stream(self) -> Stream:
        cuda = self._started()
        with _explained(cuda):
            stream: Stream = cuda.Stream(STREAM_NON_BLOCKING)
        self._owned.append(stream)
        return stream

    def event(self) -> Event:
        cuda = self._started()
        with _explained(cuda):
            event: Event = cuda.Event()
        self._owned.append(event)
        return event

    def synchronise(self, stream: Any) -> None:
        with _explained(self._started()):
            stream.synchronize()

    def capture(self, stream: Any, work: Callable[[], None]) -> object:
        driver = self._driver
        if driver is None:
            raise CaptureError(f"cuda-bindings is not installed: {install_command('cuda-bindings')}")
        # Thread-local: work of other threads on the GPU (ONNX Runtime, torch) does not invalidate the capture.
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        _called(driver, "cuStreamBeginCapture", stream.handle, mode)
        reason, graph = "", None
        try:
            work()
        except Exception as error:  # raised below: the stream has to end the capture in any case
            reason = str(error.__cause__ or error) or type(error).__name__
        finally:
            try:
                (graph,) = _called(driver, "cuStreamEndCapture", stream.handle)
            except CaptureError as error:
                reason = reason or str(error)
        try:
            if reason:
                raise CaptureError(reason)
            (executable,) = _called(driver, "cuGraphInstantiate", graph, 0)
        finally:
            if graph is not None:
                with suppress(CaptureError):
                    _called(driver, "cuGraphDestroy", graph)
        self._graphs.append(executable)
        return executable

    def launch(self, graph: Any, stream: Any) -> None:
        _called(self._driver, "cuGraphLaunch", graph, stream.handle)

    def _started(self) -> ModuleType:
        """pycuda.driver, after cuInit."""
        if self._cuda is None:
            cuda = _load_pycuda(self._product)
            try:
                cuda.init()
            except cuda.Error as error:
                raise GpuError(f"the CUDA driver does not start ({error}): {NO_DEVICE_HINT}") from error
            self._cuda = cuda
        return self._cuda


def _load_pycuda(product: Product) -> ModuleType:
    try:  # first, because pycuda is useless without it
        ctypes.CDLL(DRIVER_LIBRARY)
    except OSError as error:
        raise MissingPackageError(
            f"the CUDA driver is missing ({error}). Install NVIDIA's driver (nvidia-smi shows whether it works); "
            f"in a container start it with --gpus all (Jetson: --runtime nvidia)."
        ) from error
    return require(
        "pycuda.driver",
        extra="tensorrt",
        hint="pip builds it: it needs g++ and the CUDA headers (nvcc).",
        install=install_command("pycuda", product=product),
    )


def _graph_driver() -> Any:
    """cuda.bindings.driver, or None if cuda-bindings is not installed."""
    try:
        return require("cuda.bindings.driver", extra="tensorrt")
    except MissingPackageError:
        return None


def _current_context() -> int:
    """This thread's current context according to the driver; pycuda knows only the contexts on its own stack."""
    context = ctypes.c_void_p()
    ctypes.CDLL(DRIVER_LIBRARY).cuCtxGetCurrent(ctypes.byref(context))
    return context.value or 0


def _pop_context() -> None:
    ctypes.CDLL(DRIVER_LIBRARY).cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def _called(driver: Any, function: str, *arguments: Any) -> tuple[Any, ...]:
    """Call a function of cuda-bindings. Returns its values without the error code.

    Raises:
        CaptureError: it returned an error code, or raised: RuntimeError if the driver lacks the function, TypeError for a handle.
    """
    try:
        code, *values = getattr(driver, function)(*arguments)
    except Exception as error:  # versions raise different types; kernels can still be launched without a graph
        raise CaptureError(f"{function}: {error or type(error).__name__}") from error
    if int(code) != 0:
        raise CaptureError(f"{function}: {getattr(code, 'name', code)}")
    return tuple(values)


@contextmanager
def _explained(cuda: ModuleType, *, requested: str = "") -> Iterator[None]:
    """Convert pycuda's errors to `GpuError` with a hint."""
    try:
        yield
    except cuda.MemoryError as error:
        what = f" for {requested}" if requested else ""
        raise GpuOutOfMemoryError(f"the GPU does not have enough memory{what} ({error}): {MEMORY_HINT}") from error
    except cuda.Error as error:
        raise GpuError(f"the GPU failed ({error}): {NO_DEVICE_HINT}") from error
