"""The INT8 file: convolutions and matrix products between QuantizeLinear and DequantizeLinear, with ranges from real frames.

Quantisation is symmetric and per channel, the only kind that TensorRT supports. Random images are never used for calibration:
their ranges are not those of the model's inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgefuse.errors import UserError, require
from edgefuse.io.workers import map_in_threads
from edgefuse.progress import Progress, no_progress
from edgefuse_export.onnx.activation_statistics import OnnxActivationObserver
from edgefuse_export.onnx.calibration_data import Frames
from edgefuse_export.onnx.check_precision import inside, module_of

OPERATORS = ("Conv", "Gemm", "MatMul")
"""Quantised operators. Sigmoid, softmax and the gate's products stay in FP32: they are cheap and sensitive to rounding."""

SETTINGS = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
"""With these every zero point is 0, as TensorRT requires; the defaults of ONNX Runtime are asymmetric."""

ACTIVATIONS = ("Relu", "Clip")
"""Operators that clip the output of a layer."""


def measured_ranges(
    path: Path, *, frames: Frames, num_threads: int = 1, progress: Progress = no_progress
) -> dict[str, float]:
    """The largest magnitude of each tensor of an FP32 file that may be quantised, over real frames.

    An output that only an activation consumes gets the range *after* the activation: values outside are clipped there in any
    case, so they saturate to the same value, and the 8 bits cover the remaining range. MobileNetV2's first layers output
    values of 30 and more before an activation that clips at 6.

    Args:
        num_threads: frames that run at the same time.
        progress: called with (frames done, frames in total).

    Raises:
        UserError: no frames.
    """
    if not len(frames.rgb):
        raise UserError("there are no frames to calibrate on: INT8 needs frames of the run's training data")
    measured_at: dict[str, str] = {}  # tensor -> the one whose range it gets
    for node in require("onnx_ir", extra="export").load(path).graph:
        if node.op_type in OPERATORS:
            measured_at |= {value.name: value.name for value in node.inputs if value is not None}
            following = [use.node for use in node.outputs[0].uses()]
            clips = len(following) == 1 and following[0].op_type in ACTIVATIONS
            measured_at[node.outputs[0].name] = (following[0] if clips else node).outputs[0].name
    observer = OnnxActivationObserver(path, only=set(measured_at.values()))
    pairs = [(frames.rgb[i : i + 1], frames.depth[i : i + 1]) for i in range(len(frames.rgb))]
    for done, _ in enumerate(map_in_threads(lambda pair: observer(*pair), pairs, num_threads=num_threads), start=1):
        progress(done, len(pairs))
    return {name: observer.largest[tensor] for name, tensor in measured_at.items() if tensor in observer.largest}


def quantised_modules(path: Path) -> set[str]:
    """The modules of an FP32 file that have operators to quantise."""
    graph = require("onnx", extra="export").load(str(path)).graph
    return {module_of(node) or "" for node in graph.node if node.op_type in OPERATORS}


def int8_from_onnx(
    path: Path, *, ranges: Mapping[str, float], fp32_modules: Sequence[str], only: Sequence[str] | None = None
) -> Any:
    """Quantise an FP32 file.

    Args:
        path: the FP32 ONNX file, as `onnx_from_model` writes it: its nodes name their modules.
        ranges: from `measured_ranges`.
        fp32_modules: modules that stay in FP32.
        only: quantise only these of the other modules; None = all.

    Returns:
        An `onnx.ModelProto`.

    Raises:
        UserError: the file has nothing to quantise.
    """
    onnx = require("onnx", extra="export")
    require("onnxruntime", extra="runtime")
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData

    model = onnx.load(str(path))
    nodes = [node.name for node in model.graph.node if is_quantised(node, fp32_modules, only)]
    if not nodes:
        raise UserError(f"{path.name} has nothing to quantise outside {', '.join(fp32_modules)}")
    limits = {name: (np.array(-x, np.float32), np.array(x, np.float32)) for name, x in ranges.items()}
    quantizer = QDQQuantizer(
        model,
        True,  # one scale per channel of the weights
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
    _keep_behind_concatenations(quantizer.model.model)
    return quantizer.model.model


def _keep_behind_concatenations(model: Any) -> None:
    """Put a maximum that changes nothing between each concatenation and the QuantizeLinear behind it: the smallest value of INT8.

    OpenVINO (2026.4.1) otherwise moves the QuantizeLinear in front of the concatenation, to each of its inputs, and what the convolution
    behind it computes is then wrong: by 0.5 in probability for a depth backbone, whose input is a concatenation.
    """
    onnx = require("onnx", extra="export")
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}

    def is_concatenated(name: str) -> bool:
        node = made_by.get(name)
        if node is None or node.op_type in OPERATORS:
            return False
        variable = [one for one in node.input if one and one not in constants]
        return node.op_type == "Concat" or (len(variable) == 1 and is_concatenated(variable[0]))

    for number, node in reversed(list(enumerate(graph.node))):
        if node.op_type != "QuantizeLinear" or not is_concatenated(name := node.input[0]):
            continue
        least = -128 * onnx.numpy_helper.to_array(constants[node.input[1]])
        graph.initializer.append(onnx.numpy_helper.from_array(least, f"{name}_least"))
        node.input[0] = f"{name}_at_least"
        graph.node.insert(number, onnx.helper.make_node("Max", [name, f"{name}_least"], [node.input[0]], node.input[0]))


def describe_calibration(frames: Frames) -> dict[str, Any]:
    """The manifest's description of the calibration frames."""
    return {"num_frames": len(frames.rgb), "sha256": frames.digest(), "from": "training data", "method": "min-max"}


def is_quantised(node: Any, fp32_modules: Sequence[str], only: Sequence[str] | None) -> bool:
    """Whether `int8_from_onnx` quantises a node."""
    module = module_of(node) or ""
    return node.op_type in OPERATORS and not inside(module, fp32_modules) and (only is None or inside(module, only))
