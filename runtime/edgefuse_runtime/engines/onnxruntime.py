"""Inference with a bundle's ONNX file on ONNX Runtime: the CPU provider, or the CUDA provider with bound inputs and outputs."""

from __future__ import annotations

import contextlib
import logging
import platform
import re
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgefuse.bundle import MODEL_NAME, Bundle
from edgefuse.contract import DEPTH_INPUT, RGB_INPUT, check_batch, outputs_of
from edgefuse.errors import MissingPackageError, UserError, require
from edgefuse.io.environment import installed
from edgefuse.io.files import path_or_bytes
from edgefuse_runtime.engines.engine import (
    Decision,
    OfBundle,
    Tensor,
    check_decision,
    check_num_pairs,
    check_tensors,
    padded,
)
from edgefuse_runtime.engines.tensorrt_library import is_jetson

Device = Literal["cpu", "cuda"]

PROVIDERS: dict[Device, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
INSTALL_GPU = "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'edgefuse[gpu]'"
ON_JETSON = (
    "On a Jetson, use TensorRT or the CPU: --engine tensorrt or --engine cpu; docs/tensorrt.md lists the Jetsons that have a wheel "
    "of onnxruntime-gpu"
)
NUM_CUDA_WARMUPS = 3
"""ONNX Runtime first runs without a CUDA graph, captures it in a later run, and then replays it."""

# Parts of messages from ONNX Runtime and CUDA.
_OUT_OF_MEMORY = re.compile(r"out of memory|failed to allocate|ALLOC_FAILED|CUDA failure 2\b", re.IGNORECASE)

_log = logging.getLogger(__name__)


class OnnxRuntimeEngine(OfBundle):
    """One ONNX Runtime session. See `Engine` for the protocol."""

    def __init__(
        self, bundle: Bundle, *, file: str = MODEL_NAME, device: Device = "cpu", num_threads: int | None = None
    ) -> None:
        """Choose the file; `with` checks and loads it.

        Args:
            file: name of a file of the bundle.
            device: "cpu", or "cuda" for the first CUDA device, without fallback to the CPU.
            num_threads: threads per operator on the CPU; None = ONNX Runtime's default, one per core. For tiny models, one thread
                has the best tail latency.
        """
        self._bundle = bundle
        self._file = file
        self._device = device
        self._num_threads = num_threads
        self._session: Any = None
        self._binding: Binding | None = None
        self._batch_size: int | None = None
        self._owner = 0
        self._description: dict[str, Any] = {"engine": "onnxruntime", "file": file}

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return () if self._session is None else tuple(_tensor(value) for value in self._session.get_inputs())

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return () if self._session is None else tuple(_tensor(value) for value in self._session.get_outputs())

    @property
    def batch_size(self) -> int | None:
        """N of the file. On CUDA, a file with a dynamic batch runs one pair at a time, because its buffers have a fixed size."""
        return self._bundle.manifest.batch_size if self._session is None else self._batch_size

    @property
    def description(self) -> dict[str, Any]:
        return self._description

    def __enter__(self) -> OnnxRuntimeEngine:
        started_s = time.perf_counter()
        ort = load_onnxruntime(self._device)
        path = self._bundle.file(self._file)
        self._owner = threading.get_ident()
        if self._device == "cpu":
            self._open(ort, path)
            settings: dict[str, Any] = {"num_threads": self._num_threads or "one per core"}
        else:
            settings = {"launch": self._open_on_cuda(ort, path)}
        self._description |= {
            "provider": self._session.get_providers()[0],
            "precision": self._bundle.manifest.files[self._file].precision,
            **settings,
            "version": ort.__version__,
            "start_ms": round((time.perf_counter() - started_s) * 1e3, 1),
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._binding = None
        self._session = None

    def run(self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> Decision:
        """See `Engine.run`."""
        if self._session is None:
            raise RuntimeError("run outside of `with`")
        check_batch(rgb, depth, self.contract)
        num_pairs, batch_size = len(rgb), self.batch_size
        check_num_pairs(num_pairs, batch_size)
        if self._binding is not None and threading.get_ident() != self._owner:
            raise RuntimeError(
                "an engine on CUDA was called by another thread than the one that opened it: open an engine in each thread"
            )
        rgb, depth = padded(rgb, batch_size), padded(depth, batch_size)
        with self._explained():
            if self._binding is not None:
                arrays = self._binding.run(rgb, depth)
            else:
                names = list(self.contract.outputs)
                found = self._session.run(names, {RGB_INPUT: rgb, DEPTH_INPUT: depth})
                arrays = dict(zip(names, found, strict=True))
        return Decision.of(outputs_of(arrays, num_pairs=num_pairs))

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Convert ONNX Runtime's exceptions to `UserError` with the next step."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            where = f"{self._bundle.folder}/{self._file}"
            raise UserError(
                f"{where} failed to run on {PROVIDERS[self._device]}: {_one_sentence(error)}. {_next_step(error, self._device)}"
            ) from error

    def _open_on_cuda(self, ort: ModuleType, path: Path) -> str:
        """Open with a CUDA graph, or without one if that fails. Returns how kernels are launched, as text."""
        # TF32 would round the factors of FP32 products to 10 bits of mantissa.
        options = {"device_id": "0", "use_tf32": "0"}
        try:
            self._open(ort, path, provider_options={**options, "enable_cuda_graph": "1"})
        except UserError as error:
            reason = str(error.__cause__ or error)
            self._open(ort, path, provider_options=options)  # an error in the file is raised again
            _log.warning("ONNX Runtime runs without a CUDA graph and launches each kernel separately: %s", reason)
            return f"plain ({reason})"
        return "CUDA graph"

    def _open(self, ort: ModuleType, path: Path, *, provider_options: Mapping[str, str] | None = None) -> None:
        """Create the session, check it, and warm it up."""
        where, provider = f"{self._bundle.folder}/{self._file}", PROVIDERS[self._device]
        self._session = self._binding = None
        session = new_session(
            ort, path, provider=provider, provider_options=provider_options, num_threads=self._num_threads
        )
        _check_provider(session, provider, where=where)
        inputs, outputs = (
            [_tensor(value) for value in values] for values in (session.get_inputs(), session.get_outputs())
        )
        check_tensors(inputs, outputs, self._bundle.manifest, where=where)
        self._batch_size = _batch_size(session, self._device)
        side, num_pairs = self.contract.size, self._batch_size or 1
        rgb, depth = (np.zeros((num_pairs, side, side, channels), np.uint8) for channels in (3, 2))
        try:
            with self._explained():
                binding = None
                if self._device == "cuda":
                    names = self.contract.outputs
                    binding = Binding(ort, session, device="cuda", rgb=rgb, depth=depth, output_names=names)
            self._session, self._binding = session, binding
            for _ in range(1 if binding is None else NUM_CUDA_WARMUPS):
                decision = self.run(rgb, depth)
            check_decision(decision, self._bundle.manifest, num_pairs=num_pairs, where=where)
        except UserError:
            self._session = self._binding = None
            raise


class Binding:
    """Inputs and outputs at fixed addresses on a device: no allocation per run, and CUDA graphs can be replayed.

    It owns the buffers; outputs are returned as copies.
    """

    def __init__(
        self,
        ort: ModuleType,
        session: Any,
        *,
        device: Device,
        rgb: NDArray[np.uint8],
        depth: NDArray[np.uint8],
        output_names: Sequence[str],
    ) -> None:
        """Allocate buffers for batches of the shapes of `rgb` and `depth`."""
        self._session = session
        self._binding = session.io_binding()
        self._inputs = {
            name: ort.OrtValue.ortvalue_from_numpy(array, device, 0)
            for name, array in ((RGB_INPUT, rgb), (DEPTH_INPUT, depth))
        }
        shapes = {value.name: value.shape for value in session.get_outputs()}
        self._outputs = {
            name: ort.OrtValue.ortvalue_from_shape_and_type([len(rgb), *shapes[name][1:]], np.float32, device, 0)
            for name in output_names
        }
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)

    def run(self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """The outputs of a full batch."""
        for name, array in ((RGB_INPUT, rgb), (DEPTH_INPUT, depth)):
            self._inputs[name].update_inplace(np.ascontiguousarray(array))
        self._session.run_with_iobinding(self._binding)
        return {name: np.array(value.numpy()) for name, value in self._outputs.items()}


def load_onnxruntime(device: Device) -> ModuleType:
    """Import ONNX Runtime for `device`.

    Raises:
        MissingPackageError: it is not installed, or has no CUDA provider.
    """
    ort = require("onnxruntime", extra="runtime" if device == "cpu" else "gpu")
    both = len(installed("onnxruntime")) > 1
    if device == "cuda" and PROVIDERS["cuda"] not in ort.get_available_providers():
        if both:
            raise MissingPackageError(
                "both onnxruntime and onnxruntime-gpu are installed in the same folder, and the one without CUDA is imported. "
                f"Install only one: {INSTALL_GPU}"
            )
        step = ON_JETSON if is_jetson() else f"Install it: {INSTALL_GPU}"
        raise MissingPackageError(f"onnxruntime-gpu is not installed. {step}")
    if both:
        _warn_of_two_packages()
    if device == "cuda" and hasattr(ort, "preload_dlls"):
        # CUDA and cuDNN of the nvidia-* wheels are not on the library path. preload_dlls prints what is missing: not to stdout.
        with contextlib.redirect_stdout(sys.stderr):
            ort.preload_dlls()
    return ort


def new_session(
    ort: ModuleType,
    path: Path,
    *,
    provider: str,
    provider_options: Mapping[str, str] | None = None,
    num_threads: int | None = None,
) -> Any:
    """A session on one provider, without fallback.

    Raises:
        UserError: the file does not load, or one of its nodes would run on another provider.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Without spinning, the live loop's other threads get more CPU time: p99 is 34 instead of 63 ms on shared cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if provider != PROVIDERS["cpu"]:
        # Otherwise a provider that does not load, or lacks an operator, is silently replaced by the CPU.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    elif eight_bits_saturate():
        # Otherwise accuracy fell from 90 to 32 %. With this option, nodes between Q and DQ run in FP32. The exact 8-bit kernels
        # (session.x64quantprecision) are no alternative: with them, ONNX Runtime 1.32 does not load some INT8 files.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if num_threads is not None:
        options.intra_op_num_threads = num_threads
    try:
        return ort.InferenceSession(
            path_or_bytes(path), options, providers=[(provider, dict(provider_options or {}))], enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        device: Device = "cpu" if provider == PROVIDERS["cpu"] else "cuda"
        raise UserError(
            f"ONNX Runtime {ort.__version__} cannot load {path} on {provider}: {_one_sentence(error)}. "
            f"{_next_step(error, device)}"
        ) from error


def _one_sentence(error: Exception) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__


def _next_step(error: Exception, device: Device) -> str:
    """What to do about an error from ONNX Runtime."""
    if device == "cpu":
        return "Install a newer ONNX Runtime: pip install --upgrade onnxruntime; or export again: edgefuse export RUN --out BUNDLE"
    if _OUT_OF_MEMORY.search(str(error)):
        return (
            "The GPU is out of memory: end other programs that use it (nvidia-smi lists them), or run on the CPU: "
            "--engine cpu"
        )
    return "Check nvidia-smi, or run on the CPU: --engine cpu"


def _check_provider(session: Any, provider: str, *, where: str) -> None:
    """Refuse a session that runs on another provider than requested."""
    used = session.get_providers()
    if used[0] != provider:
        step = (
            "install onnxruntime again"
            if provider == PROVIDERS["cpu"]
            else f"the CUDA or cuDNN libraries of that version are missing. Install them: {INSTALL_GPU}, or run on the CPU: "
            f"--engine cpu"
        )
        raise UserError(f"{where} runs on {used[0]} instead of {provider}: {step}")


def _tensor(value: Any) -> Tensor:
    """An input or output, with ONNX Runtime's type "tensor(float)" as NumPy's "float32"."""
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    dtype = {"float": "float32", "double": "float64"}.get(kind, kind)
    return Tensor(name=value.name, dtype=dtype, shape=tuple(value.shape))


def _batch_size(session: Any, device: Device) -> int | None:
    found = session.get_inputs()[0].shape[0]
    return found if isinstance(found, int) else 1 if device == "cuda" else None


def _warn_of_two_packages() -> None:
    """Both packages install into the same folder, which breaks CUDA (onnxruntime#26996)."""
    warnings.warn(
        "both onnxruntime and onnxruntime-gpu are installed, which breaks CUDA: "
        "pip uninstall -y onnxruntime onnxruntime-gpu, then install one of them",
        stacklevel=3,
    )


def eight_bits_saturate(machine: str | None = None, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether sums of 8-bit products may overflow 16 bits in the CPU provider's default kernels: on x86 without VNNI."""
    if (machine or platform.machine()).lower() not in ("x86_64", "amd64"):
        return False
    try:
        return "vnni" not in cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
