"""An ONNX model with inferred types and shapes, as the checks for TensorRT read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from edgefuse.errors import require

TYPE_NAMES = {
    "FLOAT": "FP32",
    "FLOAT16": "FP16",
    "BFLOAT16": "BF16",
    "INT8": "INT8",
    "INT32": "INT32",
    "INT64": "INT64",
    "UINT8": "UINT8",
    "FLOAT8E4M3FN": "FP8",
    "FLOAT4E2M1": "FP4",
    "BOOL": "BOOL",
}
"""Type names of ONNX -> those of the parser's list, if they differ or the list has them."""


class Problem(NamedTuple):
    """A reason why a build would fail: the rule, the node or tensor, and the explanation."""

    rule: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.where}: {self.what}"


class OnnxGraph:
    """A model with inferred types and shapes.

    Attributes:
        hot: the tensors that depend on the inputs.
    """

    def __init__(self, model: Any) -> None:
        onnx = require("onnx", extra="export")
        self.onnx = onnx
        try:
            self.model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        except Exception:  # its tensors then have no type, which `_types` reports
            self.model = model
        graph = self.model.graph
        self.nodes = list(graph.node)
        self.initializers = {value.name: value for value in graph.initializer}
        self.inputs = {value.name: value for value in graph.input if value.name not in self.initializers}
        self.outputs = [value.name for value in graph.output]
        self.values = {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}
        self.hot = set(self.inputs)
        for node in self.nodes:
            if self.hot.intersection(node.input):
                self.hot.update(name for name in node.output if name)

    def type_of(self, tensor: str) -> str:
        """The type's name in the parser's list, or ONNX's name if the list has none; "" if unknown."""
        if tensor in self.initializers:
            number = self.initializers[tensor].data_type
        elif tensor in self.values:
            number = self.values[tensor].type.tensor_type.elem_type
        else:
            number = 0
        if not number:
            return ""
        known = self.onnx.TensorProto.DataType
        name: str = known.Name(number) if number in known.values() else f"type {number}"
        return TYPE_NAMES.get(name, name)

    def constant(self, tensor: str) -> Any:
        """The value of an initializer or of a Constant, as an `onnx.TensorProto`; None if it is computed."""
        constants = {n.output[0]: n.attribute[0].t for n in self.nodes if n.op_type == "Constant" and n.attribute}
        return self.initializers.get(tensor, constants.get(tensor))

    def dimensions(self, tensor: str) -> list[int | str] | None:
        """Each dimension as a number or a name ("?" without one); None if the rank is unknown."""
        value = self.values.get(tensor)
        if value is None or not value.type.tensor_type.HasField("shape"):
            return None
        return [
            dimension.dim_value if dimension.HasField("dim_value") else dimension.dim_param or "?"
            for dimension in value.type.tensor_type.shape.dim
        ]

    def nested_nodes(self) -> Iterator[Any]:
        """All nodes, with those of the bodies of If, Loop and Scan."""
        waiting = list(self.nodes)
        for node in waiting:  # which grows
            yield node
            for attribute in node.attribute:
                for body in (attribute.g, *attribute.graphs):
                    waiting.extend(body.node)


def named(node: Any) -> str:
    """Operator and name of a node, or its outputs if it has no name."""
    return f"{node.op_type} {node.name or 'without a name, output ' + ', '.join(map(str, node.output))}"


def open_batch(model: Any) -> tuple[str, ...]:
    """The inputs whose first dimension is dynamic and whose others are fixed."""
    weights = {value.name for value in model.graph.initializer}
    found = []
    for value in model.graph.input:
        first, *others = value.type.tensor_type.shape.dim or [None]
        if value.name in weights or first is None or first.HasField("dim_value"):
            continue
        if all(dimension.HasField("dim_value") for dimension in others):
            found.append(value.name)
    return tuple(found)


def with_batch_of_one(model: Any) -> Any:
    """A copy with a batch of 1, so that the shapes that remain unknown depend on the data."""
    copy = type(model)()
    copy.CopyFrom(model)
    opened = open_batch(model)
    names = {v.type.tensor_type.shape.dim[0].dim_param for v in copy.graph.input if v.name in opened} - {""}
    del copy.graph.value_info[:]  # inferred again
    for value in (*copy.graph.input, *copy.graph.output):
        for dimension in value.type.tensor_type.shape.dim[:1]:
            if value.name in opened or dimension.dim_param in names:
                dimension.dim_value = 1
    return copy
