"""Inference engines. `open_engine` opens the one named by `--engine`, with the bundle's file for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefuse.errors import UserError

if TYPE_CHECKING:
    from edgefuse.bundle import Bundle
    from edgefuse_runtime.engines.engine import Engine

MAX_THREADS = 4096
GPU_WORDS = ("tensorrt", "rtx", "cuda")
WORDS = ("auto", *GPU_WORDS, "openvino", "cpu")
"""Values of `--engine`. "openvino:PRECISION" is one too."""


def open_engine(
    bundle: Bundle,
    *,
    file: str | None = None,
    engine: str = "auto",
    num_threads: int | None = None,
    adaptive: float | None = None,
) -> Engine:
    """The engine for a bundle. `with` loads it and logs what "auto" chose and why.

    Args:
        file: name of an ONNX file of the bundle; None = the best for the engine: FP16 on a GPU if the bundle has it, FP32 on
            the CPU. For TensorRT and TensorRT-RTX, a plan of the same precision is used.
        engine: "tensorrt", "rtx" (TensorRT-RTX), "cuda" (ONNX Runtime), "openvino" or "cpu" (ONNX Runtime): that engine or an
            error. "auto": the first of them, in this order, that works on this machine. "openvino:fp32", "openvino:bf16" and
            "openvino:int8" fix the precision; otherwise times measured on this machine decide (`measured_times`).
        num_threads: CPU threads; see `OnnxRuntimeEngine`.
        adaptive: probability from which depth alone answers, on an engine of the CPU in FP32 or bfloat16; None = the complete model
            for every pair.

    Raises:
        UserError: an unknown engine or file, a number of threads out of range, or `adaptive` with another engine or file, out of
            range, or with a bundle that was exported without it.
    """
    from edgefuse.adaptive import FILES
    from edgefuse_runtime.engines.auto_engine import AutoEngine

    _check_word(engine)
    if num_threads is not None and not 1 <= num_threads <= MAX_THREADS:
        raise UserError(f"the number of threads is {num_threads}: 1 to {MAX_THREADS} was expected")
    models = [name for name in bundle.manifest.files if name.endswith(".onnx") and name not in FILES]
    if file is not None and file not in models:
        raise UserError(f"{bundle.folder} has no model file {file!r}; it has {', '.join(models) or 'none'}")
    words: tuple[str, ...] = (engine,)
    reasons: dict[str, str] = {}
    if engine in ("auto", "openvino"):
        on_cpu, reasons = _words_on_cpu(bundle, file=file, num_threads=num_threads)
        is_openvino = [word for word in on_cpu if word.startswith("openvino")] or ["openvino"]
        words = (*GPU_WORDS, *on_cpu) if engine == "auto" else tuple(is_openvino)
    if adaptive is not None:
        words = _adaptive_words(words, file=file, engine=engine)
    candidates = {word: _engine(bundle, word, file=file, num_threads=num_threads, adaptive=adaptive) for word in words}
    return AutoEngine(bundle, candidates=candidates, reasons=reasons)


def _check_word(engine: str) -> None:
    from edgefuse_runtime.engines.openvino import PRECISIONS

    name, _, precision = engine.partition(":")
    if name not in WORDS or (engine != name and (name != "openvino" or precision not in PRECISIONS)):
        raise UserError(
            f"engine {engine!r} is unknown: one of {', '.join(WORDS)} was expected, or openvino:{'|'.join(PRECISIONS)}"
        )


def _words_on_cpu(
    bundle: Bundle, *, file: str | None, num_threads: int | None
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The engines of the CPU in the order in which to try them, and the reason for each."""
    from edgefuse_runtime.engines.measured_times import DEFAULT_ORDER, choose

    if file is not None:
        return DEFAULT_ORDER, {}
    choice = choose(bundle, num_threads=num_threads)
    return choice.words, dict(choice.reasons)


def _adaptive_words(words: tuple[str, ...], *, file: str | None, engine: str) -> tuple[str, ...]:
    """Those of the engines that run the two files of adaptive computing.

    Raises:
        UserError: none of them does, or a file is given.
    """
    from edgefuse.adaptive import FILES
    from edgefuse.bundle import MODEL_NAME

    if file not in (None, MODEL_NAME):
        raise UserError(
            f"--adaptive runs {' and '.join(FILES)}, but {file} was requested: leave out --file or --adaptive"
        )
    found = tuple(word for word in words if word not in GPU_WORDS and not word.endswith(":int8"))
    if engine == "openvino" and not found:  # INT8 was measured to be the fastest here
        return ("openvino:fp32",)
    if not found:
        raise UserError(
            f"--adaptive runs on the CPU in FP32 or bfloat16, not with --engine {engine}: use --engine cpu, openvino or "
            "openvino:bf16, or leave out --adaptive"
        )
    return found


def _engine(bundle: Bundle, word: str, *, file: str | None, num_threads: int | None, adaptive: float | None) -> Engine:
    from edgefuse.bundle import MODEL_NAME
    from edgefuse_runtime.engines.adaptive import AdaptiveEngine
    from edgefuse_runtime.engines.onnxruntime import OnnxRuntimeEngine
    from edgefuse_runtime.engines.openvino import OpenVinoEngine
    from edgefuse_runtime.engines.tensorrt import TensorRTEngine
    from edgefuse_runtime.engines.tensorrt_library import RTX, TENSORRT

    if adaptive is not None:
        return AdaptiveEngine(bundle, threshold=adaptive, word=word, num_threads=num_threads)
    if word in ("tensorrt", "rtx"):
        precision = None if file is None else bundle.manifest.files[file].precision
        return TensorRTEngine(bundle, precision=precision, product=RTX if word == "rtx" else TENSORRT)
    if word == "cuda":
        return OnnxRuntimeEngine(bundle, file=file or fastest_file(bundle), device="cuda")
    name, _, precision = word.partition(":")
    if name == "openvino":
        return OpenVinoEngine(bundle, file=file, precision=precision or None, num_threads=num_threads)
    return OnnxRuntimeEngine(bundle, file=file or MODEL_NAME, num_threads=num_threads)


def fastest_file(bundle: Bundle) -> str:
    """The bundle's FP16 file, the fastest on a GPU without loss of accuracy; the FP32 file if there is none."""
    from edgefuse.bundle import MODEL_NAME

    for name, entry in bundle.manifest.files.items():
        if name.endswith(".onnx") and entry.precision == "fp16":
            return name
    return MODEL_NAME
