"""Checks offline whether TensorRT's ONNX parser supports an ONNX file.

The rules are the parser's own operator list (`tensorrt_operators.json`, with its source) and known causes of failed builds.
TensorRT is not run: a file that passes was not built.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from edgefuse.errors import UserError, require

TYPE_NAMES = {
    "FLOAT": "FP32",
    "FLOAT16": "FP16",
    "BFLOAT16": "BF16",
    "INT8": "INT8",
    "INT32": "INT32",
    "INT64": "INT64",
    "UINT8": "UINT8",
    "BOOL": "BOOL",
}
"""Type names of ONNX -> those of the parser's list. TensorRT lacks all other types, or casts them to narrower ones."""

HOT_PATH_TYPES = ("FP32", "FP16", "BF16", "INT8", "INT32", "BOOL")
"""Types of tensors that may depend on the inputs. INT64 has no fast kernels, UINT16 none at all."""


class Problem(NamedTuple):
    """A reason why a build would fail: the rule, the node or tensor, and the explanation."""

    rule: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.where}: {self.what}"


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """The result of a check.

    Attributes:
        problems: each would make a build fail; none = ready.
        open_batch: inputs with a dynamic batch and otherwise fixed shapes. Such a file is ready, because the build fixes the
            batch (`edgefuse build --batch N`); it was checked with a batch of 1.
        notes: what the build has to set.
        against: the operator lists that were used, as text.
    """

    problems: tuple[Problem, ...]
    open_batch: tuple[str, ...] = ()
    notes: tuple[str, ...]
    against: str

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return {
            "ready": not self.problems,
            "static": not self.open_batch,
            "problems": [problem._asdict() for problem in self.problems],
            "notes": list(self.notes),
            "against": self.against,
        }


class NotReadyError(UserError):
    """TensorRT does not support the file; the message has every reason."""


def check_file(path: Path) -> Readiness:
    """Check an ONNX file.

    Raises:
        UserError: the file does not exist, or is not an ONNX file.
    """
    onnx = require("onnx", extra="export")
    if not path.is_file():
        what = f"is a folder: give an ONNX file, such as {path / 'model.onnx'}" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {what}")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's errors have no common base class
        raise UserError(f"{path} is not an ONNX file ({error})") from error
    if not model.graph.node:
        raise UserError(f"{path} is not an ONNX file, or an empty one: it has no operators")
    return check_model(model)


def refuse_unready(model: Any, *, what: str) -> Readiness:
    """Check an `onnx.ModelProto`, and raise an error if it has problems.

    Args:
        what: the file's name in the message.

    Raises:
        NotReadyError: with all problems.
    """
    found = check_model(model)
    if found.problems:
        raise NotReadyError(
            f"TensorRT does not support {what} ({found.against}):\n  "
            + "\n  ".join(map(str, found.problems))
            + "\nChange these operations of the model; `edgefuse lint-onnx FILE` checks any ONNX file"
        )
    return found


def check_model(model: Any) -> Readiness:
    """Check an `onnx.ModelProto` against every rule, so that all problems are reported together."""
    open_batch = _open_batch(model)
    graph = _Graph(_with_batch_of_one(model) if open_batch else model)
    problems = [
        *_external_data(graph),
        *_opset(graph),
        *_operators(graph),
        *_types(graph),
        *_uint8(graph),
        *_hot_path(graph),
        *_shapes(graph),
        *_outputs(graph),
        *_quantisation(graph),
    ]
    lists = supported()["lists"]
    against = (
        f"the ONNX parser's operator lists of TensorRT {lists['oldest']['tensorrt']} and {lists['newest']['tensorrt']}"
    )
    notes = []
    if open_batch:
        notes.append(
            f"the batch of {', '.join(open_batch)} is dynamic: an engine has one batch, edgefuse build --batch N fixes it "
            "(default 1); other builders need an optimization profile with the minimum, optimum and maximum batch"
        )
    return Readiness(problems=tuple(problems), open_batch=open_batch, notes=tuple(notes), against=against)


def _open_batch(model: Any) -> tuple[str, ...]:
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


def _with_batch_of_one(model: Any) -> Any:
    """A copy with a batch of 1, so that the shapes that remain unknown depend on the data."""
    copy = type(model)()
    copy.CopyFrom(model)
    open_batch = _open_batch(model)
    names = {v.type.tensor_type.shape.dim[0].dim_param for v in copy.graph.input if v.name in open_batch} - {""}
    del copy.graph.value_info[:]  # inferred again
    for value in (*copy.graph.input, *copy.graph.output):
        for dimension in value.type.tensor_type.shape.dim[:1]:
            if value.name in open_batch or dimension.dim_param in names:
                dimension.dim_value = 1
    return copy


