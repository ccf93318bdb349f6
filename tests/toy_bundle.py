"""A small hand-made bundle with a known output for every frame, for tests that open bundles.

score  = mean depth code / FULL_DEPTH_CODE - mean of the red channel / 255
logits = SHARPNESS * score * (-1 ... +1 over the labels)
probabilities = softmax(logits)      with two labels: far and dark = the last, near and red = the first
gate   = mean of the red channel / 255, in every one of its d elements
nearest_m = mean depth code / 1000
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse import bundle
from edgefuse.contract import (
    DEPTH_INPUT,
    GATE_OUTPUT,
    NEAREST_OUTPUT,
    OUTPUTS,
    PROBABILITIES_OUTPUT,
    RGB_INPUT,
    Align,
    InputContract,
    codes_from_bytes,
)
from edgefuse.degraded_mode import DegradedMode

FULL_DEPTH_CODE = 2000.0
SHARPNESS = 8.0


def make_toy_bundle(
    folder: Path,
    *,
    size: int = 32,
    labels: tuple[str, ...] = ("near", "far"),
    gate_width: int = 4,
    align: Align = "color",
    graph_size: int | None = None,
    graph_labels: int | None = None,
    batch: int | str = 1,
    float_inputs: bool = False,
    degraded_mode: DegradedMode | None = None,
    fusion: str = "toy",
    outputs: tuple[str, ...] = OUTPUTS,
) -> bundle.Bundle:
    """Write the bundle into `folder` and open it.

    Args:
        graph_size: input size of the ONNX file; a value other than `size` violates the contract on purpose.
        graph_labels: number of probabilities of the file; a value other than the number of `labels` violates it too.
        batch: first dimension of the inputs; a name makes it dynamic.
        degraded_mode: whether live predicts or abstains if a sensor is missing; None = the default, abstain.
        float_inputs: give the file float32 inputs, which violates the contract on purpose.
        outputs: `OUTPUTS_OF_OLDER_BUNDLES` for one without `nearest_m`.
    """
    import onnx

    folder.mkdir(parents=True, exist_ok=True)
    path, num_labels = folder / bundle.MODEL_NAME, graph_labels or len(labels)
    model = _model(
        graph_size or size, num_labels=num_labels, gate_width=gate_width, batch=batch, float_inputs=float_inputs
    )
    del model.graph.output[len(outputs) :]
    contract = InputContract(size=size, align=align, outputs=outputs)
    metadata = bundle.model_metadata(labels=labels, contract=contract, precision="fp32", temperature=None)
    del metadata["edgefuse.precision"]  # as in older files; some tests use this file as one of another precision
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    manifest = bundle.Manifest(
        labels=labels,
        contract=contract,
        model={"fusion": fusion, "rgb": "mean", "depth": "mean", "width": gate_width, "batch_size": _stated(batch)},
        files={bundle.MODEL_NAME: bundle.FileEntry.of(path, precision="fp32")},
        versions={"onnx": onnx.__version__},
        degraded_mode=degraded_mode if degraded_mode is not None else DegradedMode(),
    )
    bundle.write_manifest(folder, manifest)
    return bundle.open_bundle(folder)


def _stated(batch: int | str) -> int | str:
    return bundle.DYNAMIC_BATCH if isinstance(batch, str) else batch


def toy_answer(
    rgb: NDArray[np.uint8], depth: NDArray[np.uint8], *, num_labels: int = 2
) -> tuple[NDArray[np.float64], float]:
    """The output of the bundle for one framed pair, rgb [S, S, 3] and depth [S, S, 2], in NumPy: probabilities [C], gate."""
    red = rgb[..., 0].mean() / 255.0
    score = codes_from_bytes(depth).astype(np.float64).mean() / FULL_DEPTH_CODE - red
    logits = SHARPNESS * score * np.linspace(-1.0, 1.0, num_labels)
    powers = np.exp(logits - logits.max())
    return powers / powers.sum(), red


def toy_nearest_m(depth: NDArray[np.uint8]) -> float:
    """The distance that the bundle outputs for one framed depth image [S, S, 2]."""
    return float(codes_from_bytes(depth).mean(dtype=np.float64) / 1000)


def _model(size: int, *, num_labels: int, gate_width: int, batch: int | str, float_inputs: bool) -> Any:
    from onnx import TensorProto, helper

    float32 = TensorProto.FLOAT
    taken = float32 if float_inputs else TensorProto.UINT8
    # Per byte and channel: depth = low + 256 * high, red = the first of three; the mean over H and W comes first.
    constants = {
        "depth_weights": np.array([[1.0 / FULL_DEPTH_CODE], [256.0 / FULL_DEPTH_CODE]], np.float32),
        "red_weights": np.array([[1.0 / 255.0], [0.0], [0.0]], np.float32),
        "spread": (SHARPNESS * np.linspace(-1.0, 1.0, num_labels, dtype=np.float32))[np.newaxis],
        "ones": np.ones((1, gate_width), np.float32),
        "metres": np.array(FULL_DEPTH_CODE / 1000, np.float32),
        "height_width": np.array([1, 2], np.int64),
    }
    nodes = [
        helper.make_node("Cast", [RGB_INPUT], ["rgb_float"], to=float32),
        helper.make_node("Cast", [DEPTH_INPUT], ["depth_float"], to=float32),
        helper.make_node("ReduceMean", ["rgb_float", "height_width"], ["rgb_mean"], keepdims=0),
        helper.make_node("ReduceMean", ["depth_float", "height_width"], ["depth_mean"], keepdims=0),
        helper.make_node("MatMul", ["rgb_mean", "red_weights"], ["red"]),
        helper.make_node("MatMul", ["depth_mean", "depth_weights"], ["distance"]),
        helper.make_node("Sub", ["distance", "red"], ["score"]),
        helper.make_node("MatMul", ["score", "spread"], ["logits"]),
        helper.make_node("Softmax", ["logits"], [PROBABILITIES_OUTPUT], axis=1),
        helper.make_node("MatMul", ["red", "ones"], [GATE_OUTPUT]),
        helper.make_node("Mul", ["distance", "metres"], [NEAREST_OUTPUT]),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [
            helper.make_tensor_value_info(RGB_INPUT, taken, [batch, size, size, 3]),
            helper.make_tensor_value_info(DEPTH_INPUT, taken, [batch, size, size, 2]),
        ],
        [
            helper.make_tensor_value_info(PROBABILITIES_OUTPUT, float32, [batch, num_labels]),
            helper.make_tensor_value_info(GATE_OUTPUT, float32, [batch, gate_width]),
            helper.make_tensor_value_info(NEAREST_OUTPUT, float32, [batch, 1]),
        ],
        [_initializer(name, value) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _initializer(name: str, value: NDArray[Any]) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(value, name)
