"""What the fake TensorRT makes of an ONNX file: its network, and the file that a plan runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

LAYERS = {
    "Conv": "CONVOLUTION",
    "Gemm": "MATRIX_MULTIPLY",
    "MatMul": "MATRIX_MULTIPLY",
    "Softmax": "SOFTMAX",
    "QuantizeLinear": "QUANTIZE",
}


def network_of(onnx_bytes: bytes, trt: Any, *, weak: bool) -> tuple[list[Any], list[Any]]:
    """Inputs, outputs and layers of a file. Stored weights are not inputs, of the file or of a layer.

    Args:
        weak: the precision of a layer can be set; TensorRT 11 has no such attribute.
    """
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(onnx_bytes)).graph
    stored = {weights.name for weights in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in stored]
    known = {}
    for value in [*graph.input, *graph.output, *graph.value_info]:
        kind = value.type.tensor_type
        dtype = onnx.TensorProto.DataType.Name(kind.elem_type).replace("FLOAT16", "HALF")
        shape = tuple(size.dim_value if size.HasField("dim_value") else -1 for size in kind.shape.dim)
        known[value.name] = SimpleNamespace(
            name=value.name,
            shape=shape,
            dtype=trt.DataType[dtype],
            is_input=value.name in inputs,
            is_network_output=value in graph.output,
        )
    layers = []
    for index, node in enumerate(graph.node):
        taken, given = ([known[name] for name in names if name in known] for names in (node.input, node.output))
        layers.append(
            SimpleNamespace(
                name=node.name or f"node_{index}",
                operator=node.op_type,
                type=trt.LayerType[LAYERS.get(node.op_type, "ELEMENTWISE")],
                num_inputs=len(taken),
                get_input=taken.__getitem__,
                num_outputs=len(given),
                get_output=given.__getitem__,
                **({"precision": None, "set_output_type": lambda _index, _dtype: None} if weak else {}),
            )
        )
    return [known[name] for name in [*inputs, *(value.name for value in graph.output)]], layers


def compiled(onnx_bytes: bytes, marked: list[str], wrong_fusions: dict[str, tuple[str, ...]]) -> bytes:
    """The file with further outputs, and with the wrong values that the builder makes."""
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(onnx_bytes))
    graph = model.graph
    for wrong, cures in wrong_fusions.items():
        node = next(one for one in graph.node if wrong in one.output)
        if not cures or not set(cures) & set(marked):
            node.output[list(node.output).index(wrong)] = f"right_{wrong}"
            doubled = onnx.helper.make_node("Add", [f"right_{wrong}"] * 2, [wrong])
            graph.node.insert(list(graph.node).index(node) + 1, doubled)
    graph.output.extend(value for value in graph.value_info if value.name in marked)
    return bytes(model.SerializeToString())
