"""edgefuse build --precision int8 measures INT8 against FP16, and `auto` follows; with a fake TensorRT and engines that wait."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_scenes import GPU, HostEngine, installed, make_engine_bundle

from edgefuse.bundle import Bundle, FileEntry, open_bundle, write_manifest
from edgefuse.errors import UserError
from edgefuse.measure import Plan
from edgefuse_export.tensorrt import int8_timing
from edgefuse_export.tensorrt.build import BuildSummary, Machine, build_engine
from edgefuse_export.tensorrt.build_options import BuildOptions
from edgefuse_export.tensorrt.commands import summary_json
from edgefuse_export.tensorrt.int8_timing import Int8Timing
from edgefuse_runtime.engines.engine import Decision
from edgefuse_runtime.engines.engine_cache import plan_records, select_plan
from edgefuse_runtime.engines.tensorrt import TensorRTEngine
from edgefuse_runtime.engines.tensorrt_library import load_library
from fake_tensorrt import FakeTensorRT
from host_memory import HostMemory
from logs import logged

FAST_MS, SLOW_MS = 0.0, 4.0


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    monkeypatch.setattr(int8_timing, "PLAN", Plan(warmup_s=0.0, min_warmup_calls=1, measure_s=0.2, min_rounds=10))
    return installed("10.16.1.11", monkeypatch)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """The bundle of the other tests and an INT8 file, whose score is rounded to steps of 1/64."""
    import onnx
    from onnx import helper, numpy_helper

    made = make_engine_bundle(tmp_path / "bundle")
    model = onnx.load(str(made.folder / "model.onnx"))
    graph = model.graph
    constants = {"step": np.array(1 / 64, np.float32), "zero": np.array(0, np.int8)}
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    last = next(node for node in graph.node if node.output[0] == "logits")
    last.input[0] = "rounded"
    at = list(graph.node).index(last)
    graph.node.insert(at, helper.make_node("QuantizeLinear", ["score", "step", "zero"], ["quantised"]))
    graph.node.insert(at + 1, helper.make_node("DequantizeLinear", ["quantised", "step", "zero"], ["rounded"]))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(made.folder / "model.int8.onnx"))
    entry = FileEntry.of(made.folder / "model.int8.onnx", precision="int8")
    manifest = made.manifest
    manifest.files["model.int8.onnx"] = entry  # type: ignore[index]
    write_manifest(made.folder, manifest)
    return open_bundle(made.folder)


def build_int8(fake: FakeTensorRT, bundle: Bundle, *, int8_ms: float, fp16_ms: float, **options: Any) -> BuildSummary:
    """Build INT8; a run of each engine takes the given time longer."""

    class Waiting(HostEngine):
        def __enter__(self) -> HostEngine:
            super().__enter__()
            self._wait_s = (int8_ms if b"QuantizeLinear" in self._engine.onnx_bytes else fp16_ms) / 1e3
            return self

        def run(self, rgb: Any, depth: Any) -> Decision:
            time.sleep(self._wait_s)
            return super().run(rgb, depth)

    def open_plan(path: Path, _extra_outputs: tuple[str, ...]) -> HostEngine:
        return Waiting(fake, path, contract=bundle.manifest.contract, labels=bundle.manifest.labels)

    return build_engine(bundle.folder, BuildOptions(precision="int8", **options), open_plan=open_plan)


def chosen(fake: FakeTensorRT, bundle: Bundle) -> str:
    """The precision that `auto` runs."""
    record = select_plan(
        bundle,
        precision=None,
        tensorrt_version=fake.version,
        compute_capability=GPU.compute_capability,
        device_name=GPU.name,
    )
    return record.key.precision


def test_a_faster_int8_engine_is_kept_and_auto_runs_it(fake: FakeTensorRT, bundle: Bundle) -> None:
    with logged() as lines:
        summary = build_int8(fake, bundle, int8_ms=FAST_MS, fp16_ms=SLOW_MS)
    timing = summary.record.details["int8_timing"]
    assert summary.record.key.precision == "int8" and summary.int8_timing is None
    assert timing["faster"] is True and timing["low"] <= timing["ratio"] <= timing["high"] < 1
    assert timing["fp16_ms"] > SLOW_MS > timing["int8_ms"] and timing["num_rounds"] >= 10
    assert {one.key.precision for one in plan_records(summary.bundle)} == {"fp16", "int8"}  # FP16 was built too
    assert timing["fp16_plan"] in {one.name for one in plan_records(summary.bundle)}
    assert any(f"INT8 takes {timing['ratio']:.2f} times as long as FP16" in line for line in lines)
    assert chosen(fake, summary.bundle) == "int8"


def test_a_slower_int8_engine_is_discarded(fake: FakeTensorRT, bundle: Bundle) -> None:
    with logged() as lines:
        summary = build_int8(fake, bundle, int8_ms=SLOW_MS, fp16_ms=FAST_MS)
    assert summary.int8_timing is not None and summary.int8_timing.low > 1 and summary.built
    assert [one.key.precision for one in plan_records(summary.bundle)] == ["fp16"]
    assert summary.record.key.precision == "fp16" and chosen(fake, summary.bundle) == "fp16"
    (warning,) = [line for line in lines if line.startswith("warning: ")]
    assert "times as long as FP16" in warning and "was discarded" in warning and "--force" in warning
    assert summary_json(summary)["int8_timing"]["faster"] is False  # type: ignore[index]


@pytest.mark.parametrize(("low", "high", "is_faster"), [(0.5, 0.99, True), (0.9, 1.0, False), (0.9, 1.1, False)])
def test_faster_means_by_more_than_the_spread(low: float, high: float, is_faster: bool) -> None:
    timing = Int8Timing(int8_ms=1, fp16_ms=1, ratio=(low + high) / 2, low=low, high=high, num_rounds=10, fp16_plan="")
    assert timing.is_faster is is_faster is timing.to_json()["faster"]


def test_force_keeps_a_slower_int8_engine_which_auto_does_not_run(fake: FakeTensorRT, bundle: Bundle) -> None:
    summary = build_int8(fake, bundle, int8_ms=SLOW_MS, fp16_ms=FAST_MS, force=True)
    assert summary.record.key.precision == "int8" and summary.record.details["int8_timing"]["faster"] is False
    assert chosen(fake, summary.bundle) == "fp16"


def test_a_stored_fp16_engine_is_not_built_again(fake: FakeTensorRT, bundle: Bundle) -> None:
    build_int8(fake, bundle, int8_ms=SLOW_MS, fp16_ms=FAST_MS)
    num_builds = len(fake.builds)
    summary = build_int8(fake, bundle, int8_ms=FAST_MS, fp16_ms=SLOW_MS)
    assert len(fake.builds) == num_builds + 1 and summary.record.key.precision == "int8"
    assert not build_int8(fake, bundle, int8_ms=FAST_MS, fp16_ms=SLOW_MS).built and len(fake.builds) == num_builds + 1


def test_two_engines_of_the_runtime_are_open_at_a_time(fake: FakeTensorRT, bundle: Bundle) -> None:
    def open_plan(path: Path, extra_outputs: tuple[str, ...]) -> TensorRTEngine:
        return TensorRTEngine(
            bundle, plan=path.read_bytes(), extra_outputs=extra_outputs, open_memory=lambda: HostMemory(fake=fake)
        )

    options = BuildOptions(precision="int8", force=True)
    timing = build_engine(bundle.folder, options, open_plan=open_plan).record.details["int8_timing"]
    assert timing["int8_ms"] > 0 and timing["fp16_ms"] > 0


def test_without_an_fp16_file_there_is_nothing_to_measure_against(fake: FakeTensorRT, bundle: Bundle) -> None:
    manifest = bundle.manifest
    del manifest.files["model.fp16.onnx"]  # type: ignore[attr-defined]
    write_manifest(bundle.folder, manifest)
    with pytest.raises(UserError, match=r"no model\.fp16\.onnx.*edgefuse export"):
        build_int8(fake, bundle, int8_ms=FAST_MS, fp16_ms=SLOW_MS)


def test_without_a_gpu_nothing_is_measured_and_the_record_says_so(
    fake: FakeTensorRT, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(library=load_library(), targets=("8.9",), device_name="any", not_run="built without a GPU")
    monkeypatch.setattr("edgefuse_export.tensorrt.build.check_machine", lambda *_, **__: machine)
    summary = build_int8(fake, bundle, int8_ms=FAST_MS, fp16_ms=SLOW_MS)
    assert len(fake.builds) == 1 and summary.record.key.precision == "int8"
    assert "not measured whether INT8 is faster than FP16" in " ".join(summary.record.details["notes"])
    assert "int8_timing" not in summary.record.details and summary.record.preference > 0
