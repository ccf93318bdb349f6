"""Files of models with the logarithmic encoding, on edge-case frames too, and what TensorRT's parser takes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from export_runs import CONTRACT, LABELS, new_model, parity_in_fp32, samples, tensors
from rtx_network import parsed

from edgefuse.contract import InputContract, bytes_from_codes
from edgefuse.evaluation.compare_outputs import FP16_TOLERANCE, check_parity
from edgefuse.training.loop import torch_predictor
from edgefuse_export.onnx.check_precision import module_of
from edgefuse_export.onnx.fp16 import fp16_from_model
from edgefuse_export.onnx.torch_to_onnx import onnx_from_model
from edgefuse_export.ort_reference import reference_predictor, reference_session

MODELS = pytest.mark.parametrize(("fusion", "depth"), [("spatial", "scratch"), ("depth", "defm_resnet18")])


@MODELS
def test_the_fp32_file_has_the_answers_of_the_model(fusion: str, depth: str, tmp_path: Path) -> None:
    model = new_model(fusion, encoding="log", depth=depth)
    path = onnx_from_model(model, tmp_path / "m.onnx", contract=CONTRACT, labels=LABELS)
    report = parity_in_fp32(torch_predictor(model), reference_predictor(path))
    assert not report.failures() and len(report.cases) > 10
    encode = {node.op_type for node in onnx.load(path).graph.node if module_of(node) == "encode"}
    assert {"Log", "MaxPool"} <= encode and not {"ReduceMax", "ReduceMin"} & encode


def test_no_value_is_infinite_without_a_range_of_depth(tmp_path: Path) -> None:
    """Not even one that is not used: every value of the encoding is made an output."""
    path = onnx_from_model(new_model("depth", encoding="log"), tmp_path / "m.onnx", contract=CONTRACT, labels=LABELS)
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    names = {node.output[0] for node in model.graph.node if module_of(node) == "encode"}
    values = [value for value in model.graph.value_info if value.name in names]
    assert len(values) == len(names) > 15
    model.graph.output.extend(values)
    session = reference_session(model.SerializeToString())
    rgb = np.zeros((1, 32, 32, 3), np.uint8)
    for code in (0, 1, 700, 65535):
        depth = bytes_from_codes(np.full((1, 32, 32), code, np.uint16))
        found = session.run([value.name for value in values], {"rgb": rgb, "depth": depth})
        assert all(np.isfinite(value).all() for value in found), code


@MODELS
def test_the_fp16_model_has_the_answers_of_the_model(fusion: str, depth: str, tmp_path: Path) -> None:
    model = new_model(fusion, encoding="log", depth=depth)
    rgb_NHWC, depth_NHW2 = tensors(1)
    fp16 = fp16_from_model(model, rgb_NHWC=rgb_NHWC, depth_NHW2=depth_NHW2, keep_fp32=())
    rgb, codes = samples()
    report = check_parity(
        reference=torch_predictor(model),
        candidate=torch_predictor(fp16.model),
        reference_name="FP32",
        candidate_name="FP16",
        rgb=rgb,
        depth=codes,
        contract=CONTRACT,
        tolerance=FP16_TOLERANCE,
    )
    assert not report.failures() and max(case.max_probability_difference for case in report.cases) > 0
    modules = fp16.fp32_modules
    path = onnx_from_model(fp16.model, tmp_path / "h.onnx", contract=CONTRACT, labels=LABELS, fp32_modules=modules)
    graph = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    (log, *_) = (node for node in graph.node if node.op_type == "Log")
    assert "encode" in modules and types[log.output[0]] == onnx.TensorProto.FLOAT


@pytest.mark.parametrize("size", [224, 1024])
def test_tensorrt_takes_every_size(size: int, tmp_path: Path) -> None:
    """Its windows have fewer than 100,000 pixels."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is for Linux on x86-64")
    contract = InputContract(size=size)
    model = new_model("depth", contract=contract, encoding="log")
    layers, _ = parsed(onnx_from_model(model, tmp_path / "m.onnx", contract=contract, labels=LABELS))
    kinds = [layer.kind for layer in layers if layer.module == "encode"]
    assert kinds.count("POOLING") == 4 and "REDUCE" not in kinds


@MODELS
def test_the_batch_can_be_dynamic(fusion: str, depth: str, tmp_path: Path) -> None:
    model = new_model(fusion, encoding="log", depth=depth)
    path = onnx_from_model(model, tmp_path / "m.onnx", contract=CONTRACT, labels=LABELS, batch="dynamic")
    rgb, codes = samples(5)
    for found, expected in zip(reference_predictor(path)(rgb, codes), torch_predictor(model)(rgb, codes), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not {"Shape", "Expand"} & {node.op_type for node in onnx.load(path).graph.node}  # they would be INT64
