"""Inference with a bundle's ONNX file on OpenVINO's CPU device, in FP32, bfloat16 or INT8."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from types import ModuleType, TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.bundle import MODEL_NAME, MODEL_NAMES, Bundle
from edgefuse.contract import DEPTH_INPUT, RGB_INPUT, check_batch, outputs_of
from edgefuse.errors import MissingPackageError, UserError, require
from edgefuse_runtime.engines.cpu import cpu_id, usable_cores
from edgefuse_runtime.engines.engine import (
    Decision,
    OfBundle,
    Tensor,
    check_decision,
    check_num_pairs,
    check_tensors,
    padded,
)
from edgefuse_runtime.engines.openvino_cache import compiled_model
from edgefuse_runtime.engines.openvino_compiler import last_line
from edgefuse_runtime.engines.openvino_parity import UnsupportedPrecisionError, check_first_open, check_has_samples

PRECISIONS = ("fp32", "bf16", "int8")
"""Of `--engine openvino:PRECISION`."""
_NEXT_STEP = "Install OpenVINO again: pip install --force-reinstall openvino; or use ONNX Runtime: --engine cpu"


class OpenVinoEngine(OfBundle):
    """One compiled model and its request. See `Engine` for the protocol."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        file: str | None = None,
        precision: str | None = None,
        num_threads: int | None = None,
    ) -> None:
        """Choose file and precision; `with` checks and loads it.

        Args:
            file: name of an ONNX file of the bundle; None = that of the precision, `model.onnx` for "fp32" and "bf16".
            precision: one of `PRECISIONS`; None = that of the file.
            num_threads: threads per operator; None = OpenVINO's default, one per core.

        Raises:
            UserError: an unknown precision, or a file of another one.
        """
        if precision not in (None, *PRECISIONS):
            raise UserError(f"the precision {precision!r} is unknown: one of {', '.join(PRECISIONS)} was expected")
        file = file or (MODEL_NAMES["int8"] if precision == "int8" else MODEL_NAME)
        entry = bundle.manifest.files.get(file)
        if entry is None:
            raise UserError(
                f"{bundle.folder} has no {file}: export it: edgefuse export RUN --out BUNDLE --precision fp32,int8"
            )
        if precision is not None and entry.precision != ("fp32" if precision == "bf16" else precision):
            raise UserError(
                f"{file} is {entry.precision}, but {precision} was requested: leave out --file or the precision"
            )
        self._bundle, self._file, self._num_threads = bundle, file, num_threads
        self._threads = num_threads or usable_cores()
        self._precision = precision or entry.precision
        self._request: Any = None
        self._tensors: Tensors | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._outputs: tuple[Tensor, ...] = ()
        self._description: dict[str, Any] = {"engine": "openvino", "file": file, "precision": self._precision}

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self._inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return self._outputs

    @property
    def batch_size(self) -> int | None:
        return self._bundle.manifest.batch_size

    @property
    def description(self) -> dict[str, Any]:
        return self._description

    def __enter__(self) -> OpenVinoEngine:
        started_s = time.perf_counter()
        ov = load_openvino()
        check_has_samples(self._bundle)
        core, library, cpu = openvino_core(), f"OpenVINO {ov.__version__}", cpu_id()
        check_device(core, self._precision)
        path, entry = self._bundle.file(self._file), self._bundle.manifest.files[self._file]
        where = f"{self._bundle.folder}/{self._file}"
        model, was_cached = compiled_model(
            core,
            path,
            sha256=entry.sha256,
            config=config_of(self._precision, num_threads=self._num_threads),
            library=library,
            cpu=cpu,
        )
        inputs, outputs = (tuple(_tensor(port) for port in ports) for ports in (model.inputs, model.outputs))
        check_tensors(inputs, outputs, self._bundle.manifest, where=where)
        self._request, self._inputs, self._outputs = model.create_infer_request(), inputs, outputs
        try:
            side, num_pairs = self.contract.size, self.batch_size or 1
            blank = [np.zeros((num_pairs, side, side, channels), np.uint8) for channels in (3, 2)]
            check_decision(self.run(*blank), self._bundle.manifest, num_pairs=num_pairs, where=where)
            start_ms = (time.perf_counter() - started_s) * 1e3
            parity = check_first_open(
                self._bundle,
                self.run,
                file=self._file,
                precision=self._precision,
                num_threads=self._threads,
                library=library,
                cpu=cpu,
            )
        except UserError:
            self.__exit__(None, None, None)
            raise
        self._description |= {
            "provider": "OpenVINO CPU",
            "num_threads": self._num_threads or "one per core",
            "version": ov.__version__.partition("-")[0],
            "compiled": "at an earlier start" if was_cached else "at this start",
            "start_ms": round(start_ms, 1),
            "parity": parity,
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._request = self._tensors = None
        self._inputs = self._outputs = ()

    def run(self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> Decision:
        """See `Engine.run`."""
        request = self._request
        if request is None:
            raise RuntimeError("run outside of `with`")
        check_batch(rgb, depth, self.contract)
        num_pairs = len(rgb)
        check_num_pairs(num_pairs, self.batch_size)
        try:
            rgb, depth = padded(rgb, self.batch_size), padded(depth, self.batch_size)
            given = {RGB_INPUT: rgb, DEPTH_INPUT: depth}
            if self._tensors is None or not self._tensors.fit(given):
                self._tensors = Tensors(request, given)
            self._tensors.run(given)
            arrays = {name: np.array(request.get_tensor(name).data) for name in self.contract.outputs}
        except RuntimeError as error:
            raise UserError(
                f"{self._bundle.folder}/{self._file} failed to run on OpenVINO: {last_line(str(error))}. {_NEXT_STEP}"
            ) from error
        return Decision.of(outputs_of(arrays, num_pairs=num_pairs))


class Tensors:
    """The input tensors for arrays of one shape, reused by every run: frames are copied into them, nothing is allocated.

    A copy takes 3 of 6000 microseconds (two MobileNetV2, 128 px); a tensor around the caller's arrays takes 15 to create.
    """

    def __init__(self, request: Any, arrays: Mapping[str, NDArray[Any]]) -> None:
        ov = load_openvino()
        self._request = request
        tensors = {name: ov.Tensor(array.dtype, ov.Shape(array.shape)) for name, array in arrays.items()}
        for name, tensor in tensors.items():
            request.set_tensor(name, tensor)
        self._data = {name: tensor.data for name, tensor in tensors.items()}

    def fit(self, arrays: Mapping[str, NDArray[Any]]) -> bool:
        """Whether the batch has the size of these tensors."""
        return all(len(array) == len(self._data[name]) for name, array in arrays.items())

    def run(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        for name, array in arrays.items():
            np.copyto(self._data[name], array)
        self._request.infer(share_outputs=True)


def config_of(precision: str, *, num_threads: int | None) -> dict[str, Any]:
    """OpenVINO's properties for a precision of the computation; `num_threads`: None = one per core."""
    config: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        # Pinned threads stay on cores that the camera's process uses; alone, pinning gains nothing.
        "ENABLE_CPU_PINNING": False,
        "NUM_STREAMS": 1,
    }
    if (num_threads or usable_cores()) == 1:
        # With one thread, the fused elementwise kernels of OpenVINO 2026.4 crash on some models and are wrong on others.
        config["SNIPPETS_MODE"] = "DISABLE"
    return config if num_threads is None else {**config, "INFERENCE_NUM_THREADS": num_threads}


def load_openvino() -> ModuleType:
    """Import OpenVINO.

    Raises:
        MissingPackageError: it is not installed, or does not load.
    """
    if sys.modules.get("openvino", True) is None or ("openvino" not in sys.modules and find_spec("openvino") is None):
        raise MissingPackageError("OpenVINO is not installed", "Install it: pip install 'edgefuse[openvino]'")
    return require("openvino", extra="openvino")


@functools.cache
def openvino_core() -> Any:
    """The `Core` of this process, never freed.

    Each one sets a signal stack (`sigaltstack`) for its thread. If two overlap and the older is freed first, the other restores a
    stack that is gone, and the next signal, Ctrl-C for one, ends the process with SIGSEGV (2026.4.1, `sigstack_manager.cpp`).
    """
    return load_openvino().Core()


def check_device(core: Any, precision: str) -> None:
    """Refuse a precision that this CPU emulates.

    Raises:
        UnsupportedPrecisionError: it has no bfloat16 instructions.
    """
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise UnsupportedPrecisionError(
            "this CPU has no bfloat16 instructions (avx512_bf16, amx_bf16 or ARM's bf16): use --engine openvino:fp32, or "
            "openvino:int8"
        )


def _tensor(port: Any) -> Tensor:
    """An input or output of a compiled model."""
    shape = tuple("N" if size.is_dynamic else size.get_length() for size in port.partial_shape)
    return Tensor(name=port.any_name, dtype=str(np.dtype(port.element_type.to_dtype())), shape=shape)
