"""The choice of the engine, and the log of those that were skipped."""

from __future__ import annotations

import dataclasses
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from runtime_scenes import draw_pair
from tensorrt_scenes import FP16_NAME, bundle_with_plan, engine_on

from edgefuse import framing
from edgefuse.bundle import MODEL_NAME, Bundle, open_bundle, write_manifest
from edgefuse.errors import MissingPackageError, UserError
from edgefuse_runtime.engines import fastest_file, open_engine
from edgefuse_runtime.engines.auto_engine import AutoEngine
from edgefuse_runtime.engines.engine_cache import PlanError, plan_records
from edgefuse_runtime.engines.onnxruntime import OnnxRuntimeEngine
from fake_tensorrt import FakeTensorRT
from host_memory import HostMemory
from logs import logged
from toy_bundle import make_toy_bundle, toy_answer


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    stand_in = FakeTensorRT()
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in.module)
    return stand_in


@pytest.fixture
def without_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("tensorrt", "tensorrt_rtx", "openvino"):
        monkeypatch.setitem(sys.modules, package, None)


@pytest.fixture
def without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])


def test_auto_uses_a_plan_that_matches(tmp_path: Path, fake: FakeTensorRT) -> None:
    planned = bundle_with_plan(tmp_path / "bundle", fake)
    candidates = {
        "tensorrt": engine_on(planned, HostMemory(fake=fake)),
        "cpu": OnnxRuntimeEngine(planned),
    }
    rgb, depth = framing_of("far")
    with logged() as messages, AutoEngine(planned, candidates=candidates) as engine:
        assert engine.description["engine"] == "tensorrt" and engine.description["passed_over"] == {}
        np.testing.assert_allclose(engine.run(rgb, depth).probabilities[0], toy_answer(rgb[0], depth[0])[0], atol=1e-5)
        assert {tensor.name for tensor in engine.inputs} == {"rgb", "depth"}
    assert messages == ["engine: tensorrt"]


def test_auto_skips_a_plan_of_another_gpu_and_logs_it(tmp_path: Path, fake: FakeTensorRT) -> None:
    planned = bundle_with_plan(tmp_path / "bundle", fake)
    fake.device, memory = "Another GPU", HostMemory(fake=fake)
    candidates = {"tensorrt": engine_on(planned, memory), "cpu": OnnxRuntimeEngine(planned)}
    with logged() as messages, AutoEngine(planned, candidates=candidates) as engine:
        assert engine.description["provider"] == "CPUExecutionProvider"
        assert "edgefuse build" in engine.description["passed_over"]["tensorrt"]
    (line,) = messages
    assert (
        line.startswith("warning: engine: cpu (tensorrt: ") and "'Another GPU'" in line and "edgefuse build" not in line
    )


def test_auto_without_a_gpu_runs_on_the_cpu_and_logs_why(
    bundle: Bundle, without_tensorrt: None, without_cuda: None
) -> None:
    with logged() as messages, open_engine(bundle) as engine:
        assert engine.description["provider"] == "CPUExecutionProvider"
        assert list(engine.description["passed_over"]) == ["tensorrt", "rtx", "cuda", "openvino"]
    assert messages == [
        "engine: cpu (tensorrt: TensorRT's Python bindings are not installed; rtx: TensorRT-RTX's Python bindings are not "
        "installed; cuda: onnxruntime-gpu is not installed; openvino: OpenVINO is not installed)"
    ]


