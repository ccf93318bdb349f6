"""NVIDIA's parser and builder (TensorRT-RTX) on an ONNX file, and what a parsed network must have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from export_runs import CONTRACT

from edgefuse.contract import DEPTH_INPUT, RGB_INPUT
from edgefuse_export.onnx.check_precision import inside, module_of
from edgefuse_export.tensorrt.build_log import Journal
from edgefuse_export.tensorrt.plan_from_onnx import BuiltPlan, new_logger, plan_from_onnx, typing_for
from edgefuse_runtime.engines.tensorrt_library import RTX, load_library

SHAPES = {RGB_INPUT: (1, CONTRACT.size, CONTRACT.size, 3), DEPTH_INPUT: (1, CONTRACT.size, CONTRACT.size, 2)}


def built(path: Path, *, precision: str, targets: Sequence[str]) -> BuiltPlan:
    """The plan that `edgefuse build --engine rtx` builds.

    Args:
        targets: compute capabilities, such as "8.9".
    """
    library = load_library(RTX)
    with Journal(path.with_suffix(".log")) as journal:
        return plan_from_onnx(
            path,
            library=library,
            typing=typing_for(library=library, precision=precision),
            precision=precision,
            shapes=SHAPES,
            workspace_mib=64,
            optimization_level=3,
            timing_cache=None,
            targets=targets,
            journal=journal,
            logger=new_logger(library, journal),
        )


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer of a parsed network.

    Attributes:
        kind, dtype: of the layer and of its first output, such as "CONVOLUTION" and "HALF".
        module: of the PyTorch model; "" = the classifier itself.
        inputs: the layers that compute its inputs; None = an input of the network.
        readers: the layers that read its first output.
    """

    name: str
    kind: str
    dtype: str
    module: str
    inputs: list[Layer | None]
    readers: list[Layer]


def parsed(path: Path) -> tuple[list[Layer], dict[str, tuple[str, tuple[int, ...]]]]:
    """The layers of a file in topological order, and its inputs: name -> type, shape."""
    import tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(path)), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    modules = {node.name: module_of(node) or "" for node in onnx.load(str(path)).graph.node}
    layers: list[Layer] = []
    makers: dict[str, Layer] = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        node = re.search(r"\[ONNX Layer: ([^\]]+)\]", layer.metadata)
        taken = [layer.get_input(number) for number in range(layer.num_inputs)]
        found = Layer(
            name=layer.name,
            kind=layer.type.name,
            dtype=layer.get_output(0).dtype.name,
            module=modules.get(node.group(1), "") if node else "",
            inputs=[makers.get(tensor.name) for tensor in taken if tensor is not None],
            readers=[],
        )
        for maker in found.inputs:
            if maker is not None:
                maker.readers.append(found)
        makers.update({layer.get_output(number).name: found for number in range(layer.num_outputs)})
        layers.append(found)
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    return layers, {tensor.name: (tensor.dtype.name, tuple(tensor.shape)) for tensor in inputs}


def wrong_precisions(layers: Sequence[Layer], *, precision: str, fp32_modules: Sequence[str]) -> list[str]:
    """The layers whose precision is not that of the file, as text."""
    wrong = []
    for layer in layers:
        is_kept = inside(layer.module, fp32_modules)
        is_learned = layer.kind in ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
        expected = "HALF" if precision == "fp16" and is_learned and not is_kept else "FLOAT"
        has_type = is_learned or is_kept or layer.kind == "SOFTMAX"
        if has_type and layer.dtype in ("HALF", "FLOAT", "BF16") and layer.dtype != expected:
            wrong.append(f"{layer.name} ({layer.kind} in {layer.module}) is {layer.dtype}, {expected} was expected")
        if precision == "int8" and is_learned and not is_kept:
            wrong += _unquantised(layer)
    return wrong


def _unquantised(layer: Layer) -> list[str]:
    """Inputs and outputs of a quantised layer that are not between Q and DQ, which TensorRT then cannot fuse."""
    data, weights = layer.inputs[:2]
    (after,) = layer.readers if layer.kind == "CONVOLUTION" else layer.readers[0].readers  # a bias follows a product
    found = {
        "data": _kinds(data),
        "weights": _kinds(weights),
        "output": f"{after.kind} {after.dtype}, {', '.join(reader.kind for reader in after.readers)}",
    }
    expected = {
        "data": "DEQUANTIZE, QUANTIZE INT8",
        "weights": "DEQUANTIZE, CONSTANT INT8",
        "output": "QUANTIZE INT8, DEQUANTIZE",
    }
    return [f"{layer.name}: {what} {found[what]}" for what in expected if found[what] != expected[what]]


def _kinds(layer: Layer | None) -> str:
    """A layer, and the one before it."""
    before: Any = layer.inputs[0] if layer is not None else None
    return "none" if layer is None or before is None else f"{layer.kind}, {before.kind} {before.dtype}"
