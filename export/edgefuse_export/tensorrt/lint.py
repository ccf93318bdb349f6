"""Will TensorRT's ONNX parser take this file? An offline check of any ONNX file against what the parser says it supports.

It knows the parser's own list (`tensorrt_operators.json`, with its source) and what is known to fail at build time. It is
no build: a file that passes here was not run by TensorRT.
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
"""ONNX's names of types -> those of the parser's list. What is missing here TensorRT does not have, or only by casting down."""

HOT_PATH_TYPES = ("FP32", "FP16", "BF16", "INT8", "INT32", "BOOL")
"""What may be computed from the inputs. INT64 has no fast kernels, UINT16 no kernels at all."""


class Problem(NamedTuple):
    """Why a build would fail: the rule, the node or tensor it is about, and what to know."""

    rule: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.where}: {self.what}"


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """What was found.

    Attributes:
        problems: each of them would make a build fail; none = ready.
        open_batch: inputs whose batch the file leaves open, and nothing else of any shape. Such a file is ready, because the
            build fixes it (`edgefuse build --batch N`); it was looked at with a batch of 1.
        notes: what the build needs to be told.
        against: the lists that were asked, in words.
    """

    problems: tuple[Problem, ...]
    open_batch: tuple[str, ...] = ()
    notes: tuple[str, ...]
    against: str

    def to_json(self) -> dict[str, Any]:
        """The findings as a JSON object."""
        return {
            "ready": not self.problems,
            "static": not self.open_batch,
            "problems": [problem._asdict() for problem in self.problems],
            "notes": list(self.notes),
            "against": self.against,
        }


class NotReadyError(UserError):
    """TensorRT would refuse the file; every reason is in the message."""


def check_file(path: Path) -> Readiness:
    """Check an ONNX file.

    Raises:
        UserError: it is missing or is no ONNX file.
    """
    onnx = require("onnx", extra="export")
    if not path.is_file():
        what = f"is a folder: give an ONNX file, such as {path / 'model.onnx'}" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {what}")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's errors share no base class
        raise UserError(f"{path} is not an ONNX file ({error})") from error
    if not model.graph.node:
        raise UserError(f"{path} is not an ONNX file, or an empty one: it has no operators")
    return check_model(model)


def refuse_unready(model: Any, *, what: str) -> Readiness:
    """Check an `onnx.ModelProto`, and raise unless it is ready.

    Args:
        what: the file's name in the message.

    Raises:
        NotReadyError: with every reason.
    """
    found = check_model(model)
    if found.problems:
        raise NotReadyError(
            f"TensorRT would not take {what} ({found.against}):\n  "
            + "\n  ".join(map(str, found.problems))
            + "\nChange what the model computes there; `edgefuse check-onnx FILE` looks at any file"
        )
    return found


def check_model(model: Any) -> Readiness:
    """Check an `onnx.ModelProto`; every rule is asked, so that all is said at once."""
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
            f"the batch of {', '.join(open_batch)} is open: an engine has one batch, edgefuse build --batch N fixes it (default "
            "1); other builders need an optimisation profile with the smallest, usual and largest batch"
        )
    return Readiness(problems=tuple(problems), open_batch=open_batch, notes=tuple(notes), against=against)


def _open_batch(model: Any) -> tuple[str, ...]:
    """The inputs with an open first dimension and the others fixed."""
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
    """A copy whose open batches are 1, so that what depends on the data, and not on the batch, shows."""
    copy = type(model)()
    copy.CopyFrom(model)
    open_batch = _open_batch(model)
    names = {v.type.tensor_type.shape.dim[0].dim_param for v in copy.graph.input if v.name in open_batch} - {""}
    del copy.graph.value_info[:]  # inferred anew
    for value in (*copy.graph.input, *copy.graph.output):
        for dimension in value.type.tensor_type.shape.dim[:1]:
            if value.name in open_batch or dimension.dim_param in names:
                dimension.dim_value = 1
    return copy


@cache
def supported() -> dict[str, Any]:
    """The parser's list: see the file for its source and its date."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("tensorrt_operators.json").read_text(encoding="utf-8"))
    return found


