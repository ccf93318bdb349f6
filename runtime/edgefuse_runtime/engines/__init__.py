"""Inference engines. `open_engine` opens the one named by `--engine`, with the bundle's file for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefuse.errors import UserError

if TYPE_CHECKING:
    from edgefuse.bundle import Bundle
    from edgefuse_runtime.engines.engine import Engine

MAX_THREADS = 4096
WORDS = ("auto", "tensorrt", "rtx", "cuda", "cpu")


def open_engine(
    bundle: Bundle,
    *,
    file: str | None = None,
    engine: str = "auto",
    num_threads: int | None = None,
) -> Engine:
    """The engine for a bundle. `with` loads it and logs what "auto" chose and why.

    Args:
        file: name of an ONNX file of the bundle; None = the best for the engine: FP16 on a GPU if the bundle has it, FP32 on
            the CPU. For TensorRT and TensorRT-RTX, a plan of the same precision is used.
        engine: "tensorrt", "rtx" (TensorRT-RTX), "cuda" (ONNX Runtime) or "cpu" (ONNX Runtime): that engine or an error.
            "auto": the first of them, in this order, that works on this machine.
        num_threads: CPU threads; see `OnnxRuntimeEngine`.

    Raises:
        UserError: an unknown engine or file, or a number of threads out of range.
    """
    from edgefuse_runtime.engines.auto_engine import AutoEngine

    if engine not in WORDS:
        raise UserError(f"engine {engine!r} is unknown: one of {', '.join(WORDS)} was expected")
    if num_threads is not None and not 1 <= num_threads <= MAX_THREADS:
        raise UserError(f"the number of threads is {num_threads}: 1 to {MAX_THREADS} was expected")
    models = [name for name in bundle.manifest.files if name.endswith(".onnx")]
    if file is not None and file not in models:
        raise UserError(f"{bundle.folder} has no model file {file!r}; it has {', '.join(models) or 'none'}")

    def open_one(word: str) -> Engine:
        return _engine(bundle, word, file=file, num_threads=num_threads)

    words = WORDS[1:] if engine == "auto" else (engine,)
    return AutoEngine(bundle, candidates={word: open_one(word) for word in words})


def _engine(bundle: Bundle, word: str, *, file: str | None, num_threads: int | None) -> Engine:
    from edgefuse.bundle import MODEL_NAME
    from edgefuse_runtime.engines.onnxruntime import OnnxRuntimeEngine
    from edgefuse_runtime.engines.tensorrt import TensorRTEngine
    from edgefuse_runtime.engines.tensorrt_library import RTX, TENSORRT

    if word in ("tensorrt", "rtx"):
        precision = None if file is None else bundle.manifest.files[file].precision
        return TensorRTEngine(bundle, precision=precision, product=RTX if word == "rtx" else TENSORRT)
    if word == "cuda":
        return OnnxRuntimeEngine(bundle, file=file or fastest_file(bundle), device="cuda")
    return OnnxRuntimeEngine(bundle, file=file or MODEL_NAME, num_threads=num_threads)


def fastest_file(bundle: Bundle) -> str:
    """The bundle's FP16 file, the fastest on a GPU without loss of accuracy; the FP32 file if there is none."""
    from edgefuse.bundle import MODEL_NAME

    for name, entry in bundle.manifest.files.items():
        if name.endswith(".onnx") and entry.precision == "fp16":
            return name
    return MODEL_NAME
