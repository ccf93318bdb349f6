"""The stand-in's runtime, engine, execution context and inspector. Answers come from ONNX Runtime, on host addresses."""

from __future__ import annotations

import ctypes
import json
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from fake_tensorrt.bound import Bound, Dims, Setting, check
from fake_tensorrt.plan import Tensor, decode, encode, tensors_of

_NUMPY = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
    "UINT8": np.uint8,
}


def volume(iterable: Iterable[int]) -> int:
    return math.prod(iterable)


def nptype(trt_type: Any) -> Any:
    if trt_type.name not in _NUMPY:
        raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
    return _NUMPY[trt_type.name]


class Runtime(Bound):
    def __init__(self, logger: Any) -> None:
        check(self._fake, logger, "ILogger")
        self._logger = logger
        if self._fake.faults.no_driver:
            self._fake.log(
                logger, "ERROR", "CUDA initialization failure with error: 35. Please check your CUDA installation"
            )
            raise TypeError("pybind11::init(): factory function returned nullptr")

    @property
    def logger(self) -> Any:
        return self._logger

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        check(self._fake, serialized_engine, "buffer")
        problem = "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (fault)"
        header: dict[str, Any] = {}
        onnx_bytes = b""
        if not self._fake.faults.deserialize_returns_none:
            try:
                header, onnx_bytes = decode(bytes(serialized_engine))
                problem = self._foreign(header)
            except ValueError as error:
                problem = f"IRuntime::deserializeCudaEngine: Error Code 1: Serialization ({error})"
        if problem:
            self._fake.log(self._logger, "ERROR", problem)
            return None
        return self._fake.module.ICudaEngine(header, onnx_bytes, self._logger)

    def _foreign(self, header: dict[str, Any]) -> str:
        where = "IRuntime::deserializeCudaEngine"
        if header["version"] != self._fake.version:
            return (
                f"{where}: Error Code 1: Serialization (Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed."
                f"Version tag does not match. Note: Current Version: {self._fake.version}, "
                f"Serialized Engine Version: {header['version']})"
            )
        if header["device"] != self._fake.device:
            return f"{where}: Error Code 6: API Usage Error (The engine plan file is not compatible with this device)"
        return ""


class ICudaEngine(Bound):
    def __init__(self, header: dict[str, Any], onnx_bytes: bytes, logger: Any) -> None:
        self._header, self._onnx_bytes, self._logger = header, onnx_bytes, logger
        self._tensors = {tensor.name: tensor for tensor in tensors_of(onnx_bytes)}

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    @property
    def num_layers(self) -> int:
        return len(self._header["layers"])

    @property
    def num_optimization_profiles(self) -> int:
        return max(1, len(self._header["profiles"]))

    @property
    def name(self) -> str:
        return "Unnamed Network 0"

    @property
    def device_memory_size_v2(self) -> int:
        return 1 << 20

    @property
    def profiling_verbosity(self) -> Any:
        return self._fake.enums["ProfilingVerbosity"][self._header["profiling_verbosity"]]

    def get_tensor_name(self, index: int) -> str:
        check(self._fake, index, "int")
        return list(self._tensors)[index]

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(self._tensor(name).shape)

    def get_tensor_dtype(self, name: str) -> Any:
        return self._fake.enums["DataType"][self._tensor(name).dtype]

    def get_tensor_mode(self, name: str) -> Any:
        check(self._fake, name, "str")
        tensor = self._tensors.get(name)
        mode = "NONE" if tensor is None else "INPUT" if tensor.is_input else "OUTPUT"
        return self._fake.enums["TensorIOMode"][mode]

    def get_tensor_location(self, name: str) -> Any:
        check(self._fake, name, "str")
        return self._fake.enums["TensorLocation"]["DEVICE"]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        shapes = self._header["profiles"][profile_index].get(name)
        return [Dims(shape) for shape in shapes or [self._tensor(name).shape] * 3]

    def create_engine_inspector(self) -> Any:
        return self._fake.module.EngineInspector(self)

    def create_execution_context(self) -> Any:
        if self._fake.faults.context_returns_none:
            self._fake.log(
                self._logger,
                "ERROR",
                "IExecutionContext: Error Code 2: OutOfMemory (Requested size was 1048576 bytes.)",
            )
            return None
        return self._fake.module.IExecutionContext(self)

    def serialize(self) -> Any:
        return self._fake.module.IHostMemory(encode(self._header, self._onnx_bytes))

    def _tensor(self, name: str) -> Tensor:
        check(self._fake, name, "str")
        if name not in self._tensors:
            self._fake.log(self._logger, "ERROR", f"Error Code 3: API Usage Error (Given invalid tensor name: {name})")
            return Tensor(name=name, shape=(), dtype="FLOAT", is_input=False)
        return self._tensors[name]