class _Graph:
    """A model with the types and shapes of its tensors inferred, and what depends on its inputs."""

    def __init__(self, model: Any) -> None:
        onnx = require("onnx", extra="export")
        self.onnx = onnx
        try:
            self.model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        except Exception:  # what cannot be inferred shows as tensors without a type
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
        """The type's name in the parser's list, or ONNX's own name where the list has none; "" where it is not known."""
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
        """Each dimension as a number, or its name ("?" without one); None where the rank is not known."""
        value = self.values.get(tensor)
        if value is None or not value.type.tensor_type.HasField("shape"):
            return None
        return [
            dimension.dim_value if dimension.HasField("dim_value") else dimension.dim_param or "?"
            for dimension in value.type.tensor_type.shape.dim
        ]


def _named(node: Any) -> str:
    return f"{node.op_type} {node.name or 'without a name, giving ' + ', '.join(node.output)}"


def _external_data(graph: _Graph) -> Iterator[Problem]:
    for name, value in graph.initializers.items():
        if value.data_location == graph.onnx.TensorProto.EXTERNAL:
            yield Problem("external data", name, "its values lie in another file: save the model with all its weights")


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
            yield Problem("operator", _named(node), f"the domain {node.domain} is no part of ONNX")
        elif node.op_type in supported()["only_in_newest"]:
            yield Problem("operator", _named(node), "only the newest parsers know it, JetPack 6's does not")
        elif node.op_type not in known:
            yield Problem("operator", _named(node), "the parser does not support it")
        else:
            defined = _definition(graph.onnx, node.op_type, opset)
            if defined > newest:
                what = f"its definition is of opset {defined}, the older parser reads definitions up to {newest}"
                yield Problem("opset", _named(node), what)


def _definition(onnx: Any, operator: str, opset: int) -> int:
    """The opset that brought the definition that `operator` has at `opset`; 0 for those that ONNX itself does not define."""
    try:
        return int(onnx.defs.get_schema(operator, min(opset, onnx.defs.onnx_opset_version())).since_version)
    except onnx.defs.SchemaError:
        return 0


def _types(graph: _Graph) -> Iterator[Problem]:
    """An operator's type is that of its first input; for a cast, what it makes as well."""
    for node in graph.nodes:
        known = supported()["operators"].get(node.op_type)
        if known is None or not node.output:
            continue
        asked = [node.input[0] if node.input and node.input[0] else node.output[0]]
        if node.op_type == "Cast":
            asked.append(node.output[0])
        for tensor in asked:
            found = graph.type_of(tensor)
            if not found:
                yield Problem("type", _named(node), f"the type of {tensor} is not known before it runs")
            elif found not in known:
                yield Problem("type", _named(node), f"{tensor} is {found}, the parser takes {', '.join(known)}")


def _uint8(graph: _Graph) -> Iterator[Problem]:
    for node in graph.nodes:
        for tensor in node.input:
            if graph.type_of(tensor) == "UINT8" and node.op_type != "Cast":
                what = f"{tensor} is UINT8, which TensorRT takes in front of a Cast only: cast it to float first"
                yield Problem("uint8", _named(node), what)


def _hot_path(graph: _Graph) -> Iterator[Problem]:
    for name in graph.inputs:
        if graph.type_of(name) not in ("UINT8", *HOT_PATH_TYPES):
            yield Problem("hot path", name, f"the input is {graph.type_of(name)}: give it as UINT8 bytes or as float")
    for node in graph.nodes:
        for tensor in node.output:
            found = graph.type_of(tensor)
            if tensor in graph.hot and found and found not in (*HOT_PATH_TYPES, "UINT8"):
                what = f"{tensor} is computed from the inputs in {found}: use float or INT32"
                yield Problem("hot path", _named(node), what)


def _shapes(graph: _Graph) -> Iterator[Problem]:
    """Every shape is static, but for a batch that `_with_batch_of_one` has fixed."""
    for name in graph.inputs:
        dimensions = graph.dimensions(name)
        if dimensions is None or any(not isinstance(d, int) for d in dimensions):
            yield Problem("shape", name, f"the input's shape is {dimensions}: all but the batch must be fixed")
    for node in graph.nodes:
        for tensor in node.output:
            dimensions = graph.dimensions(tensor) if tensor in graph.hot else []
            if dimensions is None or any(not isinstance(d, int) for d in dimensions):
                yield Problem("shape", _named(node), f"the shape of {tensor} is {dimensions}, it depends on the data")
                return  # all that follows is unknown for the same reason


def _outputs(graph: _Graph) -> Iterator[Problem]:
    made = {tensor for node in graph.nodes for tensor in node.output}
    for name in graph.outputs:
        if name not in made:
            kind = "an initializer" if name in graph.initializers else "an input"
            yield Problem("output", name, f"it is {kind}, no node makes it")
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
