"""The stand-in's plan: bytes that tell what they were made of, and hold the ONNX file that computes the answers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

MAGIC = b"fake-plan\n"
_NAMES = {1: "FLOAT", 2: "UINT8", 3: "INT8", 6: "INT32", 7: "INT64", 9: "BOOL", 10: "HALF", 16: "BF16", 17: "FP8"}
# As the engine inspector of TensorRT 10 spells them: inner tensors, and the engine's own inputs and outputs.
INNER_FORMATS = {"FLOAT": "Float", "HALF": "Half", "INT8": "Int8", "UINT8": "UInt8", "INT32": "Int32", "INT64": "Int64"}
OUTER_FORMATS = {
    "FLOAT": "Row major linear FP32",
    "HALF": "Row major linear FP16 format",
    "UINT8": "Row major linear UInt8 format",
    "INT8": "Row major Int8 format",
    "INT32": "Row major linear Int32",
    "INT64": "Row major linear Int64",
}
_LAYER_TYPES = {"Conv": "CaskConvolution", "Gemm": "gemm", "MatMul": "gemm", "Softmax": "SoftMaxV2", "Cast": "Cast"}


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or output. -1 = a dimension with a name only."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    is_input: bool


def encode(header: dict[str, Any], onnx_bytes: bytes) -> bytes:
    text = json.dumps(header, sort_keys=True).encode()
    body = MAGIC + len(text).to_bytes(8, "little") + text + onnx_bytes
    return body + hashlib.sha256(body).digest()


def decode(plan: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the ONNX bytes.

    Raises:
        ValueError: the bytes are no plan, or not what they were.
    """
    body, digest = plan[:-32], plan[-32:]
    if not plan.startswith(MAGIC):
        raise ValueError("Magic tag does not match")
    if hashlib.sha256(body).digest() != digest:
        raise ValueError("Serialized engine is corrupt or truncated")
    start = len(MAGIC) + 8
    size = int.from_bytes(body[len(MAGIC) : start], "little")
    return json.loads(body[start : start + size]), body[start + size :]


def tensors_of(onnx_bytes: bytes) -> list[Tensor]:
    """Inputs, then outputs, in the file's order."""
    import onnx

    graph = onnx.load_model_from_string(onnx_bytes).graph
    stored = {weights.name for weights in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    return [_tensor(value, is_input=True) for value in inputs] + [
        _tensor(value, is_input=False) for value in graph.output
    ]


def with_input_shape(onnx_bytes: bytes, name: str, shape: tuple[int, ...]) -> bytes:
    """The file with an input's open dimensions fixed, wherever they are named."""
    import onnx

    model = onnx.load_model_from_string(onnx_bytes)
    (changed,) = (value for value in model.graph.input if value.name == name)
    dims = changed.type.tensor_type.shape.dim
    sizes = {dim.dim_param: size for dim, size in zip(dims, shape, strict=True) if dim.dim_param}
    for value in (changed, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
    return bytes(model.SerializeToString())


def _tensor(value: Any, *, is_input: bool) -> Tensor:
    kind = value.type.tensor_type
    shape = tuple(size.dim_value if size.HasField("dim_value") else -1 for size in kind.shape.dim)
    return Tensor(name=value.name, shape=shape, dtype=_NAMES[kind.elem_type], is_input=is_input)


@dataclass(frozen=True, kw_only=True)
class Node:
    """A layer: one node of the file. Stored weights are not among the inputs, as they are not in TensorRT."""

    name: str
    operator: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def nodes_of(onnx_bytes: bytes) -> list[Node]:
    """The layers, in the file's order."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(onnx_bytes)).graph
    known = {value.name: _tensor(value, is_input=False) for value in [*graph.input, *graph.output, *graph.value_info]}
    return [
        Node(
            name=node.name or f"{node.op_type}_{index}",
            operator=node.op_type,
            inputs=tuple(known[name] for name in node.input if name in known),
            outputs=tuple(known[name] for name in node.output if name in known),
        )
        for index, node in enumerate(graph.node)
    ]


def layers_of(onnx_bytes: bytes, *, replace: dict[str, str], held: set[int]) -> list[dict[str, Any]]:
    """What the inspector prints of each layer, in the types of the file.

    Args:
        replace: types that the builder puts in place of others, such as {"HALF": "FLOAT"}.
        held: layers, by index, that keep their types.
    """
    outer = {tensor.name for tensor in tensors_of(onnx_bytes)}

    def told(tensor: Tensor, index: int) -> dict[str, Any]:
        if tensor.name in outer:
            spelled = OUTER_FORMATS[tensor.dtype]
        else:
            dtype = tensor.dtype if index in held else replace.get(tensor.dtype, tensor.dtype)
            spelled = INNER_FORMATS.get(dtype, dtype.title())
        return {"Name": tensor.name, "Location": "Device", "Dimensions": list(tensor.shape), "Format/Datatype": spelled}

    return [
        {
            "Name": node.name,
            "LayerType": _LAYER_TYPES.get(node.operator, "kgen"),
            "Inputs": [told(tensor, index) for tensor in node.inputs],
            "Outputs": [told(tensor, index) for tensor in node.outputs],
            "TacticName": f"fake_{node.operator.lower()}",
            "StreamId": 0,
            "Metadata": f"[ONNX Layer: {node.name}]",
        }
        for index, node in enumerate(nodes_of(onnx_bytes))
    ]
