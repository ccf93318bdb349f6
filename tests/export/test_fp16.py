"""The FP16 file: which layers are in FP16, and models that exceed the range of FP16."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from export_runs import CONTRACT, LABELS, new_model, overflowing, overflowing_run, tensors
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from edgefuse.bundle import open_bundle
from edgefuse.contract import InputContract, bytes_from_codes
from edgefuse.errors import UserError
from edgefuse.model.choices import FUSION_KINDS
from edgefuse.model.classifier import FusionClassifier, predict
from edgefuse_export.onnx.activation_statistics import TorchActivationObserver, describe
from edgefuse_export.onnx.check_precision import SCOPES_KEY, check_types, module_of
from edgefuse_export.onnx.export import ExportSummary, export_run
from edgefuse_export.onnx.fp16 import Fp16Model, fold_batchnorm, fp16_from_model, inside
from edgefuse_export.onnx.parity_error import ParityError
from edgefuse_export.onnx.torch_to_onnx import onnx_from_model
from edgefuse_export.ort_reference import reference_session
from logs import logged


def fp16_of(model: FusionClassifier, *keep: str) -> Fp16Model:
    rgb, depth = tensors(1)
    return fp16_from_model(model, rgb_NHWC=rgb, depth_NHW2=depth, keep_fp32=keep)


def fp16_graph(model: FusionClassifier, path: Path, *keep: str) -> onnx.ModelProto:
    fp16 = fp16_of(model, *keep)
    onnx_from_model(fp16.model, path, contract=CONTRACT, labels=LABELS, fp32_modules=fp16.fp32_modules)
    return onnx.load(str(path))


def types_by_module(model: onnx.ModelProto) -> dict[str, set[str]]:
    """Module -> the types of the outputs of its nodes, including casts of its inputs."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.output)}
    found: dict[str, set[str]] = {}
    for node in graph.node:
        kinds = {onnx.TensorProto.DataType.Name(types[name]) for name in node.output}
        found.setdefault(module_of(node) or "", set()).update(kinds)
    return found


@pytest.mark.parametrize("fusion", FUSION_KINDS)
def test_layers_are_in_fp16_and_decoding_and_softmax_in_fp32(fusion: str, tmp_path: Path) -> None:
    encoding = "relative" if fusion == "spatial" else "absolute"
    graph = fp16_graph(new_model(fusion, encoding=encoding), tmp_path / "h.onnx")
    found = types_by_module(graph)
    kept = ("decode", "nearest_surface", "encode", "spatial_gate")
    assert all(kinds - {"BOOL"} == {"FLOAT"} for module, kinds in found.items() if module.startswith(kept))
    others = {module: kinds for module, kinds in found.items() if module and not module.startswith(kept)}
    assert len(others) > 10 and all(kinds == {"FLOAT16"} for kinds in others.values())
    (softmax,) = (node for node in graph.graph.node if node.op_type == "Softmax")
    types = {v.name: v.type.tensor_type.elem_type for v in graph.graph.output}
    assert types == dict.fromkeys(("probabilities", "gate", "nearest_m"), onnx.TensorProto.FLOAT)
    assert "probabilities" in softmax.output


