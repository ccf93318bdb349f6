"""A fake of TensorRT whose calls can be made to fail, for tests of the project's error handling.

It has only what the project calls and accepts any arguments; tests/test_tensorrt_api.py checks names and arguments against the real
bindings. Its behaviour follows the documentation; it proves nothing about TensorRT itself.

    fake = FakeTensorRT(version="10.3.0")
    monkeypatch.setitem(sys.modules, "tensorrt", fake.module)

A plan contains its ONNX file. `execute_async_v3` reads and writes *host* addresses immediately, with ONNX Runtime on that file.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from fake_network import compiled, network_of

VERSIONS = ("10.3.0", "10.16.1.11", "11.4.0.106")
"""That of JetPack 6, with weakly typed networks; the last 10.x; the newest, without them."""
ENUMS = {
    "DataType": "FLOAT HALF INT8 INT32 BOOL UINT8 INT64",
    "LayerInformationFormat": "ONELINE JSON",
    "LayerType": "CONSTANT CONVOLUTION DECONVOLUTION MATRIX_MULTIPLY QUANTIZE SOFTMAX ELEMENTWISE",
    "MemoryPoolType": "WORKSPACE",
    "NetworkDefinitionCreationFlag": "STRONGLY_TYPED",
    "ProfilingVerbosity": "LAYER_NAMES_ONLY DETAILED",
    "Severity": "INTERNAL_ERROR ERROR WARNING INFO VERBOSE",
    "TensorIOMode": "NONE INPUT OUTPUT",
}
FLAGS_OF_10 = "TF32 FP16 INT8 OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS"
NO_KERNEL = "Error Code 10: Internal Error (Could not find any implementation for node conv.)"


@dataclass(kw_only=True, slots=True)
class Faults:
    """Failures. Each can be set at any time.

    Attributes:
        no_driver: Builder and Runtime cannot be made; pybind11 says so with a TypeError.
        parser_errors: descriptions of errors that the parser finds in any file.
        build_returns_none: the build fails; `build_error` is logged, and before it `build_warning`, where there is one.
        no_kernel_obeys: the build fails while the precision of single layers must be kept.
        no_fp16_layer: every FP16 layer becomes an FP32 one, without a word.
        deserialize_returns_none: any plan is refused.
        context_returns_none: no execution context, as when GPU memory is short.
        enqueue_returns_false: nothing runs.
        capture_fails: enqueueing works, but not while the stream is captured.
        answers_off: added to every output; NaN makes them NaN.
        wrong_fusions: tensor -> tensors; unless one of those is an output of the network, the tensor's values are doubled.
            Without any they always are.
        no_kernel_with_output: the build fails if this tensor is an output of the network.
    """

    no_driver: bool = False
    parser_errors: tuple[str, ...] = ()
    build_returns_none: bool = False
    build_warning: str = ""
    build_error: str = NO_KERNEL
    no_kernel_obeys: bool = False
    no_fp16_layer: bool = False
    deserialize_returns_none: bool = False
    context_returns_none: bool = False
    enqueue_returns_false: bool = False
    capture_fails: bool = False
    answers_off: float = 0.0
    wrong_fusions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    no_kernel_with_output: str = ""


class FakeTensorRT:
    """One fake: the module, its failures, and the calls that it received.

    Attributes:
        module: stands for `tensorrt`.
        device: written into timing caches; those of another device are refused.
        builds: what each call of `build_serialized_network` was to build.
        captures: streams that are being captured, and what was enqueued on them.
    """

    def __init__(self, *, version: str = "10.3.0", device: str = "Fake GPU sm_87") -> None:
        self.version, self.device, self.faults = version, device, Faults()
        self.has_weak_types = version.startswith("10.")
        self.builds: list[dict[str, Any]] = []
        self.captures: dict[int, list[Callable[[], None]]] = {}
        flags = FLAGS_OF_10 if self.has_weak_types else "TF32"
        names = {**ENUMS, "BuilderFlag": flags}
        enums = {name: IntEnum(name, members, start=0) for name, members in names.items()}
        classes = {base.__name__: type(base.__name__, (base,), {"fake": self}) for base in CLASSES}
        classes["ILogger"].Severity = enums["Severity"]
        self.module: Any = ModuleType("tensorrt")
        self.module.__dict__.update(enums, **classes, Dims=tuple, __version__=version)

    def log(self, logger: Any, text: str, *, severity: str = "ERROR") -> None:
        logger.log(self.module.ILogger.Severity[severity], text)


class Made:
    """An object of the bindings; `fake` has the failures."""

    fake: FakeTensorRT


class NeedsDriver(Made):
    def __init__(self, logger: Any) -> None:
        self._logger = logger
        if self.fake.faults.no_driver:
            self.fake.log(logger, "CUDA initialization failure with error: 35. Please check your CUDA installation")
            raise TypeError("pybind11::init(): factory function returned nullptr")


class ILogger(Made):
    def log(self, severity: Any, msg: str) -> None: ...


class IProgressMonitor(Made):
    pass


# The parser


class OnnxParser(Made):
    def __init__(self, network: Any, logger: Any) -> None:
        self._network, self._logger = network, logger
        self._errors = self.fake.faults.parser_errors
        self.num_errors = len(self._errors)

    def get_error(self, index: int) -> Any:
        said = {"node_name": "node_3", "node_operator": "Odd", "desc": self._errors[index], "code": "INVALID_NODE"}
        return SimpleNamespace(**{name: lambda word=word: word for name, word in said.items()})

    def parse_from_file(self, model: str) -> bool:
        content, network = Path(model).read_bytes(), self._network
        tensors, layers = network_of(content, self.fake.module, weak=self.fake.has_weak_types)
        inputs = [tensor for tensor in tensors if tensor.is_input]
        network.onnx_bytes, network.tensors, network.layers = content, tensors, layers
        network.num_inputs, network.get_input = len(inputs), inputs.__getitem__
        network.num_layers, network.get_layer = len(layers), layers.__getitem__
        return not self._errors


# The builder


class Profile(dict[str, tuple[tuple[int, ...], ...]]):
    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        self[name] = shapes


@dataclass
class TimingCache:
    """Its device, and the digests of the files that it has timings for."""

    device: str
    digests: list[str] = field(default_factory=list)

    def serialize(self) -> bytes:
        return json.dumps(asdict(self)).encode()


class Config:
    profiling_verbosity = progress_monitor = builder_optimization_level = None

    def __init__(self, fake: FakeTensorRT) -> None:
        self._device = f"{fake.device} {fake.version}"
        self.flags = {fake.module.BuilderFlag.TF32}
        self.pools: dict[str, int] = {}
        self.profiles: list[Profile] = []
        self.cache: TimingCache | None = None
        self.set_flag, self.clear_flag, self.get_flag = self.flags.add, self.flags.discard, self.flags.__contains__
        self.add_optimization_profile = self.profiles.append

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self.pools[pool.name] = pool_size

    def create_timing_cache(self, serialized: bytes) -> TimingCache:
        try:
            return TimingCache(**json.loads(serialized)) if serialized else TimingCache(self._device)
        except ValueError:
            return TimingCache("damaged")

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        fits = ignore_mismatch or cache.device == self._device
        self.cache = cache if fits else None
        return fits

    def get_timing_cache(self) -> TimingCache | None:
        return self.cache


class Builder(NeedsDriver):
    def create_network(self, flags: int = 0) -> Any:
        strongly = 1 << self.fake.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        network = SimpleNamespace(strongly_typed=bool(flags & strongly) or not self.fake.has_weak_types, marked=[])

        def mark_output(tensor: Any) -> None:
            tensor.is_network_output = True
            network.marked.append(tensor.name)

        network.mark_output = mark_output
        return network

    def create_builder_config(self) -> Config:
        return Config(self.fake)

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Any, config: Config) -> bytes | None:
        faults, trt = self.fake.faults, self.fake.module
        flags, level = {flag.name for flag in config.flags}, config.builder_optimization_level
        held = [i for i, layer in enumerate(network.layers) if getattr(layer, "precision", None) == trt.DataType.FLOAT]
        digest, digests = hashlib.sha256(network.onnx_bytes).hexdigest(), config.cache.digests if config.cache else []
        self.fake.builds.append(
            {
                "onnx_sha256": digest,
                "strongly_typed": network.strongly_typed,
                "flags": flags,
                "optimization_level": level,
                "pools": config.pools,
                "profiles": config.profiles,
                "profiling_verbosity": getattr(config.profiling_verbosity, "name", None),
                "held_in_float": held,
                "marked": list(network.marked),
                "timing_cache_hit": digest in digests,
            }
        )
        lacks_kernel = faults.build_returns_none or faults.no_kernel_with_output in network.marked
        error = faults.build_error if lacks_kernel else ""
        if faults.no_kernel_obeys and held and "OBEY_PRECISION_CONSTRAINTS" in flags:
            error = NO_KERNEL
        if not error and not _report(config.progress_monitor):
            error = "Error Code 2: Internal Error (Build was cancelled)"
        if error:
            if faults.build_warning:
                self.fake.log(self._logger, faults.build_warning, severity="WARNING")
            self.fake.log(self._logger, error)
            return None
        digests[:] = sorted({*digests, digest})
        self.fake.log(self._logger, "Engine generation completed in 0.1 seconds.", severity="INFO")
        # The types of the file apply only to strongly typed networks; for others, the flag does.
        replaced = {"HALF": "FLOAT"}
        if not faults.no_fp16_layer and (network.strongly_typed or "FP16" in flags):
            replaced = {} if network.strongly_typed else {"FLOAT": "HALF"}
        layers = _layers(network, replaced=replaced, held=held)
        described = {"Layers": layers, "Level": level, "Batch": network.tensors[0].shape[0]}
        content = network.onnx_bytes
        if network.marked or faults.wrong_fusions:
            content = compiled(content, network.marked, faults.wrong_fusions)
        return b"fake-plan\n" + json.dumps(described).encode() + b"\n" + content


def _report(monitor: Any) -> bool:
    """Two phases, one inside the other. False = the monitor asked to stop."""
    if monitor is None:
        return True
    monitor.phase_start("Building Engine", None, 2)
    monitor.phase_start("Tactic selection", "Building Engine", 3)
    for phase, num_steps in (("Tactic selection", 3), ("Building Engine", 2)):
        if not all(monitor.step_complete(phase, step) for step in range(num_steps)):
            return False
        monitor.phase_finish(phase)
    return True


def _layers(network: Any, *, replaced: dict[str, str], held: list[int]) -> list[dict[str, Any]]:
    """The output of the inspector: inputs and outputs of the engine keep their types, and so do held layers."""
    outer = {*(tensor.name for tensor in network.tensors), *network.marked}

    def described(tensor: Any, index: int) -> dict[str, str]:
        name = tensor.dtype.name
        return {
            "Format/Datatype": (name if tensor.name in outer or index in held else replaced.get(name, name)).title()
        }

    return [
        {
            "LayerType": layer.operator,
            "Inputs": [described(layer.get_input(number), index) for number in range(layer.num_inputs)],
            "Outputs": [described(layer.get_output(number), index) for number in range(layer.num_outputs)],
        }
        for index, layer in enumerate(network.layers)
    ]


# The runtime


class Runtime(NeedsDriver):
    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        if self.fake.faults.deserialize_returns_none:
            self.fake.log(self._logger, "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (fault)")
            return None
        return self.fake.module.ICudaEngine(plan, self._logger)


class ICudaEngine(Made):
    def __init__(self, plan: bytes, logger: Any) -> None:
        _, layers, self.onnx_bytes = plan.split(b"\n", maxsplit=2)
        tensors, _ = network_of(self.onnx_bytes, self.fake.module, weak=False)
        for tensor in tensors:
            tensor.shape = (json.loads(layers)["Batch"], *tensor.shape[1:])  # as the network's input was given it
        self.logger, self.tensors = logger, {tensor.name: tensor for tensor in tensors}
        self.num_io_tensors, self.get_tensor_name = len(self.tensors), list(self.tensors).__getitem__
        self._inspector = SimpleNamespace(get_engine_information=lambda _format: layers.decode())

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def get_tensor_dtype(self, name: str) -> Any:
        return self.tensors[name].dtype

    def get_tensor_mode(self, name: str) -> Any:
        return self.fake.module.TensorIOMode["INPUT" if self.tensors[name].is_input else "OUTPUT"]

    def create_engine_inspector(self) -> Any:
        return self._inspector

    def create_execution_context(self) -> Any:
        if self.fake.faults.context_returns_none:
            self.fake.log(self.logger, "IExecutionContext: Error Code 2: OutOfMemory (Requested 1048576 bytes.)")
            return None
        return ExecutionContext(self)


class ExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        import onnxruntime as ort

        self._engine, self._fake = engine, engine.fake
        self._session = ort.InferenceSession(engine.onnx_bytes, providers=["CPUExecutionProvider"])
        self._addresses: dict[str, int] = {}
        self._shapes = {name: tensor.shape for name, tensor in engine.tensors.items()}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        captured, faults = self._fake.captures.get(stream_handle), self._fake.faults
        if faults.enqueue_returns_false or (captured is not None and faults.capture_fails):
            self._fake.log(self._engine.logger, "enqueueV3: operation not permitted when stream is capturing")
            return False
        if captured is None:
            self._run()
        else:
            captured.append(self._run)
        return True

    def _run(self) -> None:
        inputs = [tensor for tensor in self._engine.tensors.values() if tensor.is_input]
        feeds = {tensor.name: self._at(tensor.name, np.uint8) for tensor in inputs}
        names = [name for name in self._engine.tensors if name not in feeds]
        for name, values in zip(names, self._session.run(names, feeds), strict=True):
            self._shapes[name] = values.shape
            self._at(name, values.dtype)[...] = values + self._fake.faults.answers_off

    def _at(self, name: str, dtype: Any) -> Any:
        shape = self._shapes[name]
        num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        buffer = (ctypes.c_uint8 * num_bytes).from_address(self._addresses[name])
        return np.frombuffer(buffer, dtype).reshape(shape)


CLASSES = (ILogger, IProgressMonitor, OnnxParser, Builder, Runtime, ICudaEngine)
