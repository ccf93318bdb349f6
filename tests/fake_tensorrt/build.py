"""The stand-in's logger, parser, builder and builder configuration."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from fake_tensorrt.bound import Bound, Dims, Setting, check
from fake_tensorrt.plan import encode, layers_of, tensors_of

_PRECISION_FLAGS = ("FP16", "BF16", "INT8", "FP8", "INT4", "FP4")


class ILogger(Bound):
    def __init__(self) -> None:
        self._made = True

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError("ILogger.log is pure virtual")


class Logger(ILogger):
    """Keeps what it was told, in `_lines`; the real one prints it."""

    min_severity = Setting("WARNING", "Severity")

    def __init__(self, min_severity: Any = None) -> None:
        self._made = True
        self._lines: list[str] = []
        if min_severity is not None:
            check(self._fake, min_severity, "Severity")
            self._min_severity = min_severity

    def log(self, severity: Any, msg: str) -> None:
        if int(severity) <= int(self.min_severity):
            self._lines.append(f"{severity.name}: {msg}")


class IProgressMonitor(Bound):
    def __init__(self) -> None:
        self._made = True

    def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
        raise NotImplementedError("IProgressMonitor.phase_start is pure virtual")

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError("IProgressMonitor.step_complete is pure virtual")

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError("IProgressMonitor.phase_finish is pure virtual")


class ParserError(Bound):
    def __init__(self, description: str) -> None:
        self._description = description

    def code(self) -> Any:
        return self._fake.enums["ErrorCode"]["UNSUPPORTED_NODE"]

    def desc(self) -> str:
        return self._description

    def node(self) -> int:
        return 3

    def node_name(self) -> str:
        return "node_3"

    def node_operator(self) -> str:
        return "Odd"

    def file(self) -> str:
        return "ModelImporter.cpp"

    def func(self) -> str:
        return "parseNode"

    def line(self) -> int:
        return 948


class OnnxParser(Bound):
    def __init__(self, network: Any, logger: Any) -> None:
        check(self._fake, network, "INetworkDefinition")
        check(self._fake, logger, "ILogger")
        self._network, self._logger = network, logger
        self._errors: list[str] = []

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._fake.module.ParserError(self._errors[index])

    def clear_errors(self) -> None:
        self._errors = []

    def parse(self, model: Any, path: str | None = None) -> bool:
        check(self._fake, model, "buffer")
        self._errors = list(self._fake.faults.parser_errors)
        try:
            tensors_of(bytes(model))
        except Exception as error:  # protobuf's own classes
            self._errors.append(f"Failed to parse the ONNX model: {error}")
        for error in self._errors:
            self._fake.log(self._logger, "ERROR", f"ModelImporter.cpp:948: {error}")
        if not self._errors:
            self._network._onnx_bytes = bytes(model)
        return not self._errors

    def parse_from_file(self, model: str) -> bool:
        check(self._fake, model, "str")
        if not Path(model).is_file():
            self._errors = [f"Failed to open file: {model}"]
            return False
        return self.parse(Path(model).read_bytes(), model)


class IOptimizationProfile(Bound):
    def __init__(self) -> None:
        self._shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        check(self._fake, input, "str")
        for shape in (min, opt, max):
            check(self._fake, shape, "dims")
        self._shapes[input] = (tuple(min), tuple(opt), tuple(max))

    def get_shape(self, input: str) -> list[Dims]:
        return [Dims(shape) for shape in self._shapes[input]]


class ITimingCache(Bound):
    """JSON: the device it belongs to, and the digests of the networks that it has timings of."""

    def __init__(self, data: bytes) -> None:
        self._data: dict[str, Any] = {"device": self._fake.device, "version": self._fake.version, "digests": []}
        self._fits = True
        if data:
            try:
                found = json.loads(data)
                self._fits = {name: found[name] for name in ("device", "version")} == {
                    name: self._data[name] for name in ("device", "version")
                }
            except (ValueError, KeyError):
                self._fits = False
            self._data = found if self._fits else self._data

    def serialize(self) -> Any:
        return self._fake.module.IHostMemory(json.dumps(self._data).encode())

    def combine(self, input_cache: Any, ignore_mismatch: bool) -> bool:
        check(self._fake, input_cache, "ITimingCache")
        self._data["digests"] = sorted({*self._data["digests"], *input_cache._data["digests"]})
        return True

    def reset(self) -> bool:
        self._data["digests"] = []
        return True


class IBuilderConfig(Bound):
    builder_optimization_level = Setting(3, "int")
    profiling_verbosity = Setting("LAYER_NAMES_ONLY", "ProfilingVerbosity")
    progress_monitor = Setting(None, "IProgressMonitor")
    max_aux_streams = Setting(-1, "int")
    avg_timing_iterations = Setting(1, "int")

    def __init__(self) -> None:
        self._set: set[Any] = {self._fake.enums["BuilderFlag"]["TF32"]}
        self._pools: dict[Any, int] = {}
        self._profiles: list[Any] = []
        self._cache: Any = None

    @property
    def flags(self) -> int:
        return sum(1 << int(flag) for flag in self._set)

    def set_flag(self, flag: Any) -> None:
        check(self._fake, flag, "BuilderFlag")
        self._set.add(flag)

    def clear_flag(self, flag: Any) -> None:
        check(self._fake, flag, "BuilderFlag")
        self._set.discard(flag)

    def get_flag(self, flag: Any) -> bool:
        check(self._fake, flag, "BuilderFlag")
        return flag in self._set

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        check(self._fake, pool, "MemoryPoolType")
        check(self._fake, pool_size, "int")
        self._pools[pool] = pool_size

    def get_memory_pool_limit(self, pool: Any) -> int:
        check(self._fake, pool, "MemoryPoolType")
        return self._pools.get(pool, 8 << 30)

    def add_optimization_profile(self, profile: Any) -> int:
        check(self._fake, profile, "IOptimizationProfile")
        self._profiles.append(profile)
        return len(self._profiles) - 1

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    def create_timing_cache(self, serialized_timing_cache: Any) -> Any:
        check(self._fake, serialized_timing_cache, "buffer")
        return self._fake.module.ITimingCache(bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        check(self._fake, cache, "ITimingCache")
        check(self._fake, ignore_mismatch, "bool")
        if not (cache._fits or ignore_mismatch):
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self._cache


class Builder(Bound):
    max_threads = Setting(1, "int")

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

    def create_network(self, flags: int = 0) -> Any:
        check(self._fake, flags, "int")
        return self._fake.module.INetworkDefinition(flags)

    def create_builder_config(self) -> Any:
        return self._fake.module.IBuilderConfig()

    def create_optimization_profile(self) -> Any:
        return self._fake.module.IOptimizationProfile()

    def is_network_supported(self, network: Any, config: Any) -> bool:
        return self._problem(network, config) is None

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        check(self._fake, network, "INetworkDefinition")
        check(self._fake, config, "IBuilderConfig")
        problem = self._problem(network, config)
        record = self._record(network, config)
        self._fake.builds.append(record)
        if problem is None and not _report(config.progress_monitor):
            problem = "Error Code 2: Internal Error (Build was cancelled)"
        if problem is not None:
            if self._fake.faults.build_warning:
                self._fake.log(self._logger, "WARNING", self._fake.faults.build_warning)
            self._fake.log(self._logger, "ERROR", problem)
            return None
        if config._cache is not None:
            config._cache._data["digests"] = sorted({*config._cache._data["digests"], record["onnx_sha256"]})
        layers = layers_of(
            network._onnx_bytes, replace=self._replaced(network, config), held=self._held(network, config)
        )
        header = {**record, "version": self._fake.version, "device": self._fake.device, "layers": layers}
        self._fake.log(self._logger, "INFO", "Engine generation completed in 0.1 seconds.")
        return self._fake.module.IHostMemory(encode(header, network._onnx_bytes))

    def _strongly_typed(self, network: Any) -> bool:
        flag = self._fake.enums["NetworkDefinitionCreationFlag"]["STRONGLY_TYPED"]
        return self._fake.always_strongly_typed or network.get_flag(flag)

    def _replaced(self, network: Any, config: Any) -> dict[str, str]:
        """The file's types count in a strongly typed network only; in others the flag decides."""
        if self._fake.faults.no_half_layer:
            return {"HALF": "FLOAT"}
        if self._strongly_typed(network):
            return {}
        return {"FLOAT": "HALF"} if "FP16" in _names(config) else {"HALF": "FLOAT"}

    def _held(self, network: Any, config: Any) -> set[int]:
        """Precision of a single layer counts when the configuration says that it binds."""
        binds = {"OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS"} & _names(config)
        return network._held if binds and not self._strongly_typed(network) else set()

    def _problem(self, network: Any, config: Any) -> str | None:
        if self._fake.faults.build_returns_none:
            return self._fake.faults.build_error
        if network._onnx_bytes is None:
            return "Error Code 4: API Usage Error (Network must have at least one output)"
        refused = [name for name in _PRECISION_FLAGS if name in _names(config)]
        if self._strongly_typed(network) and refused:
            return (
                f"Error Code 3: API Usage Error (BuilderFlag {refused[0]} is not permitted in a strongly typed network)"
            )
        if self._fake.faults.no_kernel_obeys and network._held and "OBEY_PRECISION_CONSTRAINTS" in _names(config):
            return "Error Code 10: Internal Error (Could not find any implementation for node {ForeignNode[softmax]}.)"
        for tensor in tensors_of(network._onnx_bytes):
            open_input = tensor.is_input and -1 in tensor.shape
            if open_input and not any(tensor.name in profile._shapes for profile in config._profiles):
                return f"Error Code 4: API Usage Error (no optimization profile has been defined for {tensor.name})"
        return None

    def _record(self, network: Any, config: Any) -> dict[str, Any]:
        digest = hashlib.sha256(network._onnx_bytes or b"").hexdigest()
        return {
            "onnx_sha256": digest,
            "strongly_typed": self._strongly_typed(network),
            "flags": sorted(_names(config)),
            "optimization_level": config.builder_optimization_level,
            "pools": {pool.name: size for pool, size in config._pools.items()},
            "profiles": [dict(profile._shapes) for profile in config._profiles],
            "profiling_verbosity": config.profiling_verbosity.name,
            "held_in_float": sorted(network._held),
            "timing_cache": config._cache is not None,
            "timing_cache_hit": config._cache is not None and digest in config._cache._data["digests"],
        }


def _names(config: Any) -> set[str]:
    return {flag.name for flag in config._set}


def _report(monitor: Any) -> bool:
    """Two phases, one inside the other. False = the monitor asked to stop."""
    if monitor is None:
        return True
    going = True
    monitor.phase_start("Building Engine", None, 2)
    monitor.phase_start("Tactic selection", "Building Engine", 3)
    for step in range(3):
        going = going and bool(monitor.step_complete("Tactic selection", step))
    monitor.phase_finish("Tactic selection")
    for step in range(2):
        going = going and bool(monitor.step_complete("Building Engine", step))
    monitor.phase_finish("Building Engine")
    return going


CLASSES = (
    *(ILogger, Logger, IProgressMonitor, ParserError, OnnxParser),
    *(IOptimizationProfile, ITimingCache, IBuilderConfig, Builder),
)