def test_a_model_declares_what_it_computes_in_fp32(tmp_path: Path) -> None:
    """A module between decoding and the backbone, such as an encoding of depth, whose name is not in the export code."""

    class Encode(nn.Module):
        def forward(self, depth_N2HW: Tensor) -> Tensor:
            return depth_N2HW * 3.0 - 1.0

    class Features(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.encode, self.inner = Encode(), inner

        def forward(self, depth_N2HW: Tensor) -> Tensor:
            return self.inner(self.encode(depth_N2HW))  # type: ignore[no-any-return]

    model = new_model()
    model.depth_features = Features(model.depth_features)  # type: ignore[assignment, arg-type]
    assert types_by_module(fp16_graph(model, tmp_path / "a.onnx"))["depth_features.encode"] == {"FLOAT16"}
    model.fp32_modules = (*model.fp32_modules, "*.encode")  # type: ignore[assignment]
    found = types_by_module(fp16_graph(model, tmp_path / "b.onnx"))
    assert found["depth_features.encode"] == {"FLOAT"} and "FLOAT" not in found["core.fusion"]


def test_only_modules_to_keep_are_in_fp32(tmp_path: Path) -> None:
    found = types_by_module(fp16_graph(new_model(), tmp_path / "h.onnx", "core.head", "rgb_*.project.0"))
    in_fp32 = {module for module, kinds in found.items() if module and "FLOAT" in kinds}
    assert in_fp32 == {
        "decode",
        "nearest_surface",
        "core.head.0",
        "core.head.1",
        "core.head.3",
        "rgb_features.project.0",
    }


def test_a_tensor_of_the_wrong_type_is_named(tmp_path: Path) -> None:
    class Sneaky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.float() * 1.5).to(x.dtype)

    model = new_model()
    assert model.rgb_features is not None
    model.rgb_features.project.append(Sneaky())
    with pytest.raises(UserError, match=r"Mul in rgb_features.project.2\) is FLOAT, FLOAT16 was expected"):
        fp16_graph(model, tmp_path / "h.onnx")
    assert not list(tmp_path.iterdir())


def test_types_of_an_fp32_graph_are_refused(tmp_path: Path) -> None:
    path = onnx_from_model(new_model(), tmp_path / "m.onnx", contract=CONTRACT, labels=LABELS)
    with pytest.raises(UserError, match="FLOAT16 was expected"):
        check_types(onnx.load(str(path)), fp32_modules=("decode",))


@pytest.mark.parametrize("backbone", ["small", "resnet18", "mobilenet_v2"])
def test_folding_keeps_the_outputs_and_removes_all_normalisation(backbone: str) -> None:
    model, reference = (new_model(rgb=backbone) for _ in range(2))
    for one in (model, reference):  # statistics other than the initial ones
        for norm in (m for m in one.modules() if isinstance(m, nn.BatchNorm2d)):
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.fill_(0.3)
            norm.running_var.fill_(2.0)
    fold_batchnorm(model, *tensors(2))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    for a, b in zip(predict(model, *tensors(3, seed=5)), predict(reference, *tensors(3, seed=5)), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_a_convolution_that_runs_twice_is_not_folded() -> None:
    conv, norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
    shared = nn.Sequential(conv, norm, conv).eval()
    fold_batchnorm(shared, torch.rand(1, 3, 4, 4))
    assert shared[1] is norm


def test_depth_keeps_2_5_mm_at_10_m_through_the_exported_graph(tmp_path: Path) -> None:
    """All 65,536 codes, up to the FP16 tensor that enters the depth backbone."""
    contract = InputContract(size=256, near_m=0.0, far_m=10.0)
    model = new_model(contract=contract)
    rgb = torch.zeros(1, 256, 256, 3, dtype=torch.uint8)
    fp16 = fp16_from_model(model, rgb_NHWC=rgb, depth_NHW2=rgb[..., :2])
    path = onnx_from_model(
        fp16.model, tmp_path / "h.onnx", contract=contract, labels=LABELS, fp32_modules=fp16.fp32_modules
    )
    graph = onnx.load(str(path))
    (entry,) = (n for n in graph.graph.node if n.op_type == "Cast" and module_of(n) == "depth_features")
    codes = np.arange(65536, dtype=np.uint16).reshape(1, 256, 256)
    part = onnx.utils.Extractor(graph).extract_model(["depth"], [entry.output[0]])
    (found,) = ReferenceEvaluator(part).run(None, {"depth": bytes_from_codes(codes)})
    assert found.dtype == np.float16 and found.shape == (1, 2, 256, 256)
    expected_m = np.clip(codes[0] * 0.001, 0.0, 10.0)
    error_m = np.abs(found[0, 0].astype(np.float64) * 10.0 - expected_m)
    error_m[codes[0] == 0] = 0
    assert error_m.max() <= 2.5e-3
    np.testing.assert_array_equal(found[0, 1], (codes[0] > 0).astype(np.float16))


def test_the_observer_sees_every_operation_and_names_its_module() -> None:
    fp16 = fp16_of(overflowing(new_model()))
    observer = TorchActivationObserver(dtype=torch.float16)
    with observer.on(fp16.model) as seen:
        predict(fp16.model, *tensors(2))
    assert next(iter(seen.not_finite)) == "rgb_features.project.0"
    assert "depth_features.project.0" not in seen.not_finite
    assert seen.largest["decode"] == 0.0  # code 65535 in FP32 does not count for FP16
    assert not any(m._forward_hooks for m in fp16.model.modules())
    wide = TorchActivationObserver()
    model = overflowing(new_model())
    with wide.on(model) as seen:
        predict(model, *tensors(2))
    over = seen.over(65504.0)
    assert {"rgb_features.project.0", "rgb_features.project.1", "core.fusion", "core.head.0"} <= set(over)


def test_a_model_that_overflows_is_refused_and_passes_with_keep_fp32(trained_run: Path, tmp_path: Path) -> None:
    run = overflowing_run(trained_run, tmp_path / "run")
    with pytest.raises(ParityError, match="no bundle was written") as caught:
        export_run(run, tmp_path / "b", precisions=("fp32", "fp16"))
    text = str(caught.value)
    assert "rgb_features.project.0" in text and "beyond 65504" in text and "NaN or infinite" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]

    # With the options of the message it is exported; here without its data, so compared only on the run's stored samples.
    options = re.findall(r"--keep-fp32 '([^']+)'", text)
    info = json.loads((run / "run.json").read_text())
    info["data"]["roots"] = [str(tmp_path / "removed")]
    (run / "run.json").write_text(json.dumps(info))
    with logged() as messages:
        summary = export_run(run, tmp_path / "b", precisions=("fp16",), keep_fp32=options)
    manifest = summary.bundle.manifest
    entry = manifest.parity["model.fp16.onnx"]
    assert all(inside(name, entry["fp32_modules"]) for name in ("decode", "encode", *options))
    assert entry["activations"]["not_finite"] == {}
    assert set(manifest.files) == {"model.onnx", "model.fp16.onnx", "samples.npz"}
    assert any("removed" in text for text in messages) and entry["cases"][0]["num_samples"] <= 16


