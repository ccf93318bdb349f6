"""The INT8 file: convolutions and matrix products between QuantizeLinear and DequantizeLinear, ranges from real frames.

Symmetric and per channel, because TensorRT takes nothing else. There is no calibration on random pictures: ranges of noise
are the ranges of nothing that the model will see.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgefuse.contract import DEPTH_INPUT, RGB_INPUT
from edgefuse.errors import UserError, require
from edgefuse_export.frames import Frames
from edgefuse_export.typed import inside, module_of

OPERATORS = ("Conv", "Gemm", "MatMul")
"""Where the arithmetic is. Sigmoid, softmax and the gate's products stay in FP32: they cost nothing, and decide."""

SETTINGS = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
"""With these every zero point is 0; the defaults of ONNX Runtime give others, which TensorRT refuses."""


def int8_from_onnx(path: Path, *, frames: Frames, fp32_modules: Sequence[str], scratch: Path) -> Any:
    """Quantise an FP32 file.

    Args:
        path: the FP32 ONNX file, with its nodes' modules (as `onnx_from_model` writes it).
        frames: real frames, which decide the ranges.
        fp32_modules: modules that are left in FP32.
        scratch: a folder for files that are of no use afterwards.

    Returns:
        An `onnx.ModelProto`.

    Raises:
        UserError: no frames, or nothing that could be quantised.
    """
    onnx = require("onnx", extra="export")
    require("onnxruntime", extra="runtime")
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    if not len(frames.rgb):
        raise UserError("there are no frames to calibrate on: INT8 needs some of the run's training data")
    model = onnx.load(str(path))
    nodes = [node.name for node in model.graph.node if _is_quantised(node, fp32_modules)]
    if not nodes:
        raise UserError(f"{path.name} has nothing to quantise outside of {', '.join(fp32_modules)}")
    quantised = scratch / "quantised.onnx"
    with _quiet():
        quantize_static(
            model,
            str(quantised),
            _Reader(frames),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(OPERATORS),
            nodes_to_quantize=nodes,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            calibration_providers=["CPUExecutionProvider"],
            extra_options=dict(SETTINGS),
        )
    found = onnx.load(str(quantised))
    quantised.unlink()
    return found


def describe_calibration(frames: Frames) -> dict[str, Any]:
    """What a manifest says about the frames that decided the ranges."""
    return {"num_frames": len(frames.rgb), "sha256": frames.digest(), "from": "training data", "method": "min-max"}


def _is_quantised(node: Any, fp32_modules: Sequence[str]) -> bool:
    return node.op_type in OPERATORS and not inside(module_of(node) or "", fp32_modules)


class _Reader:
    """ONNX Runtime's way to be given frames: a dictionary a call, then None."""

    def __init__(self, frames: Frames) -> None:
        self._feeds = iter(
            {RGB_INPUT: frames.rgb[i : i + 1], DEPTH_INPUT: frames.depth[i : i + 1]} for i in range(len(frames.rgb))
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser logs advice about pre-processing through the root logger."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
