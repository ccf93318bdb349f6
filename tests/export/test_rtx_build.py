"""Builds with TensorRT-RTX, NVIDIA's library, on this machine without a GPU: the stored plan, wrong input, and planted faults."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from engine_scenes import everything_in, host_opener, make_engine_bundle
from rtx_network import built, parsed, wrong_precisions
from tiny_models import TinyFiles, write_files

import edgefuse_export.tensorrt.build as build_module
import edgefuse_export.tensorrt.plan_from_onnx as plan_module
from edgefuse.bundle import Bundle, FileEntry, open_bundle, write_manifest
from edgefuse.errors import MissingPackageError, UserError
from edgefuse_export.ort_reference import reference_predictor
from edgefuse_export.tensorrt.build import BuildOptions, BuildSummary, build_engine, check_machine
from edgefuse_export.tensorrt.build_log import LINE_EVERY_S, reported
from edgefuse_export.tensorrt.inspect_engine import (
    ALLOWED_OVERHEAD,
    PlanSizeError,
    PrecisionError,
    check_plan_size,
)
from edgefuse_export.tensorrt.parse import Verdict, ask_parser
from edgefuse_export.tensorrt.plan_from_onnx import BuildError
from edgefuse_export.tensorrt.rtx_targets import TargetError
from edgefuse_runtime.classifier import Classifier
from edgefuse_runtime.engines.cuda_device import Gpu, NoGpuError
from edgefuse_runtime.engines.engine_cache import plan_records
from edgefuse_runtime.engines.tensorrt_library import RTX, load_library
from fake_tensorrt import Config, FakeTensorRT
from logs import logged

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is for Linux on x86-64")
ADA = Gpu(name="NVIDIA GeForce RTX 4090", compute_capability="8.9")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests are about a machine without a GPU, also where there is one."""

    def refuse() -> Gpu:
        raise NoGpuError("no GPU in this test")

    monkeypatch.setattr(build_module, "current_gpu", refuse)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_engine_bundle(tmp_path / "bundle")


def build(bundle: Bundle, *targets: str, **options: Any) -> BuildSummary:
    return build_engine(bundle.folder, BuildOptions(engine="rtx", targets=targets, **options))


def test_a_build_without_a_gpu_stores_a_plan_for_the_named_gpus(bundle: Bundle) -> None:
    percents: list[int] = []
    options = BuildOptions(engine="rtx", targets=("sm120", "SM86", "sm89"))
    summary = build_engine(bundle.folder, options, progress=lambda done, _total, *, stage: percents.append(done))
    record, key = summary.record, summary.record.key
    assert (key.engine, key.compute_capability, key.device_name) == ("rtx", "8.6, 8.9, 12.0", "any")
    assert key.tensorrt_version == trt.__version__ and record.details["versions"]["rtx"] == trt.__version__
    assert record.name.startswith(f"engines/fp16-sm86_sm89_sm120-rtx{trt.__version__}-")
    assert percents == sorted(percents) and percents[-1] == 100
    # The file has one product in FP16, and one each for depth, red and the gate in FP32.
    types = record.details["parsed_layers"]
    assert types["half"]["matrix_multiply"] == 1 and types["float"]["matrix_multiply"] == 3
    assert record.details["layers"] is None and record.details["parity"] is None
    (note,) = record.details["notes"]
    assert note.startswith("outputs not compared: built without a GPU")
    manifest = open_bundle(bundle.folder).manifest
    assert record.name in manifest.engines and record.name not in manifest.parity
    assert plan_records(open_bundle(bundle.folder)) == (record,)


def test_a_folder_whose_name_is_not_utf8(tmp_path: Path) -> None:
    made = make_engine_bundle(tmp_path / "b\udcff")
    assert build(made, "sm89").record.details["parsed_layers"]["half"]["matrix_multiply"] == 1
    assert ask_parser(made.folder / "model.fp16.onnx") == Verdict(parser=load_library(RTX).title, refusals=())
    samples = made.samples()
    with Classifier(made.folder, engine="cpu") as classifier:
        for predict in (reference_predictor(made.file()), classifier.predict_framed):
            found = predict(samples.rgb[:1], samples.depth[:1]).probabilities
            np.testing.assert_allclose(found, samples.probabilities[:1], atol=1e-4)


