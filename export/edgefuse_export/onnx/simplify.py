"""Makes an exported graph faster without changing what it computes.

It removes splits of a concatenation and the shape arithmetic that a parser adds to slices, and gives each layer a bias of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgefuse.errors import require

INT32 = np.iinfo(np.int32)


def simplify(model: Any) -> None:
    """Simplify an `onnx.ModelProto` in place. Every output keeps its name and its values."""
    onnx = require("onnx", extra="export")
    graph = model.graph
    _name_modules(graph)
    _without_splits(onnx, graph)
    _slices_in_int32(onnx, graph)
    _own_biases(graph)
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    _keep(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in used])


def _name_modules(graph: Any) -> None:
    """Give a Split, for which torch's exporter stores no module, that of the node whose output it splits."""
    made_by = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type == "Split" and not node.metadata_props and node.input[0] in made_by:
            node.metadata_props.extend(made_by[node.input[0]].metadata_props)


def _without_splits(onnx: Any, graph: Any) -> None:
    """Where a concatenation is split into its parts again, the parts are read directly."""
    sizes = {value.name: value.type.tensor_type.shape.dim for value in (*graph.input, *graph.value_info)}
    made_by = {name: node for node in graph.node for name in node.output}
    outputs = {value.name for value in graph.output}
    same: dict[str, str] = {}
    for node in graph.node:
        source = made_by.get(node.input[0]) if node.op_type == "Split" else None
        if source is None or source.op_type != "Concat" or outputs.intersection(node.output):
            continue
        axis = _attribute(onnx, node, "axis", 0)
        of_each = [
            [sizes[name][axis].dim_value if name in sizes else None for name in names]
            for names in (source.input, node.output)
        ]
        if axis == _attribute(onnx, source, "axis", 0) and of_each[0] == of_each[1] and None not in of_each[0]:
            same.update(zip(node.output, source.input, strict=True))
    for node in graph.node:
        node.input[:] = [same.get(name, name) for name in node.input]
    used = {name for node in graph.node for name in node.input} | outputs
    _keep(graph.node, [node for node in graph.node if used.intersection(node.output)])
    _keep(graph.value_info, [value for value in graph.value_info if value.name not in same])


def _slices_in_int32(onnx: Any, graph: Any) -> None:
    """Give every Slice all of its parameters, in INT32.

    TensorRT-RTX turns INT64 ones into 26 layers of shape arithmetic on constants, and INT32 ones into none.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        parameters = [constants.get(name) for name in node.input[1:]] if node.op_type == "Slice" else []
        if len(parameters) < 3 or None in parameters:
            continue
        values = [onnx.numpy_helper.to_array(tensor) for tensor in parameters]
        values += [np.ones_like(values[0])] * (4 - len(values))  # steps
        for index, value in enumerate(values):
            array = value.clip(INT32.min, INT32.max).astype(np.int32)
            name = "int32_" + "_".join(map(str, array.tolist()))
            if name not in constants:
                constants[name] = onnx.numpy_helper.from_array(array, name)
                graph.initializer.append(constants[name])
            node.input[index + 1 :] = [name, *node.input[index + 2 :]]


def _own_biases(graph: Any) -> None:
    """Give every convolution a bias that no other node reads.

    torch's exporter stores equal tensors once, and two backbones from the same pretrained weights have equal biases. OpenVINO then adds
    each of them in a pass of its own over the layer's output: a tenth of the time of two MobileNetV2 at 128 px.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    read: set[str] = set()
    for number, node in enumerate(graph.node):
        if node.op_type != "Conv" or len(node.input) < 3 or node.input[2] not in constants:
            continue
        bias = constants[node.input[2]]
        if bias.name in read:
            copy = graph.initializer.add()
            copy.CopyFrom(bias)
            node.input[2] = copy.name = f"{bias.name}_of_node_{number}"
        read.add(node.input[2])


def _attribute(onnx: Any, node: Any, name: str, default: int) -> int:
    return next((onnx.helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)


def _keep(field: Any, kept: list[Any]) -> None:
    """Replace the contents of a repeated field of a protobuf message."""
    kept = [type(one).FromString(one.SerializeToString()) for one in kept]  # a deleted message loses its contents
    del field[:]
    field.extend(kept)
