"""The engine benchmark on real ONNX Runtime sessions, and with PyTorch on a real run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from edgefuse.bundle import open_bundle
from edgefuse.contract import InputContract
from edgefuse.errors import UserError
from edgefuse.measure import ParityError, Plan
from edgefuse_benchmarks.suites.cold_start import measure_cold_start
from edgefuse_benchmarks.suites.engine import bench_engine
from edgefuse_runtime.engines import open_engine

PLAN = Plan(warmup_s=0.0, min_warmup_calls=1, measure_s=0.0, min_rounds=6, max_rounds=6)


def make_run(folder: Path, *, seed: int, weight_scale: float = 1.0) -> Path:
    """A run with random weights, in the format of training. With larger weights, its outputs depend more on its inputs."""
    import torch

    from edgefuse.model.classifier import ModelConfig, build_classifier
    from edgefuse.training.run import write_run, write_samples, write_weights

    config = ModelConfig(contract=InputContract(size=32), num_classes=3, num_features=8, num_hidden=8)
    torch.manual_seed(seed)
    folder.mkdir()
    write_run(folder, labels=("a", "b", "c"), model_config=config, info={})
    model = build_classifier(config)
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(weight_scale)
    write_weights(folder, model)
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    write_samples(folder, rgb=rgb, depth=rng.integers(0, 256, (4, 32, 32, 2), dtype=np.uint8))
    return folder


@pytest.fixture(scope="module")
def run_and_bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    from edgefuse_export.onnx.export import export_run

    root = tmp_path_factory.mktemp("bench_engine")
    run = make_run(root / "run", seed=0)
    return run, export_run(run, root / "bundle").bundle.folder


def test_threads_are_compared_and_the_cold_start_is_separate(bench_bundle: Path, colour_and_range: Path) -> None:
    report = bench_engine(bench_bundle, camera=str(colour_and_range), threads=(1, 2), plan=PLAN, num_starts=2)
    engine, cold = report.groups
    assert (engine.scope, cold.scope, cold.name) == ("engine", "cold start", "onnxruntime, one process each")
    assert [one.name for one in engine.series] == ["onnxruntime, 1 thread", "onnxruntime, 2 threads"]
    assert all(one.turns_ns.shape == (6, 1) and one.first_call_ns for one in engine.series)
    (found,) = engine.ratios
    assert (found.numerator, found.denominator) == ("onnxruntime, 2 threads", "onnxruntime, 1 thread")
    (parity,) = report.parity
    assert parity["cases"][0]["num_samples"] == report.parameters["num_pairs"] == 32
    assert report.parameters["camera"]["path"] == colour_and_range.name
    *stages, whole = cold.series
    assert [len(one.samples_ns) for one in cold.series] == [2] * 4
    assert np.all(sum(one.samples_ns for one in stages) < whole.samples_ns)
    assert any("no comparison with the PyTorch model" in note for note in report.notes)


def test_torch_is_measured_with_the_bundle_of_the_run(
    run_and_bundle: tuple[Path, Path], colour_and_range: Path
) -> None:
    run, bundle = run_and_bundle
    report = bench_engine(bundle, camera=str(colour_and_range), threads=(1,), run_folder=run, plan=PLAN, num_starts=0)
    group, raw, core = report.groups
    assert core.scope == "core" and core.name.startswith("of this bundle: ")
    assert core.series[0].name == "fusion core, onnxruntime"
    assert core.ratios[0].denominator == "onnxruntime, 1 thread" and 0 < core.ratios[0].median < 1
    names = [one.name for one in group.series]
    assert names[0] == "onnxruntime, 1 thread" and names[-1] == "torch, 1 thread"
    assert {one.denominator for one in group.ratios} == {"onnxruntime, 1 thread"}
    against_torch = next(one for one in report.parity if one["candidate"] == "torch, 1 thread")
    assert against_torch["cases"][0]["max_probability_difference"] < 1e-4
    assert raw.scope == "raw frame" and [one.name for one in raw.series] == ["usual loop", *names[:-1]]
    (usual,) = (one for one in report.parity if one["candidate"] == "usual loop")
    assert usual["together"]["max_probability_difference"] < 1e-4


def test_openvino_is_measured_and_its_times_decide_what_auto_runs(
    run_and_bundle: tuple[Path, Path], colour_and_range: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "bundle"
    shutil.copytree(run_and_bundle[1], folder)
    report = bench_engine(folder, camera=str(colour_and_range), threads=(2,), plan=PLAN, num_starts=1, remember=True)
    p50_ms = {one.name: one.summary().p50_ns / 1e6 for one in report.groups[0].series}
    assert {"onnxruntime, 2 threads", "openvino fp32, 2 threads"} <= set(p50_ms)
    assert report.parameters["engines"]["openvino fp32, 2 threads"]["parity"]["failures"] == []
    of_cold = [group for group in report.groups if group.scope == "cold start"]
    assert [group.name.partition(",")[0] for group in of_cold] == ["onnxruntime", "openvino fp32"]
    assert all(one.summary().p50_ns > 0 for one in of_cold[1].series)
    assert any("openvino:int8 was not measured: " in note and "model.int8.onnx" in note for note in report.notes)
    with open_engine(open_bundle(folder), num_threads=2) as engine:
        reason = engine.description["reason"]
    assert (
        reason.startswith("measured here on 20") and f"ONNX Runtime {p50_ms['onnxruntime, 2 threads']:.2f} ms" in reason
    )


def test_the_run_of_another_model_is_not_measured(
    run_and_bundle: tuple[Path, Path], colour_and_range: Path, tmp_path: Path
) -> None:
    other = make_run(tmp_path / "other", seed=1)
    with pytest.raises(ParityError, match="torch, 1 thread against onnxruntime, 1 thread, real samples"):
        bench_engine(
            run_and_bundle[1], camera=str(colour_and_range), threads=(1,), run_folder=other, plan=PLAN, num_starts=0
        )


def test_a_single_variant_is_noted(bench_bundle: Path, colour_and_range: Path) -> None:
    report = bench_engine(bench_bundle, camera=str(colour_and_range), threads=(1,), plan=PLAN, num_starts=0)
    assert report.groups[0].ratios == ()
    assert any("only one variant" in note for note in report.notes)


def test_a_bundle_that_does_not_start_is_an_error_with_its_reason(tmp_path: Path) -> None:
    pair = np.zeros((1, 32, 32, 3), np.uint8), np.zeros((1, 32, 32, 2), np.uint8)
    with pytest.raises(UserError, match=r"separate process.*is not a bundle"):
        measure_cold_start(tmp_path / "nothing", *pair, num_starts=1)
