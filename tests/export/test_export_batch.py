"""Files with a fixed batch of N pairs or a dynamic one: their shapes, and the same outputs for each pair as alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from engine_scenes import build, installed, make_engine_bundle
from export_runs import CONTRACT, LABELS, new_model, parity_in_fp32, samples
from numpy.typing import NDArray
from typer.testing import CliRunner

import edgefuse
import edgefuse_export.onnx.export
from edgefuse.app.main import build_app
from edgefuse.bundle import Bundle, open_bundle
from edgefuse.contract import InputContract, Outputs
from edgefuse.errors import UserError
from edgefuse.model.choices import FusionKind
from edgefuse.training.fold_frozen_batchnorm import for_prediction
from edgefuse.training.loop import torch_predictor
from edgefuse_export.onnx.export import ExportSummary, export_run
from edgefuse_export.onnx.parity_error import ParityError
from edgefuse_export.onnx.torch_to_onnx import Batch, onnx_from_model
from edgefuse_export.ort_reference import reference_predictor
from edgefuse_export.tensorrt.lint import check_file
from edgefuse_runtime.classifier import Classifier
from edgefuse_runtime.engines.tensorrt import TensorRTEngine
from host_memory import HostMemory

FILES = ("model.onnx", "model.fp16.onnx", "model.int8.onnx")


@pytest.fixture(scope="module", params=[3, "dynamic"])
def summary(
    request: pytest.FixtureRequest, trained_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> ExportSummary:
    out = tmp_path_factory.mktemp("bundles") / "bundle"
    precisions = ("fp32", "fp16", "int8")
    return export_run(trained_run, out, precisions=precisions, num_calibration_frames=20, batch=request.param)


def first_dimensions(path: Path) -> set[int | str]:
    graph = onnx.load(str(path)).graph
    dimensions = [value.type.tensor_type.shape.dim[0] for value in (*graph.input, *graph.output)]
    return {dimension.dim_param or dimension.dim_value for dimension in dimensions}


def test_every_file_and_the_manifest_have_the_batch(summary: ExportSummary) -> None:
    bundle = summary.bundle
    batch = json.loads((bundle.folder / "manifest.json").read_text())["model"]["batch_size"]
    assert bundle.manifest.batch_size == (None if batch == "dynamic" else 3)
    for name in FILES:
        assert first_dimensions(bundle.file(name)) == {"N" if batch == "dynamic" else 3}
        readiness = check_file(bundle.file(name))
        assert not readiness.problems and bool(readiness.open_batch) == (batch == "dynamic")


def test_every_file_has_the_same_outputs_for_a_pair_alone_and_in_a_batch(summary: ExportSummary) -> None:
    rgb, depth = samples(8)
    for name in FILES:
        cases = {case.name: case for case in summary.reports[name][-1].cases}  # on the engine that live uses
        (case,) = [case for text, case in cases.items() if text.startswith("batches of ")]
        assert case.num_samples == cases["real samples"].num_samples
        with Classifier(summary.bundle.folder, file=name, engine="cpu") as classifier:
            together = classifier.predict_framed(rgb, depth)
            alone = [classifier.predict_framed(rgb[i : i + 1], depth[i : i + 1]) for i in range(8)]
        for i in (0, 1):
            np.testing.assert_allclose(together[i], np.concatenate([one[i] for one in alone]), atol=1e-5)


def test_a_file_whose_pairs_change_each_others_outputs_is_refused(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Mixing(Classifier):
        def predict_framed(self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8], /) -> Any:
            return Outputs(*(np.roll(array, 1, axis=0) for array in super().predict_framed(rgb, depth)))

    monkeypatch.setattr(edgefuse_export.onnx.export, "Classifier", Mixing)
    with pytest.raises(ParityError, match="batches of 3: probabilities differ by"):
        export_run(trained_run, tmp_path / "bundle", batch=3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fusion", get_args(FusionKind))
def test_every_fusion_supports_a_dynamic_batch(fusion: str, tmp_path: Path) -> None:
    model = new_model(fusion, encoding="relative" if fusion in ("spatial", "depth") else "absolute")
    path = onnx_from_model(model, tmp_path / "m.onnx", contract=CONTRACT, labels=LABELS, batch="dynamic")
    assert first_dimensions(path) == {"N"}
    predict = reference_predictor(path)
    for num_pairs in (1, 5):
        rgb, depth = samples(num_pairs)
        for found, expected in zip(predict(rgb, depth), torch_predictor(model)(rgb, depth), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5)
    graph = onnx.load(str(path)).graph
    assert not {"Shape", "Expand"} & {node.op_type for node in graph.node}  # their shapes would be INT64


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2", "mobilenet_v3_small"])
def test_backbones_of_torchvision_support_a_dynamic_batch(backbone: str, tmp_path: Path) -> None:
    contract = InputContract(size=64)
    model = new_model("spatial", contract=contract, rgb=backbone, depth=backbone, encoding="relative")
    path = onnx_from_model(model, tmp_path / "m.onnx", contract=contract, labels=LABELS, batch="dynamic")
    rng = np.random.default_rng(0)
    rgb, depth = (rng.integers(0, 256, (3, 64, 64, channels), np.uint8) for channels in (3, 2))
    for found, expected in zip(reference_predictor(path)(rgb, depth), torch_predictor(model)(rgb, depth), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("batch", [0, -1, 1025, "N", True, 2.0, None])
def test_an_invalid_batch_is_refused(batch: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the batch is .*: 1 to 1024 or 'dynamic' was expected"):
        onnx_from_model(new_model(), tmp_path / "m.onnx", contract=CONTRACT, labels=LABELS, batch=batch)


@pytest.mark.parametrize("batch", [0, "N", True, None, [2]])
def test_a_manifest_with_an_invalid_batch_is_refused(batch: Any, summary: ExportSummary, tmp_path: Path) -> None:
    value = json.loads((summary.bundle.folder / "manifest.json").read_text())
    value["model"]["batch_size"] = batch
    (tmp_path / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(UserError, match="its batch size is"):
        open_bundle(tmp_path)
    del value["model"]["batch_size"]  # as in older bundles
    (tmp_path / "manifest.json").write_text(json.dumps(value))
    assert open_bundle(tmp_path).manifest.batch_size == 1


def test_the_command_and_the_function_accept_a_batch(trained_run: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        build_app("export"), ["export", str(trained_run), "--out", str(tmp_path / "two"), "--batch", "2"]
    )
    assert done.exit_code == 0, done.output
    assert open_bundle(tmp_path / "two").manifest.batch_size == 2
    assert edgefuse.export(trained_run, tmp_path / "any", batch="dynamic").manifest.batch_size is None
    for bad in ("0", "1025", "many", "2.5", "²"):
        done = CliRunner().invoke(
            build_app("export"), ["export", str(trained_run), "--out", str(tmp_path / "no"), "--batch", bad]
        )
        assert done.exit_code == 2 and "or dynamic" in done.output, done.output


# TensorRT: one plan, one batch


def plan_of(bundle: Bundle, memory: HostMemory) -> tuple[int | None, str]:
    with TensorRTEngine(bundle, open_memory=lambda: memory) as engine:
        rgb, depth = samples(1)
        assert engine.run(rgb, depth).probabilities.shape == (1, 2)
        return engine.batch_size, str(engine.description["plan"])


@pytest.mark.parametrize("batch", [3, "N"])
def test_a_plan_has_the_bundles_batch_or_the_largest_that_was_built(
    batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = installed("10.16.1.11", monkeypatch)
    bundle = make_engine_bundle(tmp_path / "bundle", batch=batch)
    memory = HostMemory(fake=fake)
    first = build(fake, bundle)
    assert first.record.batch_size == (3 if batch == 3 else 1)
    assert plan_of(first.bundle, memory) == (first.record.batch_size, first.record.name)
    if batch == "N":
        build(fake, bundle, batch_size=4)
        third = build(fake, bundle, batch_size=2)
        assert plan_of(third.bundle, memory)[0] == 4


@pytest.mark.parametrize("fusion", ["gated", "spatial", "naive"])
def test_a_model_prepared_for_prediction_has_the_file_of_any_other(fusion: str, tmp_path: Path) -> None:
    """Its weights need no gradients, which says nothing about whether the gate is constant."""
    model = new_model(fusion)
    expected = torch_predictor(new_model(fusion))
    with for_prediction(model):
        path = onnx_from_model(model, tmp_path / "m.onnx", contract=CONTRACT, labels=LABELS)
    report = parity_in_fp32(expected, reference_predictor(path))
    assert not report.failures()
