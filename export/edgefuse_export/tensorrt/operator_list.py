"""The fall-back where NVIDIA's parser cannot be asked: `tensorrt_operators.json`, the operators, types and attributes that it accepts.

A test compares the list with the parser of TensorRT-RTX, operator by operator and type by type.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from edgefuse_export.tensorrt.onnx_graph import OnnxGraph, Problem, named

QUANTISED_TYPES = ("INT8", "FP8", "INT4", "FP4")
"""The parser accepts them almost everywhere, the builder only between QuantizeLinear and DequantizeLinear."""

_QUANTISERS = ("QuantizeLinear", "DequantizeLinear")


@cache
def supported() -> dict[str, Any]:
    """The list; the file has its sources."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("tensorrt_operators.json").read_text(encoding="utf-8"))
    return found


def refusals_by_list(graph: OnnxGraph) -> Iterator[Problem]:
    """What the parser refuses, as far as the list has it."""
    yield from _operators(graph)
    yield from _types(graph)
    yield from _attributes(graph)
    yield from _constants(graph)


def too_new_for_jetpack_6(graph: OnnxGraph) -> Iterator[Problem]:
    """What the newest parser accepts and an older one may not."""
    lowest, highest, newest = supported()["min_opset"], supported()["max_opset"], supported()["max_definition"]
    opset = max((o.version for o in graph.model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if not lowest <= opset <= highest:
        yield Problem("opset", f"opset {opset}", f"the parser's documentation names {lowest} to {highest}")
    for node in graph.nested_nodes():
        defined = _definition(graph.onnx, node.op_type, opset)
        if defined > newest:
            what = f"its definition is of opset {defined}, the older parser supports definitions up to {newest}"
            yield Problem("opset", named(node), what)
        newer = supported()["only_in_newest"].get(node.op_type, ())
        found = sorted({graph.type_of(tensor) for tensor in _typed(node)}.intersection(newer))
        if found or newer == supported()["operators"].get(node.op_type):
            what = f"only the newest parsers support it{' in ' + ', '.join(found) if found else ''}, that of JetPack 6 does not"
            yield Problem("older parser", named(node), what)


def _operators(graph: OnnxGraph) -> Iterator[Problem]:
    for node in graph.nested_nodes():
        if node.domain not in ("", "ai.onnx"):
            yield Problem("operator", named(node), f"the domain {node.domain} is not part of ONNX")
        elif node.op_type not in supported()["operators"]:
            yield Problem("operator", named(node), "the parser does not support it")


def _types(graph: OnnxGraph) -> Iterator[Problem]:
    for name in graph.inputs:
        if graph.type_of(name) not in supported()["input_types"]:
            yield Problem("type", name, f"the input is {graph.type_of(name) or 'of an unknown type'}")
    for node in graph.nodes:
        known = supported()["operators"].get(node.op_type)
        if known is None:
            continue
        for tensor in _typed(node):
            found = graph.type_of(tensor)
            if not found:
                yield Problem("type", named(node), f"the type of {tensor} cannot be inferred")
            elif found not in (*known, *QUANTISED_TYPES) and not (found == "DOUBLE" and "FP32" in known):
                yield Problem("type", named(node), f"{tensor} is {found}, the parser supports {', '.join(known)}")


def _typed(node: Any) -> list[str]:
    """The tensors whose type counts: the first input or, if that is a shape or a condition, the output; of a Cast both."""
    if not node.output:
        return []
    by_output = node.op_type in supported()["typed_by_output"] or not node.input or not node.input[0]
    first = node.output[0] if by_output else node.input[0]
    return [first, node.output[0]] if node.op_type == "Cast" else [first]


def _attributes(graph: OnnxGraph) -> Iterator[Problem]:
    for node in graph.nested_nodes():
        allowed = supported()["attributes"].get(node.op_type, {})
        for attribute in node.attribute:
            value = graph.onnx.helper.get_attribute_value(attribute) if attribute.name in allowed else []
            for one in value if isinstance(value, list) else [value]:
                shown = one.decode(errors="replace") if isinstance(one, bytes) else one
                if shown not in allowed[attribute.name]:
                    expected = ", ".join(map(str, allowed[attribute.name]))
                    yield Problem(
                        "operator", named(node), f"{attribute.name} is {shown}, the parser supports {expected}"
                    )
        if node.op_type in supported()["one_output"] and any(node.output[1:]):
            yield Problem("operator", named(node), "the parser supports its first output only")


def _constants(graph: OnnxGraph) -> Iterator[Problem]:
    """Inputs that must be constants, and zero points, which must be 0."""
    for node in graph.nodes:
        for number in supported()["constant_inputs"].get(node.op_type, ()):
            tensor = node.input[number] if number < len(node.input) else ""
            if tensor in graph.hot:
                yield Problem("operator", named(node), f"{tensor} is computed, the parser needs a constant")
        zero = node.input[2] if node.op_type in _QUANTISERS and len(node.input) > 2 else ""
        if zero and not _is_zero(graph, zero):
            yield Problem("quantisation", named(node), f"the zero point {zero} must be 0: quantise symmetrically")


def _is_zero(graph: OnnxGraph, tensor: str) -> bool:
    value = graph.constant(tensor)
    try:
        return value is not None and not graph.onnx.numpy_helper.to_array(value).any()
    except (KeyError, TypeError, ValueError):  # of a damaged file
        return False


def _definition(onnx: Any, operator: str, opset: int) -> int:
    """The opset that introduced the definition that `operator` has at `opset`; 0 if ONNX does not define it."""
    try:
        return int(onnx.defs.get_schema(operator, min(opset, onnx.defs.onnx_opset_version())).since_version)
    except (onnx.defs.SchemaError, TypeError):  # TypeError: the operator is bytes, because it is not UTF-8
        return 0
