"""One plan in GPU memory: the library's objects, page-locked buffers, the stream and the CUDA graph.

API-checked against TensorRT 10.3, 10.16 and 11.4 and TensorRT-RTX 1.7.1; docs/hardware.md lists the hardware on which it ran.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import DEPTH_INPUT, PROBABILITIES_OUTPUT, RGB_INPUT, InputContract, outputs_of
from edgefuse_runtime.engines.engine import Decision, Tensor
from edgefuse_runtime.engines.engine_cache import PlanError
from edgefuse_runtime.engines.gpu_memory import (
    CaptureError,
    GpuError,
    GpuMemory,
    GpuOutOfMemoryError,
    HostBuffer,
    Stream,
)
from edgefuse_runtime.engines.pycuda_memory import MEMORY_HINT
from edgefuse_runtime.engines.rtx_runtime import RtxRuntime
from edgefuse_runtime.engines.tensorrt_library import RTX, Library

if TYPE_CHECKING:
    import tensorrt as trt

KEPT_ERRORS = 5
GRAPH_TOLERANCE = 1e-3
"""Maximum difference of an output between runs without and with the graph. Both run the same kernels."""

_NO_DRIVER = re.compile(
    r"cudaError\D*35\b|error: 35\b|cudaErrorInsufficientDriver|driver version is insufficient", re.IGNORECASE
)

_log = logging.getLogger(__name__)


class LoadedPlan:
    """The resources between `__enter__` and `__exit__`: TensorRT's objects, buffers, the stream, the graph."""

    def __init__(
        self, memory: GpuMemory, library: Library, *, where: str, again: str, mapped: bool, kernels: Path | None = None
    ) -> None:
        """Load nothing yet.

        Args:
            where: the plan, for messages.
            again: the command that builds it.
            mapped: the GPU shares the host's memory.
            kernels: where TensorRT-RTX keeps the kernels that it compiles; None = nowhere.
        """
        self._memory = memory
        self._library = library
        self._where = where
        self._again = again
        self._mapped = mapped
        self._kernels = kernels
        self._errors: deque[str] = deque(maxlen=KEPT_ERRORS)
        self._logger: trt.ILogger | None = None
        self._runtime: trt.Runtime | None = None
        self._engine: trt.ICudaEngine | None = None
        self._rtx: RtxRuntime | None = None
        self._context: trt.IExecutionContext | None = None
        self._stream: Stream | None = None
        self._graph: object | None = None
        self._host: dict[str, HostBuffer] = {}
        self._addresses: dict[str, int] = {}
        self.inputs: tuple[Tensor, ...] = ()
        self.outputs: tuple[Tensor, ...] = ()
        self.extra: tuple[Tensor, ...] = ()
        self.launch = f"CUDA graph of {RTX.name}" if library.product is RTX else "CUDA graph"
        self.batch_size = 1

    def open(self, plan: bytes, *, extra_outputs: tuple[str, ...]) -> None:
        """Deserialise the plan and create its execution context."""
        trt = self._library.module
        with self._memory.active():
            self._logger = _logger(self._library, self._errors)
            try:
                self._runtime = trt.Runtime(self._logger)
            except TypeError as error:  # pybind11's error for a null pointer
                raise GpuError(f"{self._library.title} does not start{self._reasons()}: check nvidia-smi") from error
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None and _NO_DRIVER.search(self._reasons()):
                raise GpuError(
                    f"NVIDIA's driver is missing or too old for {self._library.title}{self._reasons()}: check nvidia-smi, and "
                    f"install or update the driver. The plan can be built here, but not run"
                )
            if self._engine is None:
                raise PlanError(
                    f"{self._library.title} cannot load {self._where}{self._reasons()}. Build it again: "
                    f"{self._again} --force"
                )
            if self._library.product is RTX:
                self._rtx = RtxRuntime(self._library, self._engine, kernels=self._kernels)
                if not self._rtx.is_compiled:
                    _log.info("%s compiles the kernels of %s for this GPU", RTX.name, self._where)
                self._context = self._rtx.create_context(graph=False)
            else:
                self._context = self._engine.create_execution_context()
            if self._context is None:
                raise GpuOutOfMemoryError(
                    f"the GPU does not have enough memory for {self._where}{self._reasons()}: {MEMORY_HINT}"
                )
            self.inputs = _tensors(self._library, self._engine, trt.TensorIOMode.INPUT)
            outputs = _tensors(self._library, self._engine, trt.TensorIOMode.OUTPUT)
            self.outputs = tuple(one for one in outputs if one.name not in extra_outputs)
            self.extra = tuple(one for one in outputs if one.name in extra_outputs)

    def check(self, contract: InputContract, *, batch_size: int, num_labels: int) -> None:
        """Refuse a plan whose inputs and outputs differ from the manifest."""
        n, side = batch_size, contract.size
        self.batch_size = n
        inputs = {
            Tensor(name=RGB_INPUT, dtype="uint8", shape=(n, side, side, 3)),
            Tensor(name=DEPTH_INPUT, dtype="uint8", shape=(n, side, side, 2)),
        }
        outputs = {one.name: (one.dtype, *one.shape[:-1]) for one in self.outputs}
        widths = {one.name: one.shape[-1] for one in self.outputs}
        if (
            set(self.inputs) != inputs
            or outputs != dict.fromkeys(contract.outputs, ("float32", n))
            or widths[PROBABILITIES_OUTPUT] != num_labels
        ):
            found = ", ".join(f"{one.name} {one.dtype} {list(one.shape)}" for one in (*self.inputs, *self.outputs))
            raise PlanError(
                f"{self._where} has {found}; the manifest requires {RGB_INPUT} uint8 {[n, side, side, 3]}, {DEPTH_INPUT} "
                f"uint8 {[n, side, side, 2]}, {PROBABILITIES_OUTPUT} float32 {[n, num_labels]} and float32 "
                f"{', '.join(contract.outputs[1:])}. Build it again: {self._again} --force"
            )

    def prepare(self, *, is_stored: bool) -> None:
        """Allocate buffers, run once, then launch by a CUDA graph if possible. A stored plan must have finite outputs."""
        memory = self._memory
        with memory.active():
            for tensor in (*self.inputs, *self.outputs, *self.extra):
                shape, dtype = tuple(int(size) for size in tensor.shape), np.dtype(tensor.dtype).type
                host = memory.pinned(shape, dtype, mapped=self._mapped)
                address = host.device_address if self._mapped else memory.allocate(host.array.nbytes)
                assert address is not None
                self._host[tensor.name], self._addresses[tensor.name] = host, address
            self._set_addresses()
            stream = self._stream = memory.stream()
            # First without a graph: TensorRT may allocate memory and load kernels in its first run.
            self._queue()
            memory.synchronise(stream)
            plain = self._outputs()
            if is_stored and not plain.is_finite:
                raise PlanError(f"{self._where} outputs NaN or infinity. Build it again: {self._again} --force")
            if self._rtx is not None:
                self._rtx.save()
                self._use_graph_of_rtx(self._rtx, plain)
            else:
                self._use_own_graph(plain)

    def _set_addresses(self) -> None:
        assert self._context is not None
        for name, address in self._addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise GpuError(
                    f"{self._library.product.name} refuses the address of {name} of {self._where}{self._reasons()}. Build it "
                    f"again: {self._again} --force"
                )

    def _use_own_graph(self, plain: Decision) -> None:
        """Capture copies and kernels in one graph, and check its outputs."""
        try:
            graph = self._memory.capture(self._stream, self._queue)
            self._clear_outputs()
            self._memory.launch(graph, self._stream)
            self._memory.synchronise(self._stream)
            _check_same(plain, self._outputs())
        except CaptureError as error:
            self._disable_graph(error)
        else:
            self._graph = graph

    def _use_graph_of_rtx(self, rtx: RtxRuntime, plain: Decision) -> None:
        """Let TensorRT-RTX capture its kernels itself, and check the outputs of the run that captures and of a replay."""
        without = self._context
        try:
            self._context = rtx.create_context(graph=True)
            if self._context is None:
                raise CaptureError(f"no second execution context{self._reasons()}")
            self._set_addresses()
            for _ in range(2):
                self._clear_outputs()
                self._queue()
                self._memory.synchronise(self._stream)
                _check_same(plain, self._outputs())
        except GpuError as error:
            self._context = without
            self._disable_graph(error)

    def _clear_outputs(self) -> None:
        """Fill the outputs with NaN, so that a run that does not compute them is noticed."""
        for one in self.outputs:
            self._host[one.name].array.fill(np.nan)
            if not self._mapped:
                self._memory.to_device(self._addresses[one.name], self._host[one.name].array, self._stream)
        self._memory.synchronise(self._stream)

    def read_extra(self) -> dict[str, NDArray[Any]]:
        """Copy the extra outputs of the last run to the host, which `run` does not do."""
        with self._memory.active():
            for one in () if self._mapped else self.extra:
                self._memory.to_host(self._host[one.name].array, self._addresses[one.name], self._stream)
            self._memory.synchronise(self._stream)
            return {one.name: self._host[one.name].array.copy() for one in self.extra}

    def run(self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> Decision:
        """Run the plan on a full batch. Returns copies of the outputs."""
        with self._memory.active():
            np.copyto(self._host[RGB_INPUT].array, rgb)
            np.copyto(self._host[DEPTH_INPUT].array, depth)
            try:
                if self._graph is not None:
                    self._memory.launch(self._graph, self._stream)
            except CaptureError as error:
                self._disable_graph(error)
            if self._graph is None:
                self._queue()
            self._memory.synchronise(self._stream)
            return self._outputs()

    def close(self) -> None:
        """Release everything in the order of dependencies."""
        with self._memory.active():
            self._graph = None
            self._context = None
            self._rtx = None
            self._engine = None
            self._runtime = None
            self._logger = None
            self._stream = None
            self._host.clear()

    def _disable_graph(self, error: GpuError) -> None:
        """From now on, launch each kernel separately."""
        self._graph = None
        self.launch = f"plain ({error})"
        name = self._library.product.name
        _log.warning("%s runs without a CUDA graph and launches each kernel separately: %s", name, error)

    def _queue(self) -> None:
        """Queue input copies, the network, and output copies. With shared memory (Jetson), nothing is copied."""
        assert self._context is not None
        assert self._stream is not None
        if not self._mapped:
            for one in self.inputs:
                self._memory.to_device(self._addresses[one.name], self._host[one.name].array, self._stream)
        if not self._context.execute_async_v3(self._stream.handle):
            raise GpuError(
                f"{self._library.product.name} failed to run {self._where}{self._reasons()}. Build it again: {self._again} --force"
            )
        if not self._mapped:
            for one in self.outputs:
                self._memory.to_host(self._host[one.name].array, self._addresses[one.name], self._stream)

    def _outputs(self) -> Decision:
        arrays = {one.name: self._host[one.name].array.copy() for one in self.outputs}
        return Decision.of(outputs_of(arrays, num_pairs=self.batch_size))

    def _reasons(self) -> str:
        """TensorRT's last errors, as the end of a sentence."""
        return f" ({' | '.join(self._errors)})" if self._errors else ""


def _check_same(plain: Decision, replayed: Decision) -> None:
    """Refuse a graph that does not compute all outputs: it would return old buffer contents in every run."""
    for one, other in zip(plain.outputs, replayed.outputs, strict=True):
        if (
            one is not None
            and other is not None
            and not np.allclose(one, other, rtol=0.0, atol=GRAPH_TOLERANCE, equal_nan=False)
        ):
            raise CaptureError("the graph's output differs from that of separate launches")


def _tensors(library: Library, engine: trt.ICudaEngine, mode: trt.TensorIOMode) -> tuple[Tensor, ...]:
    """The plan's inputs or outputs. Types that the contract does not use keep TensorRT's name."""
    trt = library.module
    dtypes = {trt.DataType.UINT8: "uint8", trt.DataType.FLOAT: "float32", trt.DataType.HALF: "float16"}
    found = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        if engine.get_tensor_mode(name) == mode:
            dtype = engine.get_tensor_dtype(name)
            shape = tuple(int(size) for size in engine.get_tensor_shape(name))
            found.append(Tensor(name=name, dtype=dtypes.get(dtype, str(dtype)), shape=shape))
    return tuple(found)


def _logger(library: Library, errors: deque[str]) -> trt.ILogger:
    """A logger that keeps the last errors: TensorRT returns None or False, and reports the reason only to its logger."""
    trt = library.module

    class _Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def log(self, severity: Any, msg: str) -> None:
            if severity in {trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR}:
                errors.append(msg)

    return _Logger()
