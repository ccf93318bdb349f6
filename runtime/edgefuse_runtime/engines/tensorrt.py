"""Inference with a bundle's TensorRT plan: page-locked buffers, and one CUDA graph launch per run.

API-checked against TensorRT 10.3, 10.16 and 11.4; docs/hardware.md lists the hardware on which it ran.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.bundle import Bundle
from edgefuse.contract import DEPTH_INPUT, PROBABILITIES_OUTPUT, RGB_INPUT, InputContract, check_batch, outputs_of
from edgefuse_runtime.engines.engine import Decision, Tensor, check_num_pairs, padded
from edgefuse_runtime.engines.engine_cache import (
    PREFERRED_PRECISIONS,
    PlanError,
    PlanRecord,
    build_command,
    read_plan,
    select_plan,
)
from edgefuse_runtime.engines.gpu_memory import (
    CaptureError,
    GpuError,
    GpuMemory,
    GpuOutOfMemoryError,
    HostBuffer,
    Stream,
)
from edgefuse_runtime.engines.pycuda_memory import MEMORY_HINT, open_gpu_memory
from edgefuse_runtime.engines.tensorrt_library import TENSORRT, Library, Product, load_library

if TYPE_CHECKING:
    import tensorrt as trt

KEPT_ERRORS = 5
GRAPH_TOLERANCE = 1e-3
"""Maximum difference of an output between runs without and with the graph. Both run the same kernels."""

_log = logging.getLogger(__name__)


class TensorRTEngine:
    """One execution context of one plan. See `Engine` for the protocol."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        precision: str | None = None,
        plan: bytes | None = None,
        batch_size: int | None = None,
        product: Product = TENSORRT,
        open_memory: Callable[[], GpuMemory] = open_gpu_memory,
    ) -> None:
        """Choose the plan; `with` finds, checks and loads it.

        Args:
            precision: of a plan in the bundle's cache; None = the best one that matches this machine.
            plan: use this plan instead of one from the cache. It is not checked, and a plan can run code: pass only a plan that
                this process has built.
            batch_size: N of the plan's inputs; None = the bundle's, or with a dynamic batch the largest in its cache.
            product: TensorRT or TensorRT-RTX.
            open_memory: opens the GPU memory.
        """
        self._bundle = bundle
        self._precision = precision
        self._given_plan = plan
        self._batch_size = batch_size if batch_size is not None else bundle.manifest.batch_size
        self._product = product
        self._open_memory = open_memory
        self._loaded: _Loaded | None = None
        self._stack = ExitStack()
        self._owner = 0
        self._description: dict[str, Any] = {"engine": "tensorrt", "precision": precision}

    @property
    def labels(self) -> tuple[str, ...]:
        return self._bundle.manifest.labels

    @property
    def contract(self) -> InputContract:
        return self._bundle.manifest.contract

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self._loaded.inputs if self._loaded is not None else ()

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return self._loaded.outputs if self._loaded is not None else ()

    @property
    def batch_size(self) -> int | None:
        """N of the loaded plan; before loading, the requested N."""
        return self._loaded.batch_size if self._loaded is not None else self._batch_size

    @property
    def description(self) -> dict[str, Any]:
        return self._description

    def __enter__(self) -> TensorRTEngine:
        started_s = time.perf_counter()
        library = load_library(self._product)
        memory = self._open_memory()
        gpu = memory.properties
        record, plan = self._find_plan(library.version, gpu.compute_capability, gpu.name)
        where = f"{self._bundle.folder}/{record.name}" if record is not None else "the plan that was just built"
        self._description["precision"] = precision = record.key.precision if record is not None else self._precision
        again = build_command(self._bundle, precision or PREFERRED_PRECISIONS[0])
        with ExitStack() as stack:
            stack.enter_context(memory)
            loaded = _Loaded(memory, library, where=where, again=again, mapped=gpu.integrated)
            stack.callback(loaded.close)
            loaded.open(plan)
            batch_size = record.batch_size if record is not None else self._batch_size or 1
            loaded.check(self.contract, batch_size=batch_size, num_labels=len(self.labels))
            loaded.prepare()
            self._loaded, self._owner, self._stack = loaded, threading.get_ident(), stack.pop_all()
        self._description |= {
            "provider": library.title,
            "file": record.onnx_file if record is not None else None,
            "plan": record.name if record is not None else None,
            "device": gpu.name,
            "compute_capability": gpu.compute_capability,
            "buffers": "mapped" if gpu.integrated else "pinned",
            "launch": loaded.launch,
            "start_ms": round((time.perf_counter() - started_s) * 1e3, 1),
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loaded is not None:
            self._check_owner()
        self._loaded = None
        self._stack.close()

    def run(self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> Decision:
        """See `Engine.run`."""
        if self._loaded is None:
            raise RuntimeError("run outside of `with`")
        self._check_owner()
        check_batch(rgb, depth, self.contract)
        batch_size = self._loaded.batch_size
        check_num_pairs(len(rgb), batch_size)
        decision = self._loaded.run(padded(rgb, batch_size), padded(depth, batch_size))
        self._description["launch"] = self._loaded.launch
        return decision.rows(0, len(rgb))

    def _find_plan(self, version: str, compute_capability: str, device_name: str) -> tuple[PlanRecord | None, bytes]:
        if self._given_plan is not None:
            return None, self._given_plan
        record = select_plan(
            self._bundle,
            precision=self._precision,
            tensorrt_version=version,
            compute_capability=compute_capability,
            device_name=device_name,
            batch_size=self._batch_size,
        )
        # Checks the ONNX file's digest: a plan has no labels and framing, so these come from the file it was built from.
        self._bundle.file(record.onnx_file)
        return record, read_plan(self._bundle, record)

    def _check_owner(self) -> None:
        if threading.get_ident() != self._owner:
            raise RuntimeError(
                "a TensorRT engine was called by another thread than the one that opened it: open an engine in each thread, or "
                "pass the pairs to the thread that opened it"
            )


class _Loaded:
    """The resources between `__enter__` and `__exit__`: TensorRT's objects, buffers, the stream, the graph."""

    def __init__(self, memory: GpuMemory, library: Library, *, where: str, again: str, mapped: bool) -> None:
        self._memory = memory
        self._library = library
        self._where = where
        self._again = again
        self._mapped = mapped
        self._errors: deque[str] = deque(maxlen=KEPT_ERRORS)
        self._logger: trt.ILogger | None = None
        self._runtime: trt.Runtime | None = None
        self._engine: trt.ICudaEngine | None = None
        self._context: trt.IExecutionContext | None = None
        self._stream: Stream | None = None
        self._graph: object | None = None
        self._host: dict[str, HostBuffer] = {}
        self._addresses: dict[str, int] = {}
        self.inputs: tuple[Tensor, ...] = ()
        self.outputs: tuple[Tensor, ...] = ()
        self.launch = "CUDA graph"
        self.batch_size = 1

    def open(self, plan: bytes) -> None:
        """Deserialise the plan and create its execution context."""
        trt = self._library.module
        with self._memory.active():
            self._logger = _logger(self._library, self._errors)
            try:
                self._runtime = trt.Runtime(self._logger)
            except TypeError as error:  # pybind11's error for a null pointer
                raise GpuError(f"{self._library.title} does not start{self._reasons()}: check nvidia-smi") from error
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise PlanError(
                    f"{self._library.title} cannot load {self._where}{self._reasons()}. Build it again: "
                    f"{self._again} --force"
                )
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise GpuOutOfMemoryError(
                    f"the GPU does not have enough memory for {self._where}{self._reasons()}: {MEMORY_HINT}"
                )
            self.inputs = _tensors(self._library, self._engine, trt.TensorIOMode.INPUT)
            self.outputs = _tensors(self._library, self._engine, trt.TensorIOMode.OUTPUT)

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

    def prepare(self) -> None:
        """Allocate buffers, run once, then capture a CUDA graph if possible."""
        memory = self._memory
        with memory.active():
            assert self._context is not None
            for tensor in (*self.inputs, *self.outputs):
                shape, dtype = tuple(int(size) for size in tensor.shape), np.dtype(tensor.dtype).type
                host = memory.pinned(shape, dtype, mapped=self._mapped)
                address = host.device_address if self._mapped else memory.allocate(host.array.nbytes)
                if address is None or not self._context.set_tensor_address(tensor.name, address):
                    raise GpuError(
                        f"TensorRT refuses the address of {tensor.name} of {self._where}{self._reasons()}. Build it again: "
                        f"{self._again} --force"
                    )
                self._host[tensor.name], self._addresses[tensor.name] = host, address
            stream = self._stream = memory.stream()
            # First without capture: TensorRT may allocate memory and load kernels in its first run.
            self._queue()
            memory.synchronise(stream)
            plain = self._outputs()
            if not plain.is_finite:
                raise PlanError(f"{self._where} outputs NaN or infinity. Build it again: {self._again} --force")
            try:
                graph = memory.capture(stream, self._queue)
                for tensor in self.outputs:
                    self._host[tensor.name].array.fill(np.nan)
                memory.launch(graph, stream)
                memory.synchronise(stream)
                _check_same(plain, self._outputs())
            except CaptureError as error:
                self._disable_graph(error)
            else:
                self._graph = graph

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
            self._engine = None
            self._runtime = None
            self._logger = None
            self._stream = None
            self._host.clear()

    def _disable_graph(self, error: CaptureError) -> None:
        """From now on, launch each kernel separately."""
        self._graph = None
        self.launch = f"plain ({error})"
        _log.warning("TensorRT runs without a CUDA graph and launches each kernel separately: %s", error)

    def _queue(self) -> None:
        """Queue input copies, the network, and output copies. With shared memory (Jetson), nothing is copied."""
        assert self._context is not None
        assert self._stream is not None
        if not self._mapped:
            for one in self.inputs:
                self._memory.to_device(self._addresses[one.name], self._host[one.name].array, self._stream)
        if not self._context.execute_async_v3(self._stream.handle):
            raise GpuError(
                f"TensorRT failed to run {self._where}{self._reasons()}. Build it again: {self._again} --force"
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
