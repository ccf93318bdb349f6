"""Layer precisions from the JSON of the engine inspector, in the spelling of TensorRT 10."""

from __future__ import annotations

import json

import pytest

from edgefuse_export.tensorrt.inspect_engine import PrecisionError, check_precision, layers_by_precision


def layer(inputs: list[str], outputs: list[str], *, kind: str = "CaskConvolution") -> dict[str, object]:
    return {
        "Name": "layer",
        "LayerType": kind,
        "Inputs": [{"Name": "x", "Format/Datatype": text} for text in inputs],
        "Outputs": [{"Name": "y", "Format/Datatype": text} for text in outputs],
    }


def inspector_json(*layers: object) -> str:
    return json.dumps({"Layers": layers, "Bindings": ["rgb"]})


@pytest.mark.parametrize(
    ("inputs", "outputs", "kind"),
    [
        (["Half"], ["Half"], "half"),
        (["Row major linear FP16 format"], ["Float"], "half"),
        (["Two wide channel vectorized row major FP16 format"], ["Half"], "half"),
        (["Float"], ["Half"], "float"),  # it converts, and computes nothing in FP16
        (["Row major linear FP32"], ["Float"], "float"),
        (["Int8", "Half"], ["Half"], "int8"),
        (["Thirty-two wide channel vectorized row major Int8 format"], ["Half"], "int8"),
        (["BFloat16"], ["BFloat16"], "bf16"),
        (["FP8"], ["Half"], "fp8"),
        (["Float16"], ["Float16"], "half"),
        (["UInt8"], ["Float"], "other"),
        (["Int64"], ["Int64"], "other"),
        ([], ["Half"], "half"),
        (["N/A due to dynamic shapes"], ["Half"], "unknown"),
        ([], [], "unknown"),
    ],
)
def test_a_layer_counts_by_what_it_computes_on(inputs: list[str], outputs: list[str], kind: str) -> None:
    assert layers_by_precision(inspector_json(layer(inputs, outputs))) == {kind: 1}


def test_copies_do_not_make_an_engine_fp16() -> None:
    counts = layers_by_precision(
        inspector_json(
            *(layer(["Half"], ["Half"], kind=kind) for kind in ("Reformat", "NoOp", "Constant")),
            layer(["Float"], ["Float"]),
        )
    )
    assert counts == {"copy": 3, "float": 1}
    with pytest.raises(PrecisionError, match=r"no half layer \(layers: 3 copy, 1 float\)"):
        check_precision(counts, precision="fp16")


def test_layer_names_without_types_are_unknown() -> None:
    counts = layers_by_precision(inspector_json("conv1 + relu", "conv2"))
    assert counts == {"unknown": 2}
    for precision in ("fp16", "int8", "fp32"):
        with pytest.raises(PrecisionError):
            check_precision(counts, precision=precision)


@pytest.mark.parametrize(("precision", "kind"), [("fp16", "half"), ("int8", "int8"), ("fp32", "float")])
def test_one_layer_of_the_precision_is_enough(precision: str, kind: str) -> None:
    check_precision({kind: 1, "copy": 4}, precision=precision)


@pytest.mark.parametrize("key", ["Format/Datatype", "DataType", "Datatype"])
def test_the_type_is_read_from_each_of_its_fields(key: str) -> None:
    split = {"LayerType": "gemm", "Inputs": [{"Name": "x", "Format": "Row major linear", key: "Half"}], "Outputs": []}
    assert layers_by_precision(inspector_json(split)) == {"half": 1}


@pytest.mark.parametrize("text", ["", "not JSON", "{}", "null"])
def test_json_without_layers_is_refused(text: str) -> None:
    with pytest.raises(
        PrecisionError, match=r"returned no list of layers .*Report this .*edgefuse live BUNDLE --engine cuda"
    ):
        layers_by_precision(text)
