"""Small ONNX models, an operator and a type each: what TensorRT's parser is asked for, and its operator list compared with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

TYPES = {
    "FP32": TensorProto.FLOAT,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "DOUBLE": TensorProto.DOUBLE,
    "UINT16": TensorProto.UINT16,
}
"""The list's name -> ONNX's number. UINT16 is an example of the types that no part of TensorRT has."""


@dataclass(frozen=True)
class Form:
    """How an operator is used.

    Attributes:
        inputs: a tuple = the shape of a graph input of the type; a list = the shape of a constant of the type; an array = that
            constant; None = an optional input that is missing.
        output: type of the output, if it is not the first input's.
    """

    inputs: tuple[Any, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    output: int = 0
    opset: int = 18
    num_outputs: int = 1


def form(*inputs: Any, output: int = 0, opset: int = 18, num_outputs: int = 1, **attributes: Any) -> Form:
    return Form(inputs, attributes, output, opset, num_outputs)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def scalar(value: float, dtype: Any = np.int64) -> np.ndarray:
    return np.array(value, dtype)


FLAT, IMAGE, SQUARE = (1, 4), (1, 2, 8, 8), (4, 4)
BOOL, INT64, FLOAT = TensorProto.BOOL, TensorProto.INT64, TensorProto.FLOAT
_UNARY = (
    "Abs Acos Acosh Asin Asinh Atan Atanh Ceil Celu Clip Cos Cosh Dropout Elu Erf Exp Flatten Floor HardSigmoid HardSwish Hardmax "
    "Identity LeakyRelu Log LogSoftmax LpNormalization Neg Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh "
    "Softmax Softplus Softsign Sqrt Tan Tanh ThresholdedRelu Transpose Trilu"
)
_REDUCTIONS = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare"

FORMS: dict[str, Form] = {
    **{name: form(FLAT) for name in _UNARY.split()},
    **{name: form(FLAT, output=BOOL) for name in ("IsInf", "IsNaN", "Not")},
    **{name: form(FLAT, output=INT64) for name in ("Shape", "Size", "ArgMax", "ArgMin", "NonZero")},
    **{name: form(FLAT, FLAT) for name in ["Add", "Sub", "Mul", "Div", "Max", "Min", "Mean", "Sum", "Pow", "PRelu"]},
    **{
        name: form(FLAT, FLAT, output=BOOL)
        for name in ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor"]
    },
    **{f"Reduce{name}": form(SQUARE, ints(1)) for name in _REDUCTIONS.split()},
    **{
        name: form(IMAGE)
        for name in ["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "MeanVarianceNormalization"]
    },
    **{name: form(IMAGE, kernel_shape=[2, 2]) for name in ("AveragePool", "MaxPool", "LpPool")},
    "BatchNormalization": form(IMAGE, [2], [2], [2], [2]),
    "BlackmanWindow": form(scalar(8, np.int32), output=FLOAT),
    "Cast": form(FLAT, to=FLOAT, output=FLOAT),
    "CastLike": form(FLAT, np.ones(1, np.float32), output=FLOAT),
    "Concat": form(FLAT, FLAT, axis=1),
    "ConstantOfShape": form(ints(2, 2), output=FLOAT),
    "Conv": form(IMAGE, [3, 2, 3, 3], [3]),
    "ConvTranspose": form(IMAGE, [2, 3, 3, 3]),
    "CumSum": form(FLAT, scalar(1)),
    "DeformConv": form((1, 2, 4, 4), [1, 2, 2, 2], (1, 8, 3, 3), opset=19),
    "DepthToSpace": form((1, 4, 2, 2), blocksize=2),
    "DequantizeLinear": form((1, 4), scalar(0.1, np.float32), output=FLOAT),
    "Einsum": form(SQUARE, SQUARE, equation="ij,jk->ik"),
    "Expand": form(FLAT, ints(3, 4)),
    "EyeLike": form(SQUARE),
    "GRU": form((2, 1, 3), [1, 6, 3], [1, 6, 2], hidden_size=2),
    "Gather": form(SQUARE, ints(0, 2)),
    "GatherElements": form(SQUARE, np.zeros((4, 4), np.int64)),
    "GatherND": form(SQUARE, np.zeros((2, 1), np.int64)),
    "Gelu": form(FLAT, opset=20),
    "Gemm": form(SQUARE, [4, 4], [4]),
    "GridSample": form(IMAGE, (1, 3, 3, 2)),
    "GroupNormalization": form(IMAGE, [1], [1], num_groups=1),
    "HammingWindow": form(scalar(8, np.int32), output=FLOAT),
    "HannWindow": form(scalar(8, np.int32), output=FLOAT),
    "InstanceNormalization": form(IMAGE, [2], [2]),
    "LRN": form(IMAGE, size=3),
    "LSTM": form((2, 1, 3), [1, 8, 3], [1, 8, 2], hidden_size=2),
    "LayerNormalization": form(FLAT, [4], [4]),
    "MatMul": form(SQUARE, [4, 4]),
    "Mish": form(FLAT),
    "Mod": form(FLAT, FLAT, fmod=1),
    "NonMaxSuppression": form((1, 4, 4), (1, 1, 4), scalar(3), output=INT64),
    "OneHot": form(np.zeros((2,), np.int64), scalar(3), [2]),
    "Pad": form(FLAT, ints(0, 1, 0, 1)),
    "QuantizeLinear": form(FLAT, scalar(0.1, np.float32), scalar(0, np.int8), output=TensorProto.INT8),
    "RMSNormalization": form(FLAT, [4], opset=23),
    "RNN": form((2, 1, 3), [1, 2, 3], [1, 2, 2], hidden_size=2),
    "RandomNormal": form(shape=[2, 2], output=FLOAT),
    "RandomNormalLike": form(FLAT),
    "RandomUniform": form(shape=[2, 2], output=FLOAT),
    "RandomUniformLike": form(FLAT),
    "Range": form([], [], []),
    "Reshape": form(FLAT, ints(2, 2)),
    "Resize": form(IMAGE, None, None, ints(1, 2, 16, 16)),
    "ReverseSequence": form(SQUARE, ints(1, 2, 3, 4)),
    "RoiAlign": form(IMAGE, (1, 4), ints(0)),
    "ScatterElements": form(SQUARE, np.zeros((4, 4), np.int64), SQUARE),
    "ScatterND": form(SQUARE, np.zeros((2, 1), np.int64), (2, 4)),
    "Slice": form(FLAT, ints(0), ints(2), ints(1)),
    "SpaceToDepth": form((1, 1, 4, 4), blocksize=2),
    "Split": form(FLAT, ints(2, 2), axis=1, num_outputs=2),
    "Squeeze": form(FLAT, ints(0)),
    "Swish": form(FLAT, opset=24),
    "Tile": form(FLAT, ints(2, 1)),
    "TopK": form(FLAT, ints(2), num_outputs=2),
    "Unsqueeze": form(FLAT, ints(0)),
    "Upsample": form(IMAGE, np.array([1, 1, 2, 2], np.float32), opset=9),
    "Where": form(np.ones((1, 4), np.bool_), FLAT, FLAT),
}
"""An operator of the list -> its usual form."""

REFUSED: dict[str, Form] = {
    "AveragePool, dilations": form(IMAGE, kernel_shape=[2, 2], dilations=[2, 2], opset=19),
    "AffineGrid": form((1, 2, 3), ints(1, 1, 4, 4), opset=20),
    "BatchNormalization, training": form(IMAGE, [2], [2], [2], [2], training_mode=1, num_outputs=3),
    "Bernoulli": form(FLAT),
    "BitShift": form(FLAT, FLAT, direction="LEFT"),
    "BitwiseAnd": form(FLAT, FLAT),
    "Col2Im": form((1, 4, 4), ints(4, 4), ints(2, 2)),
    "Compress": form(FLAT, np.ones(4, np.bool_)),
    "ConvInteger": form(IMAGE, [1, 2, 3, 3]),
    "DFT": form((1, 4, 1), None, opset=17),
    "Det": form(SQUARE),
    "DynamicQuantizeLinear": form(FLAT, output=TensorProto.UINT8, num_outputs=3),
    "LayerNormalization, mean": form(FLAT, [4], [4], num_outputs=2),
    "LpPool, p=3": form(IMAGE, kernel_shape=[2, 2], p=3),
    "MatMulInteger": form(SQUARE, SQUARE),
    "MaxPool, dilations": form(IMAGE, kernel_shape=[2, 2], dilations=[2, 2]),
    "MaxPool, indices": form(IMAGE, kernel_shape=[2, 2], num_outputs=2),
    "MaxRoiPool": form(IMAGE, (1, 5), pooled_shape=[2, 2]),
    "MaxUnpool": form((1, 1, 2, 2), np.zeros((1, 1, 2, 2), np.int64), kernel_shape=[2, 2]),
    "Multinomial": form(FLAT, output=TensorProto.INT32),
    "Optional": form(FLAT),
    "ReduceSum, computed axes": form(SQUARE, "computed"),
    "Resize, antialias": form(IMAGE, None, None, ints(1, 2, 4, 4), mode="linear", antialias=1),
    "Resize, crop": form(
        IMAGE, [8], None, ints(1, 2, 4, 4), coordinate_transformation_mode="tf_crop_and_resize", mode="linear"
    ),
    "Resize, aspect": form(IMAGE, None, None, ints(1, 2, 4, 4), keep_aspect_ratio_policy="not_larger"),
    "ScatterND, add": form(SQUARE, np.zeros((2, 1), np.int64), (2, 4), reduction="add"),
    "SequenceConstruct": form(FLAT, FLAT),
    "SequenceEmpty": form(),
    "SoftmaxCrossEntropyLoss": form(SQUARE, np.zeros(4, np.int64)),
    "SplitToSequence": form(FLAT),
    "Squeeze, computed axes": form(FLAT, "computed"),
    "TfIdfVectorizer": form(
        FLAT, max_gram_length=1, max_skip_count=0, min_gram_length=1, mode="TF", ngram_counts=[0], ngram_indexes=[0]
    ),
    "Unique": form(FLAT),
}
"""What the parser refuses in FP32: operators, attributes, outputs and computed inputs."""


def model(name: str, form: Form, type_: int) -> Any:
    """The operator before the comma of `name`."""
    operator, inputs, constants, names = name.split(",", maxsplit=1)[0], [], [], []
    for number, one in enumerate(form.inputs):
        names.append("" if one is None else f"in{number}")
        if isinstance(one, tuple):
            inputs.append(helper.make_tensor_value_info(names[-1], type_, one))
        elif isinstance(one, str):
            inputs.append(helper.make_tensor_value_info(names[-1], INT64, (1,)))
        elif isinstance(one, list):
            constants.append(helper.make_tensor(names[-1], type_, one, [1] * prod(one)))
        elif one is not None:
            constants.append(numpy_helper.from_array(one, names[-1]))
    outputs = [f"out{number}" for number in range(form.num_outputs)]
    node = helper.make_node(operator, names, outputs, name=f"the_{operator.lower()}", **form.attributes)
    results = [helper.make_tensor_value_info(outputs[0], form.output or type_, None)]
    graph = helper.make_graph([node], "g", inputs, results, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", form.opset)], ir_version=11)


def nested(operator: str, inner: Any) -> Any:
    """An If with the node `inner` in both branches, or a Loop with it in its body; `inner` makes "y" from "in0"."""
    cond = helper.make_node("Constant", [], ["go"], value=numpy_helper.from_array(scalar(1, np.bool_)))
    value, flag = (helper.make_tensor_value_info(*one) for one in (("y", FLOAT, FLAT), ("go", BOOL, ())))
    if operator == "If":
        branches = {f"{name}_branch": helper.make_graph([inner], name, [], [value]) for name in ("then", "else")}
        outer = helper.make_node("If", ["on"], ["out0"], name="the_if", **branches)
    else:
        inputs = [
            helper.make_tensor_value_info(*one) for one in (("i", INT64, ()), ("c", BOOL, ()), ("s", FLOAT, FLAT))
        ]
        body = helper.make_graph([cond, inner], "body", inputs, [flag, value])
        outer = helper.make_node("Loop", ["times", "", "in0"], ["out0"], name="the_loop", body=body)
    graph = helper.make_graph(
        [outer],
        "g",
        [helper.make_tensor_value_info("in0", FLOAT, FLAT)],
        [helper.make_tensor_value_info("out0", FLOAT, FLAT)],
        [numpy_helper.from_array(scalar(1, np.bool_), "on"), numpy_helper.from_array(scalar(3), "times")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=11)


def all_cases() -> Iterator[tuple[str, str, Any]]:
    """(operator and what is special, type, model)"""
    for name, usual in FORMS.items():
        for type_name, type_ in TYPES.items():
            yield name, type_name, model(name, usual, type_)
    for name, refused in REFUSED.items():
        yield name, "FP32", model(name, refused, FLOAT)
    for type_name, type_ in TensorProto.DataType.items():
        if type_:
            yield "Identity", type_name, model("Identity", form(FLAT), type_)
    for operator in ("If", "Loop"):
        for inner in ("Relu", "Det"):
            yield (
                f"{operator}, {inner}",
                "FP32",
                nested(operator, helper.make_node(inner, ["in0"], ["y"], name="inner")),
            )
