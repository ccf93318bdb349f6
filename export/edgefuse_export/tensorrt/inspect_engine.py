"""Reads the precision of an engine's layers from TensorRT's engine inspector, and checks it.

A builder may return an FP32 engine although FP16 was requested, without a warning (rf-detr #1453, TensorRT #3160).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgefuse.errors import UserError
from edgefuse_runtime.engines.tensorrt_library import Library

if TYPE_CHECKING:
    import tensorrt as trt

NEEDED = {"fp16": "half", "int8": "int8", "fp32": "float"}
"""Requested precision -> the kind of layer that the engine must have."""

# Narrowest first. TensorRT writes "Half" for inner tensors and "Row major linear FP16 format" for bindings.
_KINDS = (
    ("fp4", re.compile(r"fp4", re.IGNORECASE)),
    ("fp8", re.compile(r"fp8|e4m3", re.IGNORECASE)),
    ("int8", re.compile(r"(?<!u)int8", re.IGNORECASE)),
    ("half", re.compile(r"half|fp16|(?<!b)float16", re.IGNORECASE)),
    ("bf16", re.compile(r"bf16|bfloat", re.IGNORECASE)),
    ("float", re.compile(r"float|fp32", re.IGNORECASE)),
)
_FORMAT_KEYS = ("Format/Datatype", "DataType", "Datatype")
"""TensorRT 10 has one field for both; the guide to version 11 has two. Published outputs have only the first."""

_COPIES = frozenset({"reformat", "noop", "constant", "cast", "signal", "wait"})
"""Layer types that only move or convert values."""


class PrecisionError(UserError):
    """The engine does not run in the requested precision."""


def count_layers(
    plan: bytes, *, library: Library, logger: trt.ILogger, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, int]:
    """Count the layers of a plan by the precision that they compute in.

    Args:
        plan: built by this process with `library`, with detailed profiling verbosity.
        shapes: input name -> shape; without them the inspector reports no formats for dynamic dimensions.

    Returns:
        kind -> number of layers: "half", "float", "int8", ..., "copy" (moves values), "other" (no floating-point input),
        "unknown" (not reported by the inspector).

    Raises:
        PrecisionError: TensorRT does not deserialize the plan that it built, or lacks the memory to run it.
    """
    trt = library.module
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        raise PrecisionError(
            "TensorRT does not deserialize the plan that it has just built, so the plan was discarded. Build again without "
            "BUNDLE/engines/timing-*.cache, or with another --optimization-level"
        )
    context = engine.create_execution_context()
    if context is None:
        raise PrecisionError(
            "the engine was built, but there is not enough GPU memory to run it, so it was discarded: close other programs "
            "that use the GPU (nvidia-smi; on a Jetson: tegrastats), and build again"
        )
    for name, shape in shapes.items():
        context.set_input_shape(name, shape)
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    return layers_by_precision(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def layers_by_precision(text: str) -> dict[str, int]:
    """Count the layers of the inspector's JSON by precision: the narrowest of their floating-point inputs."""
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise PrecisionError(
            f"TensorRT's inspector returned no list of layers ({error}; it begins {text[:80]!r}), so the engine's precision "
            "could not be checked and the engine was discarded. Report this with the version of TensorRT; until then run the "
            "bundle with ONNX Runtime: edgefuse live BUNDLE --engine cuda, or cpu"
        ) from error
    counts: Counter[str] = Counter(_kind_of_layer(layer) for layer in layers)
    return dict(sorted(counts.items()))


def check_precision(counts: Mapping[str, int], *, precision: str) -> None:
    """Reject an engine that has no layer of its precision.

    Raises:
        PrecisionError: with the layers that it has, and what to try.
    """
    needed = NEEDED[precision]
    if counts.get(needed, 0) > 0:
        return
    found = ", ".join(f"{number} {kind}" for kind, number in counts.items()) or "none at all"
    raise PrecisionError(
        f"the {precision} engine has no {needed} layer (layers: {found}), so it was discarded: TensorRT did not use the "
        f"requested precision. Export again with this precision, or build with --precision fp32"
    )


def _kind_of_layer(layer: Any) -> str:
    if not isinstance(layer, dict):  # only names: the plan was built without detailed verbosity
        return "unknown"
    if str(layer.get("LayerType", "")).lower() in _COPIES:
        return "copy"
    tensors = layer.get("Inputs") or layer.get("Outputs") or []
    formats = [" ".join(str(tensor[key]) for key in _FORMAT_KEYS if tensor.get(key)) for tensor in tensors]
    if not any(formats) or any(text.startswith("N/A") for text in formats):
        return "unknown"
    return next((kind for kind, pattern in _KINDS if any(pattern.search(text) for text in formats)), "other")