class EngineInspector(Bound):
    execution_context = Setting(None, "IExecutionContext")

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def get_engine_information(self, format: Any) -> str:
        check(self._fake, format, "LayerInformationFormat")
        layers = [self._told(index) for index in range(self._engine.num_layers)]
        if format.name == "ONELINE":
            return "\n".join(map(str, layers))
        return json.dumps({"Layers": layers, "Bindings": list(self._engine._tensors)})

    def get_layer_information(self, layer_index: int, format: Any) -> str:
        check(self._fake, format, "LayerInformationFormat")
        told = self._told(layer_index)
        return json.dumps(told) if format.name == "JSON" else str(told)

    def _told(self, index: int) -> Any:
        """Only DETAILED builds tell types; by default a layer is its name."""
        layer = self._engine._header["layers"][index]
        verbosity = self._engine.profiling_verbosity.name
        return layer if verbosity == "DETAILED" else layer["Name"] if verbosity == "LAYER_NAMES_ONLY" else ""


class IExecutionContext(Bound):
    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._shapes = {name: tensor.shape for name, tensor in engine._tensors.items() if tensor.is_input}
        self._session: Any = None

    @property
    def engine(self) -> Any:
        return self._engine

    @property
    def all_binding_shapes_specified(self) -> bool:
        return all(-1 not in shape for shape in self._shapes.values())

    def set_input_shape(self, name: str, shape: Any) -> bool:
        check(self._fake, name, "str")
        check(self._fake, shape, "dims")
        declared = self._engine._tensors.get(name)
        wanted = tuple(shape)
        fits = declared is not None and declared.is_input and len(declared.shape) == len(wanted)
        if not fits or any(has not in (-1, size) for has, size in zip(declared.shape, wanted, strict=True)):
            self._log(
                f"IExecutionContext::setInputShape: Error Code 3: API Usage Error (shape {wanted} of {name} is refused)"
            )
            return False
        self._shapes[name] = wanted
        return True

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims(self._shapes.get(name, self._engine.get_tensor_shape(name)))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        check(self._fake, name, "str")
        check(self._fake, memory, "int")
        if name not in self._engine._tensors:
            self._log(
                f"IExecutionContext::setTensorAddress: Error Code 3: API Usage Error (invalid tensor name: {name})"
            )
            return False
        self._addresses[name] = int(memory)
        return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

    def infer_shapes(self) -> list[str]:
        return [name for name, shape in self._shapes.items() if -1 in shape]

    def execute_async_v3(self, stream_handle: int) -> bool:
        check(self._fake, stream_handle, "int")
        captured = self._fake.captures.get(int(stream_handle))
        missing = [name for name in self._engine._tensors if not self._addresses.get(name)]
        if self._fake.faults.enqueue_returns_false or missing or not self.all_binding_shapes_specified:
            self._log(f"IExecutionContext::enqueueV3: Error Code 3: API Usage Error (no address for {missing})")
            return False
        if captured is not None:
            if self._fake.faults.capture_fails:
                self._log(
                    "IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (operation not permitted when stream is capturing)"
                )
                return False
            captured.append(self._run)
            return True
        self._run()
        return True

    def _run(self) -> None:
        import onnxruntime as ort

        if self._session is None:
            options = ort.SessionOptions()
            options.intra_op_num_threads = 1
            options.log_severity_level = 3
            self._session = ort.InferenceSession(self._engine._onnx_bytes, options, providers=["CPUExecutionProvider"])
        tensors = self._engine._tensors.values()
        feeds = {
            tensor.name: _read(self._addresses[tensor.name], self._shapes[tensor.name], _NUMPY[tensor.dtype])
            for tensor in tensors
            if tensor.is_input
        }
        names = [tensor.name for tensor in tensors if not tensor.is_input]
        self._fake.num_executions += 1
        for name, values in zip(names, self._session.run(names, feeds), strict=True):
            answer = values
            if np.issubdtype(values.dtype, np.floating):
                off = np.nan if self._fake.faults.answers_nan else self._fake.faults.answers_off
                answer = (values + off).astype(values.dtype)
            ctypes.memmove(self._addresses[name], np.ascontiguousarray(answer).ctypes.data, answer.nbytes)

    def _log(self, text: str) -> None:
        self._fake.log(self._engine._logger, "ERROR", text)


def _read(address: int, shape: tuple[int, ...], dtype: Any) -> Any:
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    return np.frombuffer(ctypes.string_at(address, num_bytes), dtype).reshape(shape)


CLASSES = (Runtime, ICudaEngine, EngineInspector, IExecutionContext)