def test_a_cuda_provider_that_does_not_load_is_passed_over_with_a_warning(
    bundle: Bundle, without_tensorrt: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine whose onnxruntime-gpu finds no CUDA: the package of this machine has no such provider."""
    import onnxruntime

    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    with logged() as messages, open_engine(bundle) as engine:
        assert engine.description["provider"] == "CPUExecutionProvider"
        assert "CUDAExecutionProvider" in engine.description["passed_over"]["cuda"]
    (line,) = [line for line in messages if "engine: cpu" in line]
    assert line.startswith("warning: engine: cpu (tensorrt: TensorRT's Python bindings are not installed; ")


@pytest.mark.parametrize(
    ("word", "command"),
    [
        ("tensorrt", "pip install 'edgefuse[tensorrt]'"),
        ("rtx", "pip install 'edgefuse[rtx]'"),
        ("cuda", "pip install 'edgefuse[gpu]'"),
    ],
)
def test_an_engine_chosen_by_name_is_never_replaced(
    bundle: Bundle, without_tensorrt: None, without_cuda: None, word: str, command: str
) -> None:
    with pytest.raises(MissingPackageError) as caught, open_engine(bundle, engine=word):
        pass
    assert command in str(caught.value)


def test_tensorrt_by_name_without_a_plan_has_the_build_command(bundle: Bundle, fake: FakeTensorRT) -> None:
    candidates = {"tensorrt": engine_on(bundle, HostMemory(fake=fake), precision="fp32")}
    with (
        pytest.raises(PlanError, match=f"edgefuse build {bundle.folder} --precision fp32"),
        AutoEngine(bundle, candidates=candidates),
    ):
        pass


def test_a_broken_bundle_is_an_error_with_any_engine(tmp_path: Path) -> None:
    broken = make_toy_bundle(tmp_path / "broken")
    (broken.folder / MODEL_NAME).write_bytes(b"else")
    with pytest.raises(UserError, match="not the file that was exported"), open_engine(broken):
        pass


def test_a_gpu_uses_the_fp16_file_and_the_cpu_the_fp32_one(tmp_path: Path, fake: FakeTensorRT) -> None:
    planned = bundle_with_plan(tmp_path / "bundle", fake)
    assert fastest_file(planned) == FP16_NAME
    assert fastest_file(make_toy_bundle(tmp_path / "toy")) == MODEL_NAME
    with open_engine(planned, engine="cpu") as engine:
        assert (engine.description["file"], engine.description["precision"]) == (MODEL_NAME, "fp32")
    with open_engine(planned, engine="cpu", file=FP16_NAME) as engine:
        assert (engine.description["file"], engine.description["precision"]) == (FP16_NAME, "fp16")
    with pytest.raises(UserError, match=r"has no model file 'model.x.onnx'; it has model.onnx, model.fp16.onnx$"):
        open_engine(planned, file="model.x.onnx")


def test_tensorrt_uses_the_best_plan_for_this_machine(tmp_path: Path, fake: FakeTensorRT) -> None:
    """FP16, but not the one of another GPU: the bundle was copied, and the engine of this machine is INT8."""
    planned = bundle_with_plan(tmp_path / "bundle", fake, precision="int8")
    with engine_on(planned, HostMemory(fake=fake)) as engine:
        assert engine.description["precision"] == "int8"
    (ours,) = plan_records(planned)
    entry, theirs = planned.manifest.files[ours.name], ours.name.replace("int8", "fp16")
    key = {**ours.key.to_json(), "precision": "fp16", "device_name": "Another GPU"}
    engines = {**planned.manifest.engines, theirs: {**ours.to_json(), "key": key}}
    manifest = dataclasses.replace(planned.manifest, files={**planned.manifest.files, theirs: entry}, engines=engines)
    write_manifest(planned.folder, manifest)
    both = open_bundle(planned.folder)
    assert [one.key.precision for one in plan_records(both)] == ["int8", "fp16"]
    with engine_on(both, HostMemory(fake=fake)) as engine:
        assert (engine.description["precision"], engine.description["plan"]) == ("int8", ours.name)
    fake.device = "Another GPU"
    with pytest.raises(PlanError, match=f"{theirs} is missing"), engine_on(both, HostMemory(fake=fake)):
        pass


def test_the_build_command_has_the_precision_of_the_closest_plan(tmp_path: Path, fake: FakeTensorRT) -> None:
    planned = bundle_with_plan(tmp_path / "bundle", fake, precision="int8")
    fake.device = "Another GPU"
    with pytest.raises(PlanError, match=r"'Another GPU'.*--precision int8"), engine_on(planned, HostMemory(fake=fake)):
        pass


def test_nothing_runs_before_and_after_with(bundle: Bundle) -> None:
    engine = open_engine(bundle, engine="cpu")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="outside of `with`"):
            engine.run(*framing_of("near"))
        assert engine.inputs == engine.outputs == ()
        with engine:
            engine.run(*framing_of("near"))


def test_no_folder_of_the_tests_is_imported_as_tensorrt() -> None:
    """`tests` is on the import path: a folder called tensorrt there would make the tests of "not installed" meaningless."""
    spec = find_spec("tensorrt")
    assert spec is None or spec.origin is not None


def framing_of(label: str) -> tuple[np.ndarray, np.ndarray]:
    pair = framing.fit(*draw_pair(label), size=32)
    return pair.rgb[np.newaxis], pair.depth[np.newaxis]
