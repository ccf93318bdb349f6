"""In what precision an engine's layers really run, as TensorRT's engine inspector tells it.

Asking for FP16 does not make an engine FP16: builders have been seen to give FP32 without a word (rf-detr #1453,
TensorRT #3160). Owns reading the inspector's JSON and the count that an engine of each precision must show.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgefuse.errors import UserError

if TYPE_CHECKING:
    import tensorrt as trt

NEEDED = {"fp16": "half", "int8": "int8", "fp32": "float"}
"""Precision asked for -> the kind of layer that must be there."""

# Narrowest first. TensorRT spells inner tensors "Half", bindings "Row major linear FP16 format".
_KINDS = (
    ("fp4", re.compile(r"fp4", re.IGNORECASE)),
    ("fp8", re.compile(r"fp8|e4m3", re.IGNORECASE)),
    ("int8", re.compile(r"(?<!u)int8", re.IGNORECASE)),
    ("half", re.compile(r"half|fp16|(?<!b)float16", re.IGNORECASE)),
    ("bf16", re.compile(r"bf16|bfloat", re.IGNORECASE)),
    ("float", re.compile(r"float|fp32", re.IGNORECASE)),
)
_FORMAT_KEYS = ("Format/Datatype", "DataType", "Datatype")
"""TensorRT 10 says both in one field; its guide to version 11 splits it. Only the first was seen in anyone's output."""

_COPIES = frozenset({"reformat", "noop", "constant", "cast", "signal", "wait"})
"""Layer types that move or convert values and compute nothing."""


class PrecisionError(UserError):
    """The engine does not run in the precision that was asked for."""


def count_layers(plan: bytes, *, logger: trt.ILogger, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """How many layers of a plan compute in which precision.

    Args:
        plan: built by this process, with detailed profiling verbosity.
        shapes: input name -> shape; the inspector tells no formats of dynamic dimensions without them.

    Returns:
        kind -> number of layers: "half", "float", "int8", ..., "copy" (moves values), "other" (no floating input),
        "unknown" (the inspector does not say).

    Raises:
        PrecisionError: TensorRT does not open the plan that it built, or has no memory to run it.
    """
    import tensorrt as trt

    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        raise PrecisionError(
            "TensorRT does not open the plan that it has just built, so it was not kept. Let it build another: remove "
            "BUNDLE/engines/timing-*.cache, or give another --optimization-level"
        )
    context = engine.create_execution_context()
    if context is None:
        raise PrecisionError(
            "the engine was built but there is no GPU memory left to run it, so it was not kept: close what else uses the "
            "GPU (nvidia-smi; on a Jetson: tegrastats), and build again"
        )
    for name, shape in shapes.items():
        context.set_input_shape(name, shape)
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    return layers_by_precision(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def layers_by_precision(text: str) -> dict[str, int]:
    """Count the layers of the inspector's JSON by what they compute on: the narrowest of their floating inputs."""
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise PrecisionError(
            f"TensorRT's inspector gave no list of layers ({error}; it begins {text[:80]!r}), so the engine's precision is not "
            "proved and it was not kept. Report this with TensorRT's version; until then run the bundle with ONNX Runtime: "
            "edgefuse live BUNDLE --engine cuda, or cpu"
        ) from error
    counts: Counter[str] = Counter(_kind_of_layer(layer) for layer in layers)
    return dict(sorted(counts.items()))


def check_precision(counts: Mapping[str, int], *, precision: str) -> None:
    """Refuse an engine that has no layer of its precision.

    Raises:
        PrecisionError: with what it has, and what to try.
    """
    needed = NEEDED[precision]
    if counts.get(needed, 0) > 0:
        return
    found = ", ".join(f"{number} {kind}" for kind, number in counts.items()) or "none at all"
    raise PrecisionError(
        f"the {precision} engine has no {needed} layer (layers: {found}), so it was not kept: TensorRT built something else "
        f"than was asked for. Export again with this precision, or build --precision fp32, which is honest about it"
    )


def _kind_of_layer(layer: Any) -> str:
    if not isinstance(layer, dict):  # names only: the plan was built without detailed verbosity
        return "unknown"
    if str(layer.get("LayerType", "")).lower() in _COPIES:
        return "copy"
    tensors = layer.get("Inputs") or layer.get("Outputs") or []
    formats = [" ".join(str(tensor[key]) for key in _FORMAT_KEYS if tensor.get(key)) for tensor in tensors]
    if not any(formats) or any(text.startswith("N/A") for text in formats):
        return "unknown"
    return next((kind for kind, spelled in _KINDS if any(spelled.search(text) for text in formats)), "other")
