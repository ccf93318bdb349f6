"""edgefuse build with a fake TensorRT: what is built and stored. The tests show nothing about TensorRT itself."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_scenes import GPU, HostEngine, build, host_opener, installed, make_engine_bundle

from edgefuse.bundle import Bundle, open_bundle
from edgefuse_export.tensorrt.build import BuildOptions, BuildSummary, build_engine
from edgefuse_export.tensorrt.build_log import Journal
from edgefuse_export.tensorrt.plan_from_onnx import PREFERRED_NOTE, BuildError, new_logger, plan_from_onnx, typing_for
from edgefuse_export.tensorrt.trial import EngineOutputError
from edgefuse_runtime.engines.engine import Decision
from edgefuse_runtime.engines.engine_cache import plan_records, read_plan, select_plan
from edgefuse_runtime.engines.tensorrt_library import RTX, TENSORRT, Library, Product, load_library
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


# What is built


def test_a_build_stores_an_engine_whose_outputs_were_compared(fake: FakeTensorRT, bundle: Bundle) -> None:
    summary = build(fake, bundle, workspace_mib=256, optimization_level=2)
    (record,) = plan_records(summary.bundle)
    assert summary.built and record == summary.record and summary.reason == "the bundle has no fp16 engine yet"
    manifest = json.loads((bundle.folder / "manifest.json").read_text())
    assert manifest["files"][record.name] == {
        "sha256": record.plan_sha256,
        "num_bytes": record.num_bytes,
        "precision": "fp16",
    }
    assert record.details["layers"]["half"] >= 1
    cases = {case["name"]: case for case in manifest["parity"][record.name]["cases"]}
    assert cases["stored outputs"]["num_samples"] == cases["real samples"]["num_samples"] == 4
    assert "both sensors missing" in cases and cases["stored outputs"]["max_probability_difference"] < 0.02
    assert record.details["versions"]["tensorrt"] == fake.version
    beside = json.loads((bundle.folder / record.name).with_suffix(".json").read_text())
    assert beside == json.loads(json.dumps(record.to_json()))
    assert "Engine generation completed" in (bundle.folder / record.name).with_suffix(".log").read_text()
    (asked,) = fake.builds
    assert asked["optimization_level"] == 2 and asked["pools"]["WORKSPACE"] == 256 << 20
    assert asked["profiling_verbosity"] == "DETAILED" and "TF32" not in asked["flags"]
    (profile,) = asked["profiles"]
    assert [list(map(tuple, profile[name])) for name in ("rgb", "depth")] == [
        [(1, 32, 32, 3)] * 3,
        [(1, 32, 32, 2)] * 3,
    ]
    assert not list((bundle.folder / "engines").glob(".candidate*"))


def test_the_runner_finds_what_was_built(new_fake: FakeTensorRT, bundle: Bundle) -> None:
    built = build(new_fake, bundle)
    record = select_plan(
        built.bundle,
        precision="fp16",
        tensorrt_version=new_fake.version,
        compute_capability=GPU.compute_capability,
        device_name=GPU.name,
    )
    logger = new_fake.module.ILogger()
    engine = new_fake.module.Runtime(logger).deserialize_cuda_engine(read_plan(built.bundle, record))
    assert engine is not None and record.batch_size == 1


def test_networks_are_strongly_typed_from_10_12_on(fake: FakeTensorRT, bundle: Bundle) -> None:
    messages: list[str] = []
    record = build(fake, bundle, messages=messages).record
    (asked,) = fake.builds
    old = fake.version == "10.3.0"
    assert asked["strongly_typed"] is not old and ("FP16" in asked["flags"]) is old
    assert record.onnx_file == ("model.onnx" if old else "model.fp16.onnx")
    assert asked["onnx_sha256"] == bundle.manifest.files[record.onnx_file].sha256 == record.key.onnx_sha256
    notes = record.details["notes"]
    assert bool(notes) is old and [f"note: {note}" for note in notes] == [text for text in messages if "note" in text]
    if old:
        assert "older than 10.12" in notes[0] and "BuilderFlag.FP16" in notes[0] and "model.onnx" in notes[0]
        assert "OBEY_PRECISION_CONSTRAINTS" in asked["flags"]
        assert record.key.builder_options["network"] == "weakly typed, BuilderFlag FP16"
    # The layers before the first one with weights decode the inputs (two Casts, two means), and 8 is the softmax.
    assert asked["held_in_float"] == ([0, 1, 2, 3, 8] if old else [])


def test_only_decoding_its_constants_and_softmax_stay_in_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph is like that of an exported model: constants as nodes, a mask that is used again after the first layer with weights."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def constant(name: str, value: Any) -> Any:
        return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value, np.float32)))

    nodes = [
        constant("unit", 0.001),
        helper.make_node("Cast", ["depth"], ["codes"], to=TensorProto.FLOAT),
        constant("zero", 0.0),
        helper.make_node("Greater", ["codes", "zero"], ["measured"]),
        helper.make_node("Cast", ["measured"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["codes", "unit"], ["metres"]),
        constant("weights", np.eye(2)),
        helper.make_node("MatMul", ["metres", "weights"], ["features"]),
        helper.make_node("Mul", ["features", "mask"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["answer"]),
    ]
    in_fp32 = [0, 1, 2, 4, 5, 9]  # 3 outputs booleans; 6 to 8 belong to the model
    graph = helper.make_graph(
        nodes,
        "decoding",
        [helper.make_tensor_value_info("depth", TensorProto.UINT8, [1, 4, 4, 2])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [1, 4, 4, 2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(tmp_path / "decoding.onnx"))
    fake = installed("10.3.0", monkeypatch)
    library = load_library()
    with Journal(tmp_path / "log") as journal:
        plan_from_onnx(
            tmp_path / "decoding.onnx",
            library=library,
            typing=typing_for(library=library, precision="fp16"),
            precision="fp16",
            shapes={"depth": (1, 4, 4, 2)},
            workspace_mib=1,
            optimization_level=0,
            timing_cache=tmp_path / "timing.cache",
            journal=journal,
            logger=new_logger(library, journal),
        )
    assert fake.builds[0]["held_in_float"] == in_fp32


@pytest.mark.parametrize(
    ("product", "version", "strong"),
    [
        *((TENSORRT, "10.3.0", False), (TENSORRT, "10.11.9", False), (TENSORRT, "10.12.0", True)),
        *((TENSORRT, "11.0", True), (RTX, "1.7.1.116", True)),
    ],
)
def test_which_versions_count_as_old(product: Product, version: str, strong: bool) -> None:
    library = Library(product=product, module=None, version=version)
    assert typing_for(library=library, precision="fp16").strongly_typed is strong
    assert typing_for(library=library, precision="int8").flag == (None if strong else "INT8")
    assert typing_for(library=library, precision="fp32").note == ""


def test_fp32_is_built_from_the_fp32_file(fake: FakeTensorRT, bundle: Bundle) -> None:
    record = build(fake, bundle, precision="fp32").record
    assert record.onnx_file == "model.onnx" and record.key.precision == "fp32"
    assert "half" not in record.details["layers"] and "FP16" not in fake.builds[0]["flags"]


def test_a_dynamic_batch_gets_a_static_profile(new_fake: FakeTensorRT, tmp_path: Path) -> None:
    bundle = make_engine_bundle(tmp_path / "dynamic", batch="N")
    engines: list[HostEngine] = []

    def open_plan(path: Path, _extra_outputs: tuple[str, ...]) -> HostEngine:
        engines.append(host_opener(new_fake, bundle)(path))
        return engines[-1]

    record = build_engine(bundle.folder, BuildOptions(batch_size=3), open_plan=open_plan).record
    assert new_fake.builds[0]["profiles"][0]["rgb"] == ((3, 32, 32, 3),) * 3 and record.batch_size == 3
    assert {shape[0] for shape in engines[0].seen_batches} == {3}


def test_every_position_of_a_batch_is_compared(new_fake: FakeTensorRT, tmp_path: Path) -> None:
    bundle = make_engine_bundle(tmp_path / "dynamic", batch="N")

    class FirstPlaceOnly(HostEngine):
        def run(self, rgb: Any, depth: Any) -> Decision:
            decision = super().run(rgb, depth)
            decision.probabilities[1:] = 0.5
            return decision

    def open_plan(path: Path, _extra_outputs: tuple[str, ...]) -> HostEngine:
        return FirstPlaceOnly(new_fake, path, contract=bundle.manifest.contract, labels=bundle.manifest.labels)

    with pytest.raises(EngineOutputError):
        build_engine(bundle.folder, BuildOptions(batch_size=2), open_plan=open_plan)


def test_a_fixed_batch_is_not_changed(new_fake: FakeTensorRT, bundle: Bundle) -> None:
    with pytest.raises(BuildError, match=r"rgb is \[1, 32, 32, 3\], but \[4, 32, 32, 3\].*--batch 1"):
        build(new_fake, bundle, batch_size=4)


# TensorRT 10.3, without a kernel that keeps FP32


def test_without_an_fp32_kernel_fp32_is_preferred_logged_and_recorded(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, messages = installed("10.3.0", monkeypatch), list[str]()
    fake.faults.no_kernel_obeys = True
    record = build(fake, bundle, messages=messages).record
    first, second = ({flag for flag in asked["flags"] if "CONSTRAINTS" in flag} for asked in fake.builds)
    assert (first, second) == ({"OBEY_PRECISION_CONSTRAINTS"}, {"PREFER_PRECISION_CONSTRAINTS"})
    assert messages[-1] == f"note: {PREFERRED_NOTE}" and list(record.details["notes"])[1:] == [PREFERRED_NOTE]
    log = (bundle.folder / record.name).with_suffix(".log").read_text()
    assert "Could not find any implementation" in log and PREFERRED_NOTE in log
    assert not build(fake, bundle).built and len(fake.builds) == 2


@pytest.mark.parametrize(
    ("version", "precision", "error"),
    [
        ("10.3.0", "fp16", "Error Code 2: OutOfMemory"),
        ("10.3.0", "fp16", "Could not find any implementation for node conv due to insufficient workspace."),
        ("10.3.0", "fp32", "Could not find any implementation for node conv."),
        ("10.16.1.11", "fp16", "Could not find any implementation for node conv."),
    ],
)
def test_other_failures_are_not_tried_twice(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, version: str, precision: str, error: str
) -> None:
    fake = installed(version, monkeypatch)
    fake.faults.build_returns_none, fake.faults.build_error = True, error
    with pytest.raises(BuildError):
        build(fake, bundle, precision=precision)
    assert len(fake.builds) == 1


def test_a_second_attempt_that_fails_is_the_end(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = installed("10.3.0", monkeypatch)
    fake.faults.build_returns_none = True
    with pytest.raises(BuildError, match="--workspace-mib 4096"):
        build(fake, bundle)
    assert len(fake.builds) == 2 and not list((bundle.folder / "engines").glob("*.plan"))


# While it builds


def test_progress_rises_to_the_end(new_fake: FakeTensorRT, bundle: Bundle) -> None:
    seen: list[tuple[int, int | None]] = []
    build_engine(
        bundle.folder,
        BuildOptions(),
        open_plan=host_opener(new_fake, bundle),
        progress=lambda done, total, **_: seen.append((done, total)),
    )
    percents = [done for done, _ in seen]
    assert percents == sorted(percents) and percents[-1] == 100 and len(set(percents)) >= 4
    assert {total for _, total in seen} == {100}


def test_a_display_that_fails_does_not_end_the_build(new_fake: FakeTensorRT, bundle: Bundle) -> None:
    def broken(done: int, _total: int | None, /, *, stage: str = "") -> None:
        if done < 100:
            raise RuntimeError("no terminal")

    summary = build_engine(bundle.folder, BuildOptions(), open_plan=host_opener(new_fake, bundle), progress=broken)
    assert summary.built


def test_ctrl_c_ends_the_build_at_its_next_step(new_fake: FakeTensorRT, bundle: Bundle) -> None:
    def interrupt(_done: int, _total: int | None, /, *, stage: str = "") -> None:
        os.kill(os.getpid(), signal.SIGINT)

    found = signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever a test before has left
    try:
        with pytest.raises(KeyboardInterrupt):
            build_engine(bundle.folder, BuildOptions(), open_plan=host_opener(new_fake, bundle), progress=interrupt)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, found)
    # TensorRT stopped by itself: no exception passed through its frames.
    assert "Build was cancelled" in (bundle.folder / "engines" / "fp16.failed.log").read_text()
    assert not list((bundle.folder / "engines").glob("*.plan")) and plan_records(open_bundle(bundle.folder)) == ()


def test_a_build_in_a_thread_works(new_fake: FakeTensorRT, bundle: Bundle) -> None:
    done: list[BuildSummary] = []
    thread = threading.Thread(target=lambda: done.append(build(new_fake, bundle)))
    thread.start()
    thread.join(timeout=60)
    assert done and done[0].built


def test_leftovers_of_a_killed_build_are_removed(new_fake: FakeTensorRT, bundle: Bundle) -> None:
    left = bundle.folder / "engines" / ".candidate-old"
    left.mkdir(parents=True)
    (left / "candidate.plan").write_bytes(np.zeros(3, np.uint8).tobytes())
    assert build(new_fake, bundle).built and not left.exists()