def test_the_manifest_has_the_comparisons_of_the_fp16_file(all_precisions: ExportSummary) -> None:
    bundle = open_bundle(all_precisions.bundle.folder)
    assert bundle.manifest.files["model.fp16.onnx"].precision == "fp16"
    bundle.file("model.fp16.onnx")  # its digest
    entry = bundle.manifest.parity["model.fp16.onnx"]
    assert entry["cases"][0]["name"] == "real samples" and entry["cases"][0]["num_samples"] > 16
    assert 0 < entry["cases"][0]["max_probability_difference"] <= 0.02  # FP16 rounds: no difference would mean FP32
    assert 0 < entry["activations"]["largest"] < 65504 and entry["activations"]["not_finite"] == {}
    assert {"decode", "encode"} <= set(entry["fp32_modules"]) and entry["tensorrt"]["ready"] and entry["file"]["cases"]
    assert json.loads(json.dumps(entry)) == entry
    rounding, file = all_precisions.reports["model.fp16.onnx"]
    assert "FP16" in rounding.candidate and "ONNX Runtime" in file.candidate


def test_patterns_that_match_nothing_are_named(trained_run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"'layer7\*' matches no module; modules: decode, nearest_surface, encode, spatial_gate, .*rgb_features",
    ):
        export_run(trained_run, tmp_path / "b", precisions=("fp16",), keep_fp32=("layer7*",))
    with pytest.raises(UserError, match="'fp8' is unknown"):
        export_run(trained_run, tmp_path / "b", precisions=("fp8",))
    assert not list(tmp_path.iterdir())


