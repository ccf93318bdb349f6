"""The INT8 file: convolutions and matrix products between QuantizeLinear and DequantizeLinear, ranges from real frames.

Symmetric and per channel, because TensorRT takes nothing else. There is no calibration on random pictures: ranges of noise
are the ranges of nothing that the model will see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgefuse.errors import UserError, require
from edgefuse_export.onnx.activation_statistics import OnnxActivationObserver
from edgefuse_export.onnx.calibration_data import Frames
from edgefuse_export.onnx.check_precision import inside, module_of

OPERATORS = ("Conv", "Gemm", "MatMul")
"""Where the arithmetic is. Sigmoid, softmax and the gate's products stay in FP32: they cost nothing, and decide."""

SETTINGS = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
"""With these every zero point is 0; the defaults of ONNX Runtime give others, which TensorRT refuses."""


ACTIVATIONS = ("Relu", "Clip")
"""What cuts off a layer's result before the next layer sees it."""


def measured_ranges(path: Path, *, frames: Frames) -> dict[str, float]:
    """The largest magnitude of each tensor of an FP32 file over real frames.

    A layer's result that nothing but an activation takes gets the range *behind* the activation: what lies outside is cut
    off there anyhow, so it saturates to the same value, and the 8 bits are spent on what remains. MobileNetV2's first
    layers give values of 30 and more to an activation that ends at 6.

    Raises:
        UserError: no frames.
    """
    if not len(frames.rgb):
        raise UserError("there are no frames to calibrate on: INT8 needs some of the run's training data")
    observer = OnnxActivationObserver(path)
    for i in range(len(frames.rgb)):
        observer(frames.rgb[i : i + 1], frames.depth[i : i + 1])
    ranges = dict(observer.largest)
    for node in require("onnx_ir", extra="export").load(path).graph:
        behind = [use.node for use in node.outputs[0].uses()] if node.op_type in OPERATORS else []
        if len(behind) == 1 and behind[0].op_type in ACTIVATIONS:
            ranges[node.outputs[0].name] = ranges[behind[0].outputs[0].name]
    return ranges


def quantised_modules(path: Path) -> set[str]:
    """The modules of an FP32 file that have something to quantise."""
    graph = require("onnx", extra="export").load(str(path)).graph
    return {module_of(node) or "" for node in graph.node if node.op_type in OPERATORS}


def int8_from_onnx(
    path: Path, *, ranges: Mapping[str, float], fp32_modules: Sequence[str], only: Sequence[str] | None = None
) -> Any:
    """Quantise an FP32 file.

    Args:
        path: the FP32 ONNX file, with its nodes' modules (as `onnx_from_model` writes it).
        ranges: of `measured_ranges`.
        fp32_modules: modules that are left in FP32.
        only: of the others, those that are quantised; None = all.

    Returns:
        An `onnx.ModelProto`.

    Raises:
        UserError: nothing that could be quantised.
    """
    onnx = require("onnx", extra="export")
    require("onnxruntime", extra="runtime")
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData

    model = onnx.load(str(path))
    nodes = [node.name for node in model.graph.node if _is_quantised(node, fp32_modules, only)]
    if not nodes:
        raise UserError(f"{path.name} has nothing to quantise outside of {', '.join(fp32_modules)}")
    limits = {name: (np.array(-x, np.float32), np.array(x, np.float32)) for name, x in ranges.items()}
    quantizer = QDQQuantizer(
        model,
        True,  # weights have a scale a channel
        False,
        QuantType.QInt8,
        QuantType.QInt8,
        TensorsData(CalibrationMethod.MinMax, limits),
        nodes,
        [],
        list(OPERATORS),
        dict(SETTINGS),
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    return quantizer.model.model


def describe_calibration(frames: Frames) -> dict[str, Any]:
    """What a manifest says about the frames that decided the ranges."""
    return {"num_frames": len(frames.rgb), "sha256": frames.digest(), "from": "training data", "method": "min-max"}


def _is_quantised(node: Any, fp32_modules: Sequence[str], only: Sequence[str] | None) -> bool:
    module = module_of(node) or ""
    return node.op_type in OPERATORS and not inside(module, fp32_modules) and (only is None or inside(module, only))