@cache
def supported() -> dict[str, Any]:
    """The parser's operator list; the file has its source and date."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("tensorrt_operators.json").read_text(encoding="utf-8"))
    return found


class _Graph:
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
        name: str = self.onnx.TensorProto.DataType.Name(number)
        return TYPE_NAMES.get(name, name)

    def dimensions(self, tensor: str) -> list[int | str] | None:
        """Each dimension as a number or a name ("?" without one); None if the rank is unknown."""
        value = self.values.get(tensor)
        if value is None or not value.type.tensor_type.HasField("shape"):
            return None
        return [
            dimension.dim_value if dimension.HasField("dim_value") else dimension.dim_param or "?"
            for dimension in value.type.tensor_type.shape.dim
        ]


def _named(node: Any) -> str:
    return f"{node.op_type} {node.name or 'without a name, output ' + ', '.join(node.output)}"


def _external_data(graph: _Graph) -> Iterator[Problem]:
    for name, value in graph.initializers.items():
        if value.data_location == graph.onnx.TensorProto.EXTERNAL:
            yield Problem("external data", name, "its values are in another file: save the model with all its weights")


def _opset(graph: _Graph) -> Iterator[Problem]:
    lowest, highest = supported()["min_opset"], supported()["max_opset"]
    for opset in graph.model.opset_import:
        if opset.domain in ("", "ai.onnx") and not lowest <= opset.version <= highest:
            yield Problem("opset", f"opset {opset.version}", f"the parser reads {lowest} to {highest}")
    if graph.model.functions:
        yield Problem("functions", graph.model.functions[0].name, "local functions were expected to be inlined")


def _operators(graph: _Graph) -> Iterator[Problem]:
    known, newest = supported()["operators"], supported()["max_definition"]
    opset = max((o.version for o in graph.model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    for node in graph.nodes:
        if node.domain not in ("", "ai.onnx"):
            yield Problem("operator", _named(node), f"the domain {node.domain} is not part of ONNX")
        elif node.op_type in supported()["only_in_newest"]:
            yield Problem("operator", _named(node), "only the newest parsers support it, that of JetPack 6 does not")
        elif node.op_type not in known:
            yield Problem("operator", _named(node), "the parser does not support it")
        else:
            defined = _definition(graph.onnx, node.op_type, opset)
            if defined > newest:
                what = f"its definition is of opset {defined}, the older parser supports definitions up to {newest}"
                yield Problem("opset", _named(node), what)


def _definition(onnx: Any, operator: str, opset: int) -> int:
    """The opset that introduced the definition that `operator` has at `opset`; 0 if ONNX does not define it."""
    try:
        return int(onnx.defs.get_schema(operator, min(opset, onnx.defs.onnx_opset_version())).since_version)
    except onnx.defs.SchemaError:
        return 0


def _types(graph: _Graph) -> Iterator[Problem]:
    """The type of an operator is that of its first input; of a Cast, also that of its output."""
    for node in graph.nodes:
        known = supported()["operators"].get(node.op_type)
        if known is None or not node.output:
            continue
        tensors = [node.input[0] if node.input and node.input[0] else node.output[0]]
        if node.op_type == "Cast":
            tensors.append(node.output[0])
        for tensor in tensors:
            found = graph.type_of(tensor)
            if not found:
                yield Problem("type", _named(node), f"the type of {tensor} cannot be inferred")
            elif found not in known:
                yield Problem("type", _named(node), f"{tensor} is {found}, the parser supports {', '.join(known)}")


def _uint8(graph: _Graph) -> Iterator[Problem]:
    for node in graph.nodes:
        for tensor in node.input:
            if graph.type_of(tensor) == "UINT8" and node.op_type != "Cast":
                what = f"{tensor} is UINT8, which TensorRT supports only as the input of a Cast: cast it to float first"
                yield Problem("uint8", _named(node), what)


def _hot_path(graph: _Graph) -> Iterator[Problem]:
    for name in graph.inputs:
        if graph.type_of(name) not in ("UINT8", *HOT_PATH_TYPES):
            yield Problem("hot path", name, f"the input is {graph.type_of(name)}: use UINT8 or a float type")
    for node in graph.nodes:
        for tensor in node.output:
            found = graph.type_of(tensor)
            if tensor in graph.hot and found and found not in (*HOT_PATH_TYPES, "UINT8"):
                what = f"{tensor} is computed from the inputs in {found}: use float or INT32"
                yield Problem("hot path", _named(node), what)


def _shapes(graph: _Graph) -> Iterator[Problem]:
    """Every shape must be static, except a batch that `_with_batch_of_one` has fixed."""
    for name in graph.inputs:
        dimensions = graph.dimensions(name)
        if dimensions is None or any(not isinstance(d, int) for d in dimensions):
            yield Problem("shape", name, f"the input's shape is {dimensions}: all but the batch must be fixed")
    for node in graph.nodes:
        for tensor in node.output:
            dimensions = graph.dimensions(tensor) if tensor in graph.hot else []
            if dimensions is None or any(not isinstance(d, int) for d in dimensions):
                yield Problem("shape", _named(node), f"the shape of {tensor} is {dimensions}, it depends on the data")
                return  # later shapes are unknown for the same reason


def _outputs(graph: _Graph) -> Iterator[Problem]:
    made = {tensor for node in graph.nodes for tensor in node.output}
    for name in graph.outputs:
        if name not in made:
            kind = "an initializer" if name in graph.initializers else "an input"
            yield Problem("output", name, f"it is {kind}, not the output of a node")
        elif name not in graph.hot:
            yield Problem("output", name, "it does not depend on the inputs: TensorRT may fold it away")


def _quantisation(graph: _Graph) -> Iterator[Problem]:
    constants = {n.output[0]: n.attribute[0].t for n in graph.nodes if n.op_type == "Constant" and n.attribute}
    for node in graph.nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2 and node.input[2]:
            zero = graph.initializers.get(node.input[2], constants.get(node.input[2]))
            if zero is None or graph.onnx.numpy_helper.to_array(zero).any():
                yield Problem(
                    "quantisation", _named(node), f"the zero point {node.input[2]} must be 0: quantise symmetrically"
                )
        elif node.op_type == "Resize" and any(a.name == "antialias" and a.i for a in node.attribute):
            yield Problem("operator", _named(node), "antialiasing is not supported: resize before the graph")
