"""The engine benchmark on real ONNX Runtime sessions, and with PyTorch on a real run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgefuse.contract import InputContract
from edgefuse.errors import UserError
from edgefuse.measure import ParityError, Plan
from edgefuse_benchmarks.suites.cold_start import measure_cold_start
from edgefuse_benchmarks.suites.engine import bench_engine

PLAN = Plan(warmup_s=0.0, min_warmup_calls=1, measure_s=0.0, min_rounds=6, max_rounds=6)


def make_run(folder: Path, *, seed: int) -> Path:
    """A run with random weights, in the format of training."""
    import torch

    from edgefuse.model.classifier import ModelConfig, build_classifier
    from edgefuse.training.run import write_run, write_samples, write_weights

    config = ModelConfig(contract=InputContract(size=32), num_classes=3, num_features=8, num_hidden=8)
    torch.manual_seed(seed)
    folder.mkdir()
    write_run(folder, labels=("a", "b", "c"), model_config=config, info={})
    write_weights(folder, build_classifier(config))
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
    assert (engine.scope, cold.scope) == ("engine", "cold start")
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
    (group,) = report.groups
    assert [one.name for one in group.series] == ["onnxruntime, 1 thread", "torch, 1 thread"]
    assert group.ratios[0].denominator == "onnxruntime, 1 thread"
    assert report.parity[0]["cases"][0]["max_probability_difference"] < 1e-4
    assert report.notes == ()


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