def test_depth_keeps_its_millimetres_through_the_relative_encoding_too(tmp_path: Path) -> None:
    """Every code, each near a nearest surface: nearness is computed in FP32, and FP16 then has a precision of 0.1 mm.

    256 frames: the upper half of each is the nearest surface, the lower half the next 256 codes.
    """
    contract = InputContract(size=32, near_m=0.0, far_m=10.0)
    depth_window_m, margin = 0.3, 0.1
    model = new_model("spatial", contract=contract, encoding="relative", depth_window_m=depth_window_m)
    rgb, depth = tensors(1)
    fp16 = fp16_from_model(model, rgb_NHWC=rgb, depth_NHW2=depth)
    path = onnx_from_model(
        fp16.model, tmp_path / "h.onnx", contract=contract, labels=LABELS, fp32_modules=fp16.fp32_modules
    )
    graph = onnx.load(str(path))
    (entry,) = (n for n in graph.graph.node if n.op_type == "Cast" and module_of(n) == "depth_features")
    part = onnx.utils.Extractor(graph).extract_model(["depth"], [entry.output[0]])
    session = reference_session(part.SerializeToString())  # computes in FP32, except for the last cast
    seen = np.zeros(65536, bool)
    for first in range(0, 65536, 256):
        codes = np.full((32, 32), max(first, 1), np.uint16)
        codes[16:] = np.tile(np.arange(first, first + 256), 2).reshape(16, 32)
        (found,) = session.run(None, {"depth": bytes_from_codes(codes[None])})
        assert found.dtype == np.float16 and found.shape == (1, 4, 32, 32)
        depth_m = np.clip(codes * 0.001, 0.0, 10.0)
        nearness = 1 - np.clip((depth_m - depth_m[0, 0] + margin * depth_window_m) / depth_window_m, 0, 1)
        nearness[codes == 0] = 0
        error_m = np.abs(found[0, 0].astype(np.float64) - nearness) * depth_window_m
        assert error_m.max() <= 1e-4, (first, error_m.max())
        np.testing.assert_array_equal(found[0, 1], codes > 0)
        seen[codes[nearness > 0]] = True
    assert seen[1:].all()


def test_magnitudes_are_those_of_activations_and_not_of_weights() -> None:
    class LargeWeights(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)
            nn.init.constant_(self.inner.weight, 5e4)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)  # type: ignore[no-any-return]

    model = LargeWeights()
    observer = TorchActivationObserver()
    with observer.on(model), torch.no_grad():
        model(torch.full((1, 4), 1e-3))
    assert 199 < observer.activations.largest["inner"] < 202
    words = describe(observer.activations.to_json(limit=65504.0))
    assert "the largest is 200" in words and "of 65504 (0.31%), in inner" in words
    with torch.no_grad():
        model.inner.weight[0, 0] = torch.inf  # a weight beyond the range of FP16 becomes infinite
    with observer.on(model), torch.no_grad():
        model(torch.zeros(1, 4))
    assert observer.activations.not_finite["inner"]


def test_a_weight_of_the_wrong_type_is_named(tmp_path: Path) -> None:
    graph = fp16_graph(new_model(), tmp_path / "h.onnx")
    check_types(graph, fp32_modules=("decode", "nearest_surface"))
    node = next(n for n in graph.graph.node if n.op_type == "Gemm" and module_of(n) == "core.head.0")
    weight = next(one for one in graph.graph.initializer if one.name == node.input[1])
    wide = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight).astype(np.float32), weight.name)
    weight.CopyFrom(wide)
    known = [value for value in graph.graph.value_info if value.name != weight.name]
    del graph.graph.value_info[:]
    graph.graph.value_info.extend(known)
    at = list(graph.graph.node).index(node)
    cast = onnx.helper.make_node("Cast", [weight.name], ["narrowed"], to=onnx.TensorProto.FLOAT16)
    cast.metadata_props.extend(node.metadata_props)
    node.input[1] = "narrowed"
    graph.graph.node.insert(at, cast)
    with pytest.raises(UserError, match=r"Cast in core.head.0\) is FLOAT, FLOAT16 was expected"):
        check_types(graph, fp32_modules=("decode", "nearest_surface"))


@pytest.mark.parametrize("scopes", [["model", "model.decode", "op"], ["", "model", "aten.cat"], ["", "it's"], []])
def test_the_module_of_a_node_is_read_from_the_text_of_its_scopes(scopes: list[str]) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    node.metadata_props.add(key=SCOPES_KEY, value=str(scopes))
    last = ["", *scopes[:-1]][-1]
    assert module_of(node) == last.removeprefix("model").removeprefix(".")
