"""Checks whether TensorRT takes an ONNX file: NVIDIA's parser, or else its operator list; then the project's own rules.

Nothing is built: a file that passes was parsed at most.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgefuse.errors import UserError, require
from edgefuse_export.tensorrt.onnx_graph import OnnxGraph, Problem, named, open_batch, with_batch_of_one
from edgefuse_export.tensorrt.operator_list import (
    QUANTISED_TYPES,
    refusals_by_list,
    supported,
    too_new_for_jetpack_6,
)
from edgefuse_export.tensorrt.parse import NO_OPERATOR, Verdict, ask_parser
from edgefuse_runtime.engines.tensorrt_library import RTX

HOT_PATH_TYPES = ("FP32", "FP16", "BF16", "INT8", "INT32", "BOOL")
"""Types of tensors that may depend on the inputs. INT64 has no fast kernels, UINT16 none at all."""


@dataclass(frozen=True, kw_only=True)
class Readiness:
    """The result of a check.

    Attributes:
        refusals: of NVIDIA's parser, or by its operator list.
        broken_rules: of the project's own rules, for what the parser accepts but a build, an older parser or the engine does
            not.
        open_batch: inputs with a dynamic batch and otherwise fixed shapes. Such a file is ready, because the build fixes the
            batch (`edgefuse build --batch N`); it was checked with a batch of 1.
        notes: what the build has to set.
        verdict: the answer of NVIDIA's parser; None = it was not asked, and the list was used.
        against: the parser, or the list and why no parser was asked, as text.
    """

    refusals: tuple[Problem, ...]
    broken_rules: tuple[Problem, ...]
    open_batch: tuple[str, ...] = ()
    notes: tuple[str, ...]
    verdict: Verdict | None = None
    against: str

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Each would make a build fail; none = ready."""
        return self.refusals + self.broken_rules

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return {
            "ready": not self.problems,
            "static": not self.open_batch,
            "problems": [problem._asdict() for problem in self.problems],
            "notes": list(self.notes),
            "parser": None if self.verdict is None else self.verdict.to_json(),
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
    operators = sorted({str(node.op_type) for node in model.graph.node})  # bytes, where the name is not UTF-8
    return check_model(model, answer=ask_parser(path, operators=operators))


def refuse_unready(found: Readiness, *, what: str) -> Readiness:
    """Raise an error if a check found problems.

    Args:
        what: the file's name in the message.

    Raises:
        NotReadyError: with all problems.
    """
    if found.problems:
        raise NotReadyError(
            f"TensorRT does not support {what} ({found.against}):\n  "
            + "\n  ".join(map(str, found.problems))
            + "\nChange these operations of the model; `edgefuse lint-onnx FILE` checks any ONNX file"
        )
    return found


def check_model(model: Any, *, answer: Verdict | str = "it was not asked") -> Readiness:
    """Check an `onnx.ModelProto` against every rule, so that all problems are reported together.

    Args:
        answer: of `ask_parser`: a verdict, or why there is none; the operator list is used then.
    """
    opened = open_batch(model)
    graph = OnnxGraph(with_batch_of_one(model) if opened else model)
    verdict = answer if isinstance(answer, Verdict) else None
    refusals = refusals_by_list(graph) if verdict is None else _by_parser(graph, verdict)
    rules = (_external_data, _functions, too_new_for_jetpack_6, _uint8, _hot_path, _shapes, _outputs, _quantised)
    lists = supported()["lists"]
    notes = []
    if opened:
        notes.append(
            f"the batch of {', '.join(map(str, opened))} is dynamic: an engine has one batch, edgefuse build --batch N fixes it "
            "(default 1); other builders need an optimization profile with the minimum, optimum and maximum batch"
        )
    return Readiness(
        refusals=tuple(refusals),
        broken_rules=tuple(problem for rule in rules for problem in rule(graph)),
        open_batch=opened,
        notes=tuple(notes),
        verdict=verdict,
        against=f"the ONNX parser of {verdict.parser}"
        if verdict
        else f"the ONNX parser's operator lists of TensorRT {lists['oldest']['tensorrt']} and {lists['newest']['tensorrt']}; "
        f"no parser was run: {answer}",
    )


def _by_parser(graph: OnnxGraph, verdict: Verdict) -> Iterator[Problem]:
    rtx = verdict.parser.startswith(RTX.name)
    for refusal in verdict.refusals:
        reason = refusal.reason
        if rtx and refusal.operator in supported()["not_in_rtx"]:
            reason += "; TensorRT itself has a plugin for it"
        where = f"{refusal.operator} {refusal.node}".strip() or "the file"
        if refusal.reason == NO_OPERATOR and not refusal.node:
            where = "; ".join(named(node) for node in graph.nodes if node.op_type == refusal.operator)
        yield Problem("parser", where, f"{reason} ({refusal.code})")


def _external_data(graph: OnnxGraph) -> Iterator[Problem]:
    for name, value in graph.initializers.items():
        if value.data_location == graph.onnx.TensorProto.EXTERNAL:
            yield Problem("external data", name, "its values are in another file: save the model with all its weights")


def _functions(graph: OnnxGraph) -> Iterator[Problem]:
    if graph.model.functions:
        yield Problem("functions", graph.model.functions[0].name, "local functions were expected to be inlined")


def _uint8(graph: OnnxGraph) -> Iterator[Problem]:
    for node in graph.nodes:
        for tensor in node.input:
            if graph.type_of(tensor) == "UINT8" and node.op_type != "Cast":
                what = f"{tensor} is UINT8, which TensorRT supports only as the input of a Cast: cast it to float first"
                yield Problem("uint8", named(node), what)


def _hot_path(graph: OnnxGraph) -> Iterator[Problem]:
    for name in graph.inputs:
        if graph.type_of(name) not in ("UINT8", *HOT_PATH_TYPES):
            yield Problem("hot path", name, f"the input is {graph.type_of(name)}: use UINT8 or a float type")
    for node in graph.nodes:
        for tensor in node.output:
            found = graph.type_of(tensor)
            if tensor in graph.hot and found and found not in (*HOT_PATH_TYPES, "UINT8"):
                what = f"{tensor} is computed from the inputs in {found}: use float or INT32"
                yield Problem("hot path", named(node), what)


def _shapes(graph: OnnxGraph) -> Iterator[Problem]:
    """Every shape must be static, except a batch that `_with_batch_of_one` has fixed."""
    for name in graph.inputs:
        dimensions = graph.dimensions(name)
        if dimensions is None or any(not isinstance(d, int) for d in dimensions):
            yield Problem("shape", name, f"the input's shape is {dimensions}: all but the batch must be fixed")
    for node in graph.nodes:
        for tensor in node.output:
            dimensions = graph.dimensions(tensor) if tensor in graph.hot else []
            if dimensions is None or any(not isinstance(d, int) for d in dimensions):
                yield Problem("shape", named(node), f"the shape of {tensor} is {dimensions}, it depends on the data")
                return  # later shapes are unknown for the same reason


def _outputs(graph: OnnxGraph) -> Iterator[Problem]:
    made = {tensor for node in graph.nodes for tensor in node.output}
    for name in graph.outputs:
        if name not in made:
            kind = "an initializer" if name in graph.initializers else "an input"
            yield Problem("output", name, f"it is {kind}, not the output of a node")
        elif name not in graph.hot:
            yield Problem("output", name, "it does not depend on the inputs: TensorRT may fold it away")


def _quantised(graph: OnnxGraph) -> Iterator[Problem]:
    """The parser accepts these tensors anywhere; the builder fails, or the values differ from ONNX's."""
    for node in graph.nodes:
        found = {graph.type_of(tensor) for tensor in (*node.input, *node.output)}
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            if "UINT8" in found:
                yield Problem(
                    "quantisation", named(node), "TensorRT quantises to INT8 where the file has UINT8: use INT8"
                )
        elif node.op_type != "Constant" and (types := sorted(found.intersection(QUANTISED_TYPES))):
            what = f"{', '.join(types)} is supported between QuantizeLinear and DequantizeLinear only"
            yield Problem("quantisation", named(node), what)
