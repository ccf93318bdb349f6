"""Checks the precision of the layers, as parsed and in the engine, and the size of the plan.

A builder may return an FP32 engine although FP16 was requested, without a warning (rf-detr #1453, TensorRT #3160), or a plan with
gigabytes of zeros (TensorRT #4841). The parsed network can be read on any machine, the engine only on a GPU.
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

ALLOWED_SIZE = 2
"""Most bytes of a plan for each byte of its ONNX file, beyond `ALLOWED_OVERHEAD`."""

ALLOWED_OVERHEAD = 32 << 20
"""Bytes of a plan that do not depend on the weights: layers and kernels.

Measured with TensorRT-RTX 1.7.1, in bytes beyond twice the ONNX file: 16 MB (INT8, 3201 parsed layers: two EfficientNet-B0), 14 MB
(INT8, two MobileNetV3-Small), 5 MB (INT8) and 1 MB (FP16) with tiny backbones. FP32 and FP16 files of torchvision networks stay below
1.7 times their size."""

_LEARNED = ("convolution", "deconvolution", "matrix_multiply")
"""The layers of a parsed network that have weights, or multiply like those."""

_COPIES = frozenset({"reformat", "noop", "constant", "cast", "signal", "wait"})
"""Layer types that only move or convert values."""


class PrecisionError(UserError):
    """The engine does not run in the requested precision."""


class PlanSizeError(UserError):
    """The plan is too large for its ONNX file; it was discarded."""


ParsedLayers = dict[str, dict[str, int]]
"""Type of the first output ("half", "float", "int8", ...) -> kind of layer ("convolution", ...) -> number of layers."""


def parsed_layers(library: Library, network: trt.INetworkDefinition) -> ParsedLayers:
    """Count the layers of a parsed network, without constants."""
    trt = library.module
    counts: dict[str, Counter[str]] = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.num_outputs and layer.type != trt.LayerType.CONSTANT:
            counts.setdefault(layer.get_output(0).dtype.name.lower(), Counter())[layer.type.name.lower()] += 1
    return {dtype: dict(sorted(kinds.items())) for dtype, kinds in sorted(counts.items())}


def check_parsed_precision(parsed: ParsedLayers, *, precision: str, file: str) -> None:
    """Reject, before the build, a strongly typed network without layers in its precision.

    Raises:
        PrecisionError: no convolution and no matrix multiplication in FP16, or no quantised tensor in INT8.
    """
    missing = ""
    if precision == "fp16" and not any(parsed.get("half", {}).get(kind) for kind in _LEARNED):
        missing = "no convolution and no matrix multiplication in FP16"
    if precision == "int8" and not parsed.get("int8", {}).get("quantize"):
        missing = "no QuantizeLinear to INT8"
    if missing:
        raise PrecisionError(
            f"{file} has {missing} (layers: {in_words(parsed)}), so no engine was built: export again: edgefuse export RUN --out "
            f"BUNDLE --precision fp32,{precision} --force; or build with --precision fp32"
        )


def in_words(parsed: ParsedLayers) -> str:
    """The layers with weights by type, and the number of others: "half 12 convolution, 5 matrix_multiply, 30 others; ..."."""
    parts = []
    for dtype, kinds in parsed.items():
        shown = (*_LEARNED, "softmax", "quantize", "dequantize")
        counts = [f"{kinds[kind]} {kind}" for kind in shown if kind in kinds]
        others = sum(number for kind, number in kinds.items() if kind not in shown)
        parts.append(f"{dtype} {', '.join([*counts, *([f'{others} others'] if others else [])])}")
    return "; ".join(parts)


def check_plan_size(num_bytes: int, *, onnx_bytes: int, file: str, title: str) -> None:
    """Reject a plan that is much larger than its ONNX file.

    Args:
        title: name and version of the library that built it.

    Raises:
        PlanSizeError: with both sizes, and what to try.
    """
    most = ALLOWED_SIZE * onnx_bytes + ALLOWED_OVERHEAD
    if num_bytes > most:
        raise PlanSizeError(
            f"the plan has {num_bytes / 1e6:.1f} MB, but {file} has {onnx_bytes / 1e6:.1f} MB and at most {most / 1e6:.1f} MB were "
            f"expected, so it was discarded: {title} may have padded it (TensorRT #4841). Build with another version of the library, "
            f"another --optimization-level or --precision fp32; or run the bundle without a plan: edgefuse live BUNDLE --engine cuda, or cpu"
        )


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
