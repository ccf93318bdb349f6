"""edgefuse build with a fake TensorRT: builds that fail, and their messages. No plan is left, and the manifest is unchanged."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from engine_scenes import HostEngine, build, everything_in, host_opener, installed, make_engine_bundle

from edgefuse.bundle import Bundle
from edgefuse.errors import UserError
from edgefuse_export.tensorrt.build import BuildOptions, build_engine
from edgefuse_export.tensorrt.inspect_engine import PrecisionError
from edgefuse_export.tensorrt.plan_from_onnx import BuildError
from edgefuse_export.tensorrt.trial import EngineOutputError
from edgefuse_runtime.engines.engine import Decision
from fake_tensorrt import VERSIONS, FakeTensorRT


@pytest.fixture(params=VERSIONS)
def fake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    return installed(request.param, monkeypatch)


@pytest.fixture
def new_fake(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    return installed("10.16.1.11", monkeypatch)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_engine_bundle(tmp_path / "bundle")


# Failed builds: no plan is left, the manifest is unchanged


def refused(fake: FakeTensorRT, bundle: Bundle, kind: type[UserError], **options: Any) -> str:
    before = everything_in(bundle.folder)
    with pytest.raises(kind) as caught:
        build(fake, bundle, **options)
    after = everything_in(bundle.folder)
    assert {name: after[name] for name in before} == before
    assert not [name for name in set(after) - set(before) if name.endswith((".plan", ".json"))]
    return str(caught.value)


def test_an_fp16_engine_without_a_half_layer_is_refused(fake: FakeTensorRT, bundle: Bundle) -> None:
    fake.faults.no_fp16_layer = True
    message = refused(fake, bundle, PrecisionError)
    assert "no half layer" in message and "float" in message and "--precision fp32" in message


@pytest.mark.parametrize(("off", "words"), [(0.1, "differ by 0.1"), (math.nan, "not finite")])
def test_an_engine_with_other_outputs_is_discarded(
    new_fake: FakeTensorRT, bundle: Bundle, off: float, words: str
) -> None:
    new_fake.faults.answers_off = off
    message = refused(new_fake, bundle, EngineOutputError)
    assert words in message and "stored outputs" in message and "timing-*.cache" in message


def test_an_engine_that_does_not_run_is_refused(new_fake: FakeTensorRT, bundle: Bundle) -> None:
    class Broken(HostEngine):
        def run(self, rgb: Any, depth: Any) -> Decision:
            raise UserError("enqueue failed")

    def open_plan(path: Path, _extra_outputs: tuple[str, ...]) -> HostEngine:
        return Broken(new_fake, path, contract=bundle.manifest.contract, labels=bundle.manifest.labels)

    with pytest.raises(EngineOutputError, match=r"does not run, so it was discarded: enqueue failed"):
        build_engine(bundle.folder, BuildOptions(), open_plan=open_plan)
    assert not list((bundle.folder / "engines").glob("*.plan"))


def test_a_failed_build_reports_the_builders_last_errors(fake: FakeTensorRT, bundle: Bundle) -> None:
    fake.faults.build_returns_none = True
    message = refused(fake, bundle, BuildError)
    assert "Could not find any implementation for node conv" in message and "--workspace-mib 4096" in message
    log = bundle.folder / "engines" / "fp16.failed.log"
    assert str(log) in message and "Could not find any implementation" in log.read_text()


@pytest.mark.parametrize(
    "error",
    [
        "Error Code 1: Cuda Runtime (out of memory)",
        "[virtualMemoryBuffer.cpp::resizePhysical::145] Error Code 2: OutOfMemory (no further information)",
        "Requested amount of GPU memory (4294967296 bytes) could not be allocated.",
    ],
)
def test_lack_of_gpu_memory_is_distinguished_from_a_small_workspace(
    new_fake: FakeTensorRT, bundle: Bundle, error: str
) -> None:
    new_fake.faults.build_returns_none = True
    new_fake.faults.build_error = error
    message = refused(new_fake, bundle, BuildError)
    assert "GPU is out of memory" in message and "--workspace-mib 256" in message and error in message


def test_a_skipped_tactic_is_not_a_lack_of_gpu_memory(new_fake: FakeTensorRT, bundle: Bundle) -> None:
    """TensorRT warns about each and continues; if none is left, more workspace helps."""
    new_fake.faults.build_returns_none = True
    new_fake.faults.build_warning = (
        "Tactic Device request: 300MB Available: 200MB. insufficient memory on requested size"
    )
    message = refused(new_fake, bundle, BuildError)
    assert "--workspace-mib 4096" in message and "GPU is out of memory" not in message


def test_parser_errors_are_named(fake: FakeTensorRT, bundle: Bundle) -> None:
    fake.faults.parser_errors = ("Unsupported operator Odd", "another")
    message = refused(fake, bundle, BuildError)
    assert "node node_3 (Odd): Unsupported operator Odd" in message and "another" in message and ".onnx" in message


def test_a_driver_that_does_not_start_is_named(fake: FakeTensorRT, bundle: Bundle) -> None:
    fake.faults.no_driver = True
    message = refused(fake, bundle, BuildError)
    assert "CUDA initialization failure with error: 35" in message and "nvidia-smi" in message


def test_a_plan_that_does_not_deserialize_is_reported(new_fake: FakeTensorRT, bundle: Bundle) -> None:
    new_fake.faults.deserialize_returns_none = True
    message = refused(new_fake, bundle, PrecisionError)
    assert (
        "does not deserialize the plan" in message and "timing-*.cache" in message and "--optimization-level" in message
    )


def test_lack_of_memory_to_run_the_engine_is_reported(new_fake: FakeTensorRT, bundle: Bundle) -> None:
    new_fake.faults.context_returns_none = True
    assert "not enough GPU memory to run it" in refused(new_fake, bundle, PrecisionError)


def test_a_bundle_without_the_file_or_samples_names_the_export(fake: FakeTensorRT, tmp_path: Path) -> None:
    no_fp16 = make_engine_bundle(tmp_path / "no_fp16", without=("model.fp16.onnx",))
    if fake.version == "10.3.0":  # builds from the FP32 file
        assert build(fake, no_fp16).built
    else:
        message = refused(fake, no_fp16, UserError)
        assert "no model.fp16.onnx" in message and "--precision fp32,fp16 --force" in message
    assert "no model.int8.onnx" in refused(fake, no_fp16, UserError, precision="int8")
    no_samples = make_engine_bundle(tmp_path / "no_samples", without=("samples.npz",))
    assert "no samples.npz" in refused(fake, no_samples, UserError)
    assert fake.builds == [] or fake.version == "10.3.0"


def test_a_changed_model_or_changed_samples_are_refused(new_fake: FakeTensorRT, bundle: Bundle) -> None:
    for name in ("model.fp16.onnx", "samples.npz"):
        path = bundle.folder / name
        good = path.read_bytes()
        path.write_bytes(good + b" ")
        assert "not the file that was exported" in refused(new_fake, bundle, UserError)
        path.write_bytes(good)


def test_an_export_during_the_build_is_noticed(new_fake: FakeTensorRT, bundle: Bundle) -> None:
    inner = host_opener(new_fake, bundle)

    def open_plan(path: Path, _extra_outputs: tuple[str, ...]) -> HostEngine:
        manifest = json.loads((bundle.folder / "manifest.json").read_text())
        manifest["files"]["model.fp16.onnx"]["sha256"] = "0" * 64
        (bundle.folder / "manifest.json").write_text(json.dumps(manifest))
        return inner(path)

    with pytest.raises(UserError, match="exported again while"):
        build_engine(bundle.folder, BuildOptions(), open_plan=open_plan)
    assert not list((bundle.folder / "engines").glob("*.plan"))


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "fp8"},
        {"workspace_mib": 0},
        {"batch_size": 0},
        {"optimization_level": 6},
        {"optimization_level": -1},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="was expected"):
        BuildOptions(**options)