def test_it_is_built_again_only_for_other_gpus(bundle: Bundle) -> None:
    first = build(bundle, "sm86", "sm89")
    assert not build(bundle, "sm89", "sm86").built
    other = build(bundle, "sm120")
    assert other.built and {one.name for one in plan_records(open_bundle(bundle.folder))} == {
        first.record.name,
        other.record.name,
    }
    assert "8.6, 8.9" in other.reason or "sm86, sm89" in other.reason
    left = bundle.folder / "engines" / f"{Path(first.record.name).stem.rpartition('-')[0]}-0123456789ab.plan"
    left.touch()  # of a build that was killed
    build(bundle, "sm120", force=True)
    assert not left.exists() and (bundle.folder / first.record.name).exists()


def test_without_a_gpu_the_default_is_every_target_but_turing(bundle: Bundle) -> None:
    with logged() as lines:
        key = build(bundle).record.key
    names = [name for name in trt.ComputeCapability.__members__ if name not in ("NONE", "CURRENT", "SM75")]
    assert {one.replace(".", "") for one in key.compute_capabilities} == {name[2:] for name in names}
    assert any("sm86" in line and "--for sm75" in line for line in lines)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    """A library whose plans run, on a machine with a GPU."""
    fake = FakeTensorRT(version="1.7.1.116")
    fake.module.ComputeCapability = trt.ComputeCapability
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake.module)
    monkeypatch.setattr(Config, "num_compute_capabilities", 0, raising=False)
    monkeypatch.setattr(Config, "set_compute_capability", lambda *_: True, raising=False)
    monkeypatch.setattr(build_module, "current_gpu", lambda: ADA)
    return fake


def test_on_one_of_the_gpus_the_outputs_are_compared(bundle: Bundle, stand_in: FakeTensorRT) -> None:
    options = BuildOptions(engine="rtx")
    record = build_engine(bundle.folder, options, open_plan=host_opener(stand_in, bundle)).record
    assert record.key.compute_capability == "8.9"
    assert record.details["parity"]["cases"] and record.details["layers"]["half"] and not record.details["notes"]
    stand_in.faults.answers_off = 0.5
    with pytest.raises(UserError, match="outputs of the engine differ") as caught:
        build_engine(bundle.folder, BuildOptions(engine="rtx", force=True), open_plan=host_opener(stand_in, bundle))
    assert "build again, or use another --optimization-level" in str(caught.value) and "timing" not in str(caught.value)


