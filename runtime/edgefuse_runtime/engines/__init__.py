"""Engines: what a bundle runs on, behind one protocol and one way to name it.

Owns the words of `--engine`; the live loop, evaluation and the benchmarks open engines here.
"""

from __future__ import annotations

from edgefuse.bundle import MODEL_NAME, Bundle
from edgefuse.errors import UserError
from edgefuse_runtime.engines.engine import Engine

WORDS = ("auto", "cpu")


def open_engine(
    bundle: Bundle, *, file: str = MODEL_NAME, engine: str = "auto", num_threads: int | None = None
) -> Engine:
    """The engine that runs a bundle's file. Nothing is loaded before `with`.

    Args:
        file: name of a file of the bundle.
        engine: "cpu" = ONNX Runtime on the CPU; "auto" = the best that is there, today the same.
        num_threads: see `OnnxRuntimeEngine`.

    Raises:
        UserError: an unknown engine, or a number of threads below 1.
    """
    from edgefuse_runtime.engines.onnxruntime import OnnxRuntimeEngine

    if engine not in WORDS:
        raise UserError(f"engine {engine!r} is unknown: one of {', '.join(WORDS)} was expected")
    if num_threads is not None and num_threads < 1:
        raise UserError(f"{num_threads} threads were asked for: 1 or more was expected")
    return OnnxRuntimeEngine(bundle, file=file, num_threads=num_threads)
