"""The operator list and the project's own rules: each rule on a small graph that breaks only this rule. No parser is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgefuse.errors import UserError
from edgefuse_export.tensorrt.lint import NotReadyError, Readiness, check_file, check_model, refuse_unready
from edgefuse_export.tensorrt.operator_list import supported

FLOAT, FLOAT16, UINT8, INT64, UINT16 = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.UINT8,
    TensorProto.INT64,
    TensorProto.UINT16,
)
Node = Any


def graph(
    *nodes: Node,
    taken: int = UINT8,
    shape: tuple[int | str | None, ...] = (1, 4),
    output: tuple[str, int, tuple[int | str | None, ...]] = ("out", FLOAT, (1, 4)),
    constants: dict[str, np.ndarray] | None = None,
    opset: int = 20,
    domains: tuple[str, ...] = (),
) -> Any:
    """A model with the input "x"."""
    found = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", taken, shape)],
        [helper.make_tensor_value_info(*output)],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(found, opset_imports=opsets, ir_version=10)


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> Node:
    return helper.make_node(operator, inputs.split(), outputs.split(), name=f"the_{operator.lower()}", **attributes)


CAST = node("Cast", "x", "f", to=FLOAT)
RELU = node("Relu", "f", "out")
ZERO = np.zeros((1, 4), np.float32)
SCALE, ZERO_POINT = np.array(0.1, np.float32), np.array(0, np.int8)

BAD: dict[str, tuple[Any, str, str, str]] = {
    "an operator that no parser has": (
        graph(CAST, node("Det", "f", "out"), shape=(4, 4), output=("out", FLOAT, ())),
        "operator",
        "the_det",
        "does not support",
    ),
    "an operator of newer parsers": (
        graph(CAST, node("Mish", "f", "out")),
        "older parser",
        "the_mish",
        "JetPack 6",
    ),
    "an operator of another domain": (
        graph(CAST, node("FusedMatMul", "f f", "out", domain="com.microsoft"), domains=("com.microsoft",)),
        "operator",
        "the_fusedmatmul",
        "com.microsoft",
    ),
    "a definition that is too new": (
        graph(CAST, node("Identity", "f", "out"), opset=21),
        "opset",
        "the_identity",
        "of opset 21",
    ),
    "an opset that is too old": (graph(CAST, RELU, opset=8), "opset", "opset 8", "9 to 24"),
    "a type that the operator lacks": (
        graph(
            CAST,
            node("Cast", "f", "i", to=TensorProto.INT32),
            node("Exp", "i", "c"),
            node("Cast", "c", "out", to=FLOAT),
        ),
        "type",
        "the_exp",
        "i is INT32",
    ),
    "double precision": (
        graph(CAST, node("Cast", "f", "d", to=TensorProto.DOUBLE), node("Cast", "d", "out", to=FLOAT)),
        "hot path",
        "the_cast",
        "in DOUBLE",
    ),
    "a type that only newer parsers have for the operator": (
        graph(
            CAST,
            node("Cast", "f", "i", to=TensorProto.INT32),
            node("Clip", "i", "c"),
            node("Cast", "c", "out", to=FLOAT),
        ),
        "older parser",
        "the_clip",
        "in INT32",
    ),
    "a quantised tensor that is not dequantised at once": (
        graph(
            CAST,
            node("QuantizeLinear", "f scale point", "q"),
            node("Relu", "q", "r"),
            node("DequantizeLinear", "r scale point", "out"),
            constants={"scale": SCALE, "point": ZERO_POINT},
        ),
        "quantisation",
        "the_relu",
        "INT8 is supported between",
    ),
    "uint8 that is moved before it is cast": (
        graph(node("Transpose", "x", "t"), node("Cast", "t", "f", to=FLOAT), RELU, output=("out", FLOAT, (4, 1))),
        "uint8",
        "the_transpose",
        "cast it to float first",
    ),
    "a uint16 input": (graph(CAST, RELU, taken=UINT16), "hot path", "x", "UINT16"),
    "int64 arithmetic": (
        graph(node("Cast", "x", "i", to=INT64), node("Add", "i i", "s"), node("Cast", "s", "out", to=FLOAT)),
        "hot path",
        "the_add",
        "in INT64",
    ),
    "a dynamic side": (graph(CAST, RELU, shape=(1, "side"), output=("out", FLOAT, (1, "side"))), "shape", "x", "side"),
    "a shape that depends on the data": (
        graph(CAST, node("NonZero", "f", "n"), node("Cast", "n", "out", to=FLOAT), output=("out", FLOAT, (2, None))),
        "shape",
        "the_nonzero",
        "depends on the data",
    ),
    "an output that is an initializer": (
        graph(CAST, node("Relu", "f", "r"), output=("zero", FLOAT, (1, 4)), constants={"zero": ZERO}),
        "output",
        "zero",
        "an initializer",
    ),
    "an output that does not depend on the inputs": (
        graph(node("Identity", "zero", "out"), constants={"zero": ZERO}),
        "output",
        "out",
        "does not depend",
    ),
    "an asymmetric zero point": (
        graph(
            CAST,
            node("QuantizeLinear", "f scale point", "q"),
            node("DequantizeLinear", "q scale point", "out"),
            constants={"scale": SCALE, "point": np.array(3, np.int8)},
        ),
        "quantisation",
        "the_quantizelinear",
        "must be 0",
    ),
    "unsigned quantisation": (
        graph(
            CAST,
            node("QuantizeLinear", "f scale point", "q"),
            node("DequantizeLinear", "q scale point", "out"),
            constants={"scale": SCALE, "point": np.array(0, np.uint8)},
        ),
        "quantisation",
        "the_dequantizelinear",
        "use INT8",
    ),
    "antialiased resizing": (
        graph(
            CAST,
            helper.make_node("Resize", ["f", "", "", "sizes"], ["out"], name="the_resize", mode="linear", antialias=1),
            shape=(1, 1, 4, 4),
            output=("out", FLOAT, (1, 1, 2, 2)),
            constants={"sizes": np.array([1, 1, 2, 2], np.int64)},
        ),
        "operator",
        "the_resize",
        "antialias is 1",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_each_rule_finds_what_breaks_it(name: str) -> None:
    model, rule, where, what = BAD[name]
    found = [problem for problem in check_model(model).problems if problem.rule == rule]
    assert any(where in problem.where and what in problem.what for problem in found), check_model(model).problems


def test_correct_graphs_pass_every_rule() -> None:
    quantised = graph(
        CAST,
        node("QuantizeLinear", "f scale point", "q"),
        node("DequantizeLinear", "q scale point", "d"),
        node("Cast", "d", "h", to=FLOAT16),
        node("Softmax", "h", "s"),
        node("Cast", "s", "out", to=FLOAT),
        constants={"scale": SCALE, "point": ZERO_POINT},
    )
    for model in (graph(CAST, RELU), quantised, graph(node("Relu", "x", "out"), taken=FLOAT)):
        onnx.checker.check_model(model, full_check=True)
        assert check_model(model) == Readiness(
            refusals=(), broken_rules=(), notes=(), against=check_model(model).against
        )


@pytest.mark.parametrize("batch", ["N", None])
def test_a_dynamic_batch_is_ready_because_the_build_fixes_it(batch: str | None) -> None:
    found = check_model(graph(CAST, RELU, shape=(batch, 4), output=("out", FLOAT, (batch, 4))))
    assert not found.problems and found.open_batch == ("x",)
    assert (found.to_json()["ready"], found.to_json()["static"]) == (True, False)
    assert len(found.notes) == 1 and "batch of x" in found.notes[0] and "edgefuse build --batch N" in found.notes[0]
    assert check_model(graph(CAST, RELU)).to_json()["static"] is True


def test_shapes_that_depend_on_the_data_are_found_with_a_dynamic_batch_too() -> None:
    nodes = (CAST, node("NonZero", "f", "n"), node("Cast", "n", "out", to=FLOAT))
    rules = {
        batch: {
            problem.rule
            for problem in check_model(graph(*nodes, shape=(batch, 4), output=("out", FLOAT, (2, None)))).problems
        }
        for batch in (1, "N")
    }
    assert rules["N"] == rules[1] and "shape" in rules["N"]


def test_weights_in_another_file_are_found(tmp_path: Path) -> None:
    model = graph(CAST, node("Add", "f big", "out"), constants={"big": np.ones((1, 4), np.float32)})
    path = tmp_path / "m.onnx"
    onnx.save(model, str(path), save_as_external_data=True, size_threshold=0, location="m.data")
    assert [problem.rule for problem in check_file(path).broken_rules] == ["external data"]
    (tmp_path / "m.data").unlink()  # the rule does not read it
    assert [problem.where for problem in check_file(path).broken_rules] == ["big"]


def test_the_error_has_all_problems() -> None:
    model = graph(node("Transpose", "x", "t"), node("Det", "t", "d"), node("Mish", "d", "out"), shape=(4, 4))
    with pytest.raises(NotReadyError) as caught:
        refuse_unready(check_model(model), what="m.onnx")
    for words in ("m.onnx", "the_transpose", "the_det", "the_mish", "lint-onnx"):
        assert words in str(caught.value)


def test_a_file_that_tensorrt_would_refuse_is_not_written(tmp_path: Path) -> None:
    """Every file of an export is written by `save_model`."""
    from edgefuse_export.onnx.torch_to_onnx import save_model

    with pytest.raises(NotReadyError, match=r"m.onnx (.|\n)*the_mish"):
        save_model(BAD["an operator of newer parsers"][0], tmp_path / "m.onnx", metadata={"edgefuse.format": "1"})
    assert not list(tmp_path.iterdir())
    save_model(graph(CAST, RELU), tmp_path / "m.onnx", metadata={"edgefuse.format": "1"})
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_the_list_names_its_source_and_real_operators() -> None:
    listed = supported()
    assert "onnx-tensorrt" in listed["sources"][0] and listed["lists"]["newest"]["tensorrt"] == "10.15"
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history()}
    unknown = {name for name in listed["operators"] if name not in known}
    assert unknown == {"ParametricSoftplus", "ScaledTanh", "ImageScaler"}  # experimental ones that ONNX has dropped
    newer = {(operator, one) for operator, types in listed["only_in_newest"].items() for one in types}
    assert newer <= {(operator, one) for operator, types in listed["operators"].items() for one in types}


@pytest.mark.parametrize(
    ("content", "word"), [(None, "does not exist"), (b"not protobuf", "not an ONNX file"), (b"", "empty")]
)
def test_a_file_that_is_not_onnx_is_reported(content: bytes | None, word: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=word):
        check_file(path)