@pytest.mark.parametrize(
    ("targets", "words"), [(("sm120",), "RTX 4090 is none of the GPUs that it was built for"), ((), "pycuda")]
)
def test_why_the_outputs_are_not_compared_is_noted(
    bundle: Bundle, stand_in: FakeTensorRT, targets: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> Any:
        raise MissingPackageError("this needs the package pycuda")

    monkeypatch.setattr(build_module, "open_gpu_memory", refuse)
    details = build(bundle, *targets).record.details
    assert details["parity"] is None and words in details["notes"][0]


@pytest.mark.parametrize(
    ("targets", "gpu", "words"),
    [
        (["sm87"], None, r"Jetson Orin.*desktop and workstation.*build on the device.*--engine tensorrt"),
        (["sm89", "sm110"], None, "Jetson Thor.*--engine tensorrt"),
        (["sm90"], None, "data-centre GPU.*H100.*--engine tensorrt"),
        (["sm88"], None, "none of the GPUs.*sm75.*sm86, sm89.*or current"),
        (["ada"], None, "--for ada is none of the GPUs.*sm86"),
        ([""], None, "--for '' is none of the GPUs.*sm86"),
        (["current"], None, "this machine, which has none: name the GPUs.*sm86"),
        (["current"], Gpu(name="H200", compute_capability="9.0"), "H200.*data-centre.*--engine tensorrt.*--for sm75,"),
        ([], Gpu(name="Orin", compute_capability="8.7"), "Orin, the GPU of this machine.*Jetson.*--engine tensorrt"),
    ],
)
def test_gpus_that_the_library_does_not_build_for(
    bundle: Bundle, targets: list[str], gpu: Gpu | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything_in(bundle.folder)
    if gpu is not None:
        monkeypatch.setattr(build_module, "current_gpu", lambda: gpu)
    with pytest.raises(TargetError, match=words):
        build(bundle, *targets)
    assert everything_in(bundle.folder) == before


def test_targets_are_for_rtx_only() -> None:
    with pytest.raises(UserError, match=r"--for sm89 is for --engine rtx.*or leave out --for"):
        BuildOptions(targets=("sm89",))
    with pytest.raises(UserError, match="engine 'trt' is unknown: one of tensorrt, rtx"):
        BuildOptions(engine="trt")


@pytest.mark.parametrize(
    ("version", "has_parser", "precision", "words"),
    [
        ("1.2.0.54", True, "fp16", r"TensorRT-RTX 1\.2\.0\.54 is installed, 1\.\d or newer.*edgefuse\[rtx\]"),
        ("1.6.1.120", True, "int8", "no engine from an INT8 file, 1.7 or newer does.*--precision fp16"),
        ("1.7.1.116", False, "fp16", r"without its ONNX parser.*pip install 'edgefuse\[rtx\]'"),
    ],
)
def test_a_library_that_is_old_or_only_runs_plans(
    version: str, has_parser: bool, precision: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parser = {"OnnxParser": object} if has_parser else {}
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", SimpleNamespace(__version__=version, **parser))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=words):
        check_machine(BuildOptions(engine="rtx", precision=precision))


def test_a_missing_parser_library_is_named(tmp_path: Path) -> None:
    """The real packages, without the file of the ONNX parser."""
    import tensorrt_rtx_bindings
    import tensorrt_rtx_libs

    for package in (tensorrt_rtx_libs, tensorrt_rtx_bindings):
        (tmp_path / package.__name__).mkdir()
        for file in Path(package.__path__[0]).iterdir():
            if file.is_file() and "onnxparser" not in file.name:
                (tmp_path / package.__name__ / file.name).symlink_to(file)
    code = "from edgefuse_export.tensorrt.build import *; check_machine(BuildOptions(engine='rtx'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    assert "the library libtensorrt_onnxparser_rtx.so.1 is missing" in done.stderr, done.stderr
    assert "pip install 'edgefuse[rtx]'" in done.stderr


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> TinyFiles:
    """Of a model with one of its convolutions kept in FP32."""
    folder = tmp_path_factory.mktemp("files")
    kept = ("rgb_features.backbone.features.0",)
    return write_files(folder, fusion="rgb", rgb="vgg", depth="vgg", encoding="absolute", keep_fp32=kept)


def test_a_convolution_left_in_fp32_is_found_unless_the_manifest_keeps_it(files: TinyFiles) -> None:
    layers, _ = parsed(files.paths["fp16"])
    assert not wrong_precisions(layers, precision="fp16", fp32_modules=files.fp32_modules)
    without = [name for name in files.fp32_modules if not name.startswith("rgb_features")]
    (found,) = wrong_precisions(layers, precision="fp16", fp32_modules=without)
    assert "CONVOLUTION in rgb_features.backbone.features.0) is FLOAT, HALF was expected" in found


def test_a_layer_without_quantised_input_is_found(files: TinyFiles, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(str(files.paths["int8"]))
    layer = [node for node in model.graph.node if node.op_type == "Conv"][-1]
    makers = {name: node for node in model.graph.node for name in node.output}
    layer.input[0] = makers[makers[layer.input[0]].input[0]].input[0]  # the tensor before Q and DQ
    onnx.save(model, str(tmp_path / "model.onnx"))
    layers, _ = parsed(tmp_path / "model.onnx")
    found = wrong_precisions(layers, precision="int8", fp32_modules=files.fp32_modules)
    assert [line for line in found if "data" in line and layer.name in line] == found


def test_an_operator_that_the_parser_refuses_is_named(files: TinyFiles, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(str(files.paths["fp16"]))
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    softmax.op_type, softmax.domain = "SoftmaxOfAnotherProject", "another.project"
    model.opset_import.append(onnx.helper.make_opsetid("another.project", 1))
    onnx.save(model, str(tmp_path / "model.onnx"))
    with pytest.raises(BuildError, match=rf"cannot parse .*model.onnx:\s+.*{softmax.name}.*SoftmaxOfAnotherProject"):
        built(tmp_path / "model.onnx", precision="fp16", targets=("8.9",))


@pytest.mark.parametrize(
    ("precision", "words"), [("fp16", "matrix multiplication in FP16"), ("int8", "QuantizeLinear")]
)
def test_an_fp32_file_under_another_name_is_not_built(bundle: Bundle, precision: str, words: str) -> None:
    name = f"model.{precision}.onnx"
    shutil.copy(bundle.folder / "model.onnx", bundle.folder / name)
    files = {**bundle.manifest.files, name: FileEntry.of(bundle.folder / name, precision=precision)}
    write_manifest(bundle.folder, replace(bundle.manifest, files=files))
    with pytest.raises(PrecisionError, match=f"{name} has no.*{words}.*float.*export again"):
        build(bundle, "sm89", precision=precision)
    assert not plan_records(open_bundle(bundle.folder))


def test_turing_has_no_fp32_product(files: TinyFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check before the build says what the library would refuse."""
    path = files.paths["fp32"]
    with pytest.raises(TargetError, match=r"no FP32 matrix multiplication on Turing.*leave it out: --for sm89"):
        built(path, precision="fp32", targets=("7.5", "8.9"))
    monkeypatch.setattr("edgefuse_export.tensorrt.rtx_targets.TURING", "none")
    with pytest.raises(BuildError, match="FP32 GEMM is not supported"):
        built(path, precision="fp32", targets=("7.5", "8.9"))


def test_a_padded_plan_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    class Padding(trt.Builder):  # type: ignore[misc, name-defined]
        def build_serialized_network(self, network: Any, config: Any) -> bytes:
            return bytes(super().build_serialized_network(network, config)) + bytes(ALLOWED_OVERHEAD)

    module = SimpleNamespace(**vars(trt))
    module.Builder = Padding
    monkeypatch.setattr(build_module, "load_library", lambda _: replace(load_library(RTX), module=module))
    with pytest.raises(PlanSizeError, match=r"the plan has 3\d\.\d MB, but .*#4841.*another version.*edgefuse live"):
        build(bundle, "sm89")
    assert not plan_records(open_bundle(bundle.folder)) and not list(bundle.folder.glob("engines/*.plan"))


def test_the_largest_plan_is_twice_the_file_and_a_constant() -> None:
    largest = 2 * 10**6 + ALLOWED_OVERHEAD
    check_plan_size(largest, onnx_bytes=10**6, file="model.onnx", title="TensorRT 10.16")
    with pytest.raises(PlanSizeError):
        check_plan_size(largest + 1, onnx_bytes=10**6, file="model.onnx", title="TensorRT 10.16")


def test_a_long_step_logs_a_line_every_few_seconds() -> None:
    assert LINE_EVERY_S < 10
    with logged() as lines, reported(lambda: "building the engine: Timing tactics, 17 %", every_s=0.05):
        time.sleep(0.5)
    num_lines = len(lines)
    assert num_lines >= 3 and all(line.startswith("building the engine: Timing tactics, 17 %, ") for line in lines)
    time.sleep(0.15)
    assert len(lines) == num_lines


def test_the_lines_of_a_build_have_its_phase(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "reported", partial(reported, every_s=0.001))
    with logged() as lines:
        build(bundle, "sm89")
    assert any(line.startswith("building the engine") and " %, " in line for line in lines)


def test_the_command_prints_a_table_and_json(bundle: Bundle) -> None:
    code = "from edgefuse.app.main import main; main()"
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", code, "build", str(bundle.folder), "--engine", "rtx", "--for", "sm86,sm89", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        env=env,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    record = result["engine"]
    assert record["key"]["engine"] == "rtx" and record["num_bytes"] == (bundle.folder / record["name"]).stat().st_size
    rows = dict(line.split(maxsplit=1) for line in done.stderr.splitlines() if " " in line)
    assert rows["library"].startswith("TensorRT-RTX 1.") and rows["targets"] == "sm86, sm89"
    times = round(record["num_bytes"] / (bundle.folder / "model.fp16.onnx").stat().st_size, 2)
    assert f"{times:.2f} times model.fp16.onnx" in rows["size"]
    assert "half 1 matrix_multiply" in rows["parsed"] and rows["note"].startswith("outputs not compared")
    assert rows["next"] == f"on a machine with one of these GPUs: edgefuse live {bundle.folder} --engine rtx"
    refused = subprocess.run(
        [sys.executable, "-c", code, "build", str(bundle.folder), "--for", "sm89"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert refused.returncode == 1 and "is for --engine rtx" in refused.stderr and "Traceback" not in refused.stderr
